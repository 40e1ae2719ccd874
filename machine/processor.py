"""This machine's processor, what that is fast at, and the folder for what was made for it."""

from __future__ import annotations

import functools
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ISA_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


@functools.cache
def cpuinfo() -> str:
    """Linux's description of the processor; empty elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def cpu_model() -> str:
    found = re.search(r"^model name\s*: (.*)$", cpuinfo(), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def processor() -> str:
    """The instruction sets of the processor, by which -march=native chooses its code."""
    found = re.search(r"^(?:flags|Features)\s*: (.*)$", cpuinfo(), re.MULTILINE)
    return found[1].strip() if found else platform.processor()


def isa() -> list[str]:
    """Those of ISA_FLAGS that the processor has."""
    flags = processor().split()
    return [flag for flag in ISA_FLAGS if flag in flags]


def bf16_is_fast(device: torch.device | str) -> bool:
    """Whether the device multiplies bfloat16 in hardware (AMX or AVX512-BF16 on x86)."""
    import torch  # `doctor` reads this file where torch may be what is broken

    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.backends.cpu.get_cpu_capability()
    return "AVX512" in capabilities and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )


def has_vnni() -> bool:
    """Whether an x86 processor adds int8 products in 32 bits."""
    return bool({"avx512_vnni", "avx_vnni"} & set(isa()))


def int8_saturates() -> bool:
    """Whether sums of two int8 products are cut off at 16 bits: on x86 without VNNI, not on ARM."""
    return platform.machine() in ("x86_64", "AMD64") and not has_vnni()


def build_cache() -> Path:
    """The folder of what was made for this machine: TORCH_EXTENSIONS_DIR, or one in ~/.cache."""
    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(named) if named else Path.home() / ".cache" / "torch_extensions"


def one_of_several() -> bool:
    """Whether torchrun has started this process beside others."""
    wanted = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(name in os.environ for name in wanted) and os.environ["WORLD_SIZE"] != "1"
