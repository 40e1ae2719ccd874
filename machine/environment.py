"""The machine, the versions and the commit that figures were taken with."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from machine.installation import installed
from machine.processor import cpu_model, isa
from machine.timing import device_name
from machine.waiting import way_of_waiting

# The packages that figures depend on.
VERSIONS = (
    *("torch", "torchvision", "torchao", "numpy", "scikit-learn"),
    *("onnxruntime", "openvino"),
)


def environment(device: torch.device) -> dict[str, Any]:
    """The machine and versions that figures were taken with."""
    return {
        **{name: installed(name) for name in VERSIONS},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(device),
        "cpu": cpu_model(),
        "isa": isa(),
        "threads": torch.get_num_threads(),
        "waiting": way_of_waiting(),
        "load": round(os.getloadavg()[0], 2),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
    }


@functools.cache
def git_commit() -> str | None:
    """The commit of this checkout, with '-dirty' where files differ; None outside of git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        here = Path(__file__).parents[1]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
