"""Memory of a network in a process of its own: what it needs is counted, the parent's is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import ENGINES, footprint, peak_memory
from engines.programs import programs
from model import build_network, resolved_args
from tests.support.tiny import tiny
from tests.support.user_nets import user_file

LEAN = ("onnxruntime", "openvino")  # in whose process there is no torch


def test_every_engine_can_be_measured() -> None:
    assert set(ENGINES) == set(footprint.FILES) == set(peak_memory.RUNTIMES)


SLOW = pytest.param("inductor", marks=pytest.mark.slow)  # compiles


@pytest.mark.parametrize("engine", [*LEAN, "eager", SLOW])
def test_what_a_network_takes_is_counted(engine: str) -> None:
    made = programs(tiny())
    one = footprint.footprint(made, engine, 1, 1)
    assert one.unknown is None and one.peak_mb is not None and one.runtime_mb is not None
    assert 10 < one.runtime_mb < one.peak_mb
    assert one.peak_mb < 200 if engine in LEAN else one.peak_mb > 200
    many = footprint.footprint(made, engine, 8192, 1)
    # 8192 grey images of 8×8 and what the first convolution makes of them, 8 such maps of each
    pixels = 8192 * 8 * 8 * 4 * (1 + 8) / 1e6
    assert many.peak_mb is not None and many.peak_mb > one.peak_mb + 0.9 * pixels


def test_a_users_network_is_measured_though_its_class_cannot_be_imported(tmp_path: Path) -> None:
    args = {"architecture": f"{user_file(tmp_path)}:TinyNet", "image_size": 8}
    made = programs(build_network(resolved_args(args)).eval())
    found = footprint.footprint(made, "eager", 1, 1)
    assert found.unknown is None and found.peak_mb is not None and found.peak_mb > 200


def test_memory_of_the_process_that_asks_is_not_counted() -> None:
    """Though Linux hands ru_maxrss on to what a process starts."""
    made = programs(tiny())
    before = footprint.footprint(made, "onnxruntime", 4, 1)
    ballast = np.ones(50_000_000)  # 400 MB
    after = footprint.footprint(made, "onnxruntime", 4, 1)
    assert ballast.sum() == len(ballast)
    assert after.peak_mb == pytest.approx(before.peak_mb, abs=10)


@pytest.mark.parametrize("engine", LEAN)
def test_parts_between_exits_are_made_one_beside_the_other(engine: str) -> None:
    made = programs(tiny(num_layers=2, exits=["layer_0"]))
    assert len(made) == 2
    found = footprint.footprint(made, engine, 4, 1)
    assert found.unknown is None and found.peak_mb is not None


def test_reasons(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = programs(tiny())

    def reason(script: str, **more: Any) -> str | None:
        (tmp_path / "script.py").write_text(script)
        with monkeypatch.context() as patch:
            patch.setattr(peak_memory, "__file__", str(tmp_path / "script.py"))
            found = footprint.footprint(made, "eager", 1, 1, **more)
        assert found.peak_mb is None and found.runtime_mb is None
        return found.unknown

    assert reason("import time; time.sleep(60)", seconds=0.5) == (
        "the process that measures took over 0.5 s"
    )
    assert reason("raise MemoryError('no room')") == (
        "the process that measures ended with 1: MemoryError: no room"
    )
    assert reason("import os; os.kill(os.getpid(), 9)") == (
        "the process that measures ended with -9: it said nothing"
    )


def test_the_script_needs_none_of_what_lies_beside_it(tmp_path: Path) -> None:
    """Files there are called as the runtimes are, and would be imported in their place."""
    code = f"import runpy, sys; sys.argv = ['x', '{{}}']; runpy.run_path({peak_memory.__file__!r})"
    loaded = f"{code}; print(sorted(name for name in sys.modules if 'torch' in name))"
    done = subprocess.run(
        [sys.executable, "-c", loaded], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr
