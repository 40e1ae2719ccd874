"""Every engine after every order of stages: saved, loaded in a new process, the same logits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engines import ENGINES
from experiment.running.checkpoint import load_checkpoint
from experiment.running.store import Store
from model import every_logits
from stages import STAGES
from stages.deployment import Deployed, calibrated, deploy
from stages.early_exit import EarlyExitSpec
from stages.stage import Context
from stages.state import state_of
from tests.support.chains import FAST, specs
from tests.support.int8 import off
from tests.support.processes import forkserver
from tests.support.tiny import tiny

BATCH = 4
COMPILING = [name for name, engine in ENGINES.items() if engine.COMPILES]
EXITS = EarlyExitSpec(thresholds=0.15, **FAST)  # of ten classes: some leave, some do not


def cases() -> list[Any]:
    """Every order of up to three kinds of stages; what takes minutes is slow."""
    found = []
    for quantize in ("ptq", "qat"):
        kinds = ["prune", "finetune", "distill", "early_exit", quantize]
        for length in (1, 2, 3):
            for order in itertools.permutations(kinds, length):
                marks = [pytest.mark.slow] if length == 3 else []
                found.append(pytest.param(order, marks=marks, id="-".join(order)))
    return list({case.id: case for case in found}.values())


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Any]:
    """A new process."""
    with forkserver().Pool(1) as pool:
        yield pool


def logits(parts: Sequence[nn.Module], images: torch.Tensor) -> torch.Tensor:
    """At every exit and the end, `[E + 1, B, K]`: never left early, where rounding would decide."""
    with torch.inference_mode():
        return every_logits(parts, images) if len(parts) > 1 else parts[0](images)[None]


def by(engine: str, deployed: Deployed, images: torch.Tensor) -> torch.Tensor:
    return logits(deployed.on({BATCH: engine}, threads=1).parts, images)


def in_new_process(path: Path, engine: str, images: np.ndarray) -> np.ndarray:
    torch.set_num_threads(1)
    return by(engine, deploy(load_checkpoint(path)), torch.from_numpy(images)).numpy()


def agree(order: tuple[str, ...], engines: list[str], ctx: Context, folder: Path, pool: Any) -> int:
    """Run the stages, then every engine here and elsewhere; how many did."""
    state = ctx.teacher = state_of(tiny(num_layers=1))
    kinds = {**specs("pt2e"), "early_exit": EXITS}
    for name in order:
        deployed = calibrated(STAGES[name].run(state, kinds[name], ctx), ctx)
        state = deployed.state
    store = Store(folder)
    store.put("k", state, {"metrics": {}})
    images = torch.randn(BATCH, 1, 8, 8)
    expected = logits([program.graph for program in deployed.programs], images)
    ran = 0
    for engine in engines:
        if any(ENGINES[engine].unfit(program) for program in deployed.programs):
            assert engine == "eager" and state.quant is not None
            continue
        mine = by(engine, deployed, images)
        assert off(mine, expected) < 0.02, engine
        theirs = pool.apply(in_new_process, (store.path("k"), engine, images.numpy()))
        assert torch.equal(mine, torch.from_numpy(theirs)), engine
        ran += 1
    return ran


@pytest.mark.parametrize("order", cases())
def test_every_engine_gives_the_same_logits_after_every_order(
    order: tuple[str, ...], ctx: Context, tmp_path: Path, elsewhere: Any
) -> None:
    engines = [name for name in ENGINES if name not in COMPILING]
    int8 = bool({"ptq", "qat"} & set(order))
    assert agree(order, engines, ctx, tmp_path, elsewhere) == len(engines) - int8


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("order", [case for case in cases() if len(case.values[0]) < 3])
def test_so_do_those_that_compile(
    order: tuple[str, ...], ctx: Context, tmp_path: Path, elsewhere: Any
) -> None:
    assert agree(order, COMPILING, ctx, tmp_path, elsewhere) == len(COMPILING)
