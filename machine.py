"""This machine's processor, and the folder for what was made for it or measured on it."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def processor() -> str:
    """What -march=native looks at."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def kept_folder() -> Path:
    """Where torch keeps extensions: TORCH_EXTENSIONS_DIR, or a folder in the user's cache."""
    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(named) if named else Path.home() / ".cache" / "torch_extensions"
