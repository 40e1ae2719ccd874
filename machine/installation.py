"""Whether the packages that the project imports are there, fit together and load.

Needs nothing but the standard library, so that it still runs where torch does not.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from machine.errors import Refused

HOME = Path(__file__).parent.parent
OLDEST_PYTHON = (3, 10)
MODULES = {"scikit-learn": "sklearn", "pillow": "PIL"}  # packages imported by another name
ON_TORCH = ("torchvision", "torchao")  # packages that import torch, and fail where it does
INSTALL = "pip install -r requirements.txt"


class Diagnosis(NamedTuple):
    """One thing looked at: 'ok', 'note' (works, but see), or 'bad' (must be mended)."""

    mark: str
    subject: str
    text: str
    remedy: str = ""


def requirements() -> dict[str, str]:
    """Distribution → range of versions, e.g. '>=2.11,<2.16', as requirements.txt says."""
    lines = (HOME / "requirements.txt").read_text().splitlines()
    found = (re.match(r"([A-Za-z0-9_.-]+)\s*([<>=!~].*)?$", line.strip()) for line in lines)
    return {match[1]: match[2] or "" for match in found if match}


def python() -> Diagnosis:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return Diagnosis("bad", "Python", version, f"install Python {oldest} or newer")
    return Diagnosis("ok", "Python", f"{version} ({sys.executable})")


def packages() -> list[Diagnosis]:
    """A finding for each package of requirements.txt, every one imported in its own process."""
    ranges = requirements()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        errors = dict(zip(ranges, pool.map(import_error, ranges), strict=True))
    found = []
    for name, allowed in ranges.items():
        version, error = installed(name), errors[name]
        if error and name in ON_TORCH and errors.get("torch"):
            found.append(Diagnosis("note", name, f"{version or 'none'}: not tried without torch"))
        elif error:
            found.append(Diagnosis("bad", name, *explain(name, error)))
        elif version and not _within(version, allowed):
            text = f"{version} is outside of {allowed}, which this project is made for"
            found.append(Diagnosis("note", name, text, INSTALL))
        else:
            found.append(Diagnosis("ok", name, version or "unknown version"))
    return found


def installed(name: str) -> str | None:
    """The version of a distribution; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def import_error(name: str) -> str:
    """What goes wrong when a distribution's module is imported; empty where nothing does."""
    command = [sys.executable, "-W", "ignore", "-c", f"import {MODULES.get(name, name)}"]
    try:
        done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return "the import did not end in 5 minutes"
    if done.returncode < 0:
        return f"killed by {signal.Signals(-done.returncode).name}"
    lines = done.stderr.strip().splitlines()
    return (lines[-1] if lines else "unknown error") if done.returncode else ""


def explain(name: str, error: str) -> tuple[str, str]:
    """Cause and remedy of a failed import."""
    version = installed(name)
    module = MODULES.get(name, name)
    if version is None and "ModuleNotFoundError" in error and f"'{module}'" in error:
        return "is not installed", INSTALL
    both = f"{version}: {error}"
    if name == "torchvision" and re.search(
        r"torchvision::|undefined symbol|has no attribute 'extension'|image\.so|_C\.so", error
    ):
        return (
            f"{both}; its compiled part does not fit torch {installed('torch')}{_asked()}: the two "
            "are not a pair, or come from different places (one for the CPU, one for CUDA)",
            f"install both in one go, from one place: pip install --force-reinstall {_pair()} "
            "(README, 'Two commands', says from where)",
        )
    if error.startswith("killed by"):
        return (
            f"{both}; it is built for another processor, or memory ran out",
            f"pip install --force-reinstall {name}",
        )
    if re.search(r"lib(cu|nv|nccl)\w*\.so", error):
        return (
            f"{both}; this CUDA build lacks one of its libraries",
            f"pip install --force-reinstall {_pair()}",
        )
    if re.search(r"numpy\.(dtype size|core|_core)|_ARRAY_API|compiled using NumPy", error):
        return (
            f"{both}; it is built for another numpy than {installed('numpy')}",
            f"{INSTALL} --force-reinstall",
        )
    return both, f"pip install --force-reinstall {name}"


@contextmanager
def starting() -> Iterator[None]:
    """Inside, packages are imported; whatever a broken one raises is Refused, with the remedy.

    What a process imports lives as long as it does, so the garbage collector does not look at it:
    walking over torch's objects again and again took a tenth of the time of a stored run.
    """
    paused = "torch" not in sys.modules and gc.isenabled()  # a notebook's objects are not ours
    if paused:
        gc.disable()
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        raise Refused(cannot_start(error)) from error
    finally:
        if paused:
            gc.freeze()
            gc.enable()


def cannot_start(error: Exception) -> str:
    """What to say where an import of the project itself fails: a line with place and remedy."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {str(error) or 'no reason given'}".splitlines()[0]
    ours = HOME in Path(last.filename).parents and "site-packages" not in last.filename
    if ours and not isinstance(error, ImportError):
        return f"{Path(last.filename).relative_to(HOME)}:{last.lineno}: {text}"
    return f"cannot start: {text}; to find the remedy: python main.py doctor"


def _asked() -> str:
    """What the installed torchvision says of the torch that it wants."""
    lines = metadata.requires("torchvision") or []
    wanted = [line for line in lines if re.match(r"torch\b", line)]
    return f" (it asks for {wanted[0]})" if wanted else ""


def _pair() -> str:
    ranges = requirements()
    return " ".join(f"'{name}{ranges[name]}'" for name in ("torch", "torchvision"))


def _within(version: str, allowed: str) -> bool:
    """Whether a version is in a range of >= and < bounds."""
    ours = _numbers(version)
    for bound in filter(None, allowed.split(",")):
        limit = _numbers(bound)
        if (ours < limit) if bound.startswith(">=") else (ours >= limit):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])))
