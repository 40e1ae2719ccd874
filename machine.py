"""This machine: its processor, what that is fast at, and the folder for what was made for it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def processor() -> str:
    """What -march=native looks at."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def bf16_is_fast(device: torch.device | str) -> bool:
    """Whether the device multiplies bfloat16 in hardware (AMX or AVX512-BF16 on x86)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.backends.cpu.get_cpu_capability()
    return "AVX512" in capabilities and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )


def kept_folder() -> Path:
    """Where torch keeps extensions: TORCH_EXTENSIONS_DIR, or a folder in the user's cache."""
    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(named) if named else Path.home() / ".cache" / "torch_extensions"
