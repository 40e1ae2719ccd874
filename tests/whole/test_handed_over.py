"""Opening a folder that somebody handed over runs nothing of theirs.

A library that leaves a mark when it is loaded lies wherever compiled code could be looked for,
under the names that this machine's own has.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import main
from engines import inductor
from engines.program import EngineError
from engines.programs import programs
from experiment.running.checkpoint import load_checkpoint
from machine import cache
from networks import fused_norm
from stages.state import build
from tests.support.compiler import needs_compiler
from tests.support.processes import in_new_process
from tests.support.suites import Ran

MARK = "somebody_elses_code_ran"
MARKING = f"""
#include <cstdio>
__attribute__((constructor)) static void mark() {{
  if (FILE *file = std::fopen("{MARK}", "w")) std::fclose(file);
}}
"""


@pytest.fixture
def planted(ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a suite's folder with such libraries in all its folders."""
    source, library = tmp_path / "mark.cpp", tmp_path / "mark.so"
    source.write_text(MARKING)
    subprocess.run(["g++", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    monkeypatch.chdir(tmp_path)
    ctypes.CDLL(str(library))
    (tmp_path / MARK).unlink()  # it does leave a mark
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "named"))
    fused_norm.library.__wrapped__()
    (kernel,) = (tmp_path / "named").glob("*.so")
    state = load_checkpoint(ran.checkpoint("PFQat"))
    package = inductor.key(programs(build(state), state.quant)[0], 1, 1)
    handed = tmp_path / "handed"
    shutil.copytree(ran.folder, handed)
    suite = handed / "suite.py"
    suite.write_text(suite.read_text().replace(str(ran.folder), str(handed)))
    folders = [handed, *(path for path in handed.rglob("*") if path.is_dir())]
    below = ("", "compiled", "packages", "store", "inductor", ".cache", cache.APPLICATION)
    for folder in {path / name for path in folders for name in below}:
        folder.mkdir(exist_ok=True)
        for name in (kernel.name, f"{package}.pt2", f"{package}.so"):
            shutil.copy(library, folder / name)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(handed / "zero.png")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "own"))
    return handed


def _open(handed: Path, checkpoint: str) -> None:
    os.chdir(handed)
    assert main.main(["predict", checkpoint, "zero.png", "--config", "suite.py"]) == 0
    assert main.main(["store", "verify", "--config", "suite.py"]) == 0
    assert fused_norm.library() is not None

    def compile_package(*about: Any) -> None:
        raise EngineError("compiles")

    inductor.compile_package = compile_package
    state = load_checkpoint(Path(checkpoint))
    with pytest.raises(EngineError, match="compiles"):
        inductor.ready(programs(build(state), state.quant)[0], 1, 1)


@needs_compiler
def test_planted_code_is_never_loaded(planted: Path, ran: Ran) -> None:
    checkpoint = Path(ran.checkpoint("PFQat")).relative_to(ran.folder)
    in_new_process(_open, planted, str(checkpoint))
    assert not list(planted.parent.rglob(MARK))
