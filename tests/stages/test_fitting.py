"""Training of any stage: it learns, stops, goes on to the same bits, and gives golden losses."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dataset import Dataset
from stages.finetuning import FinetuneSpec, TrainSpec, finetune, train
from stages.fitting import fit
from stages.pruning import PruneSpec, prune
from stages.qat import QatSpec, qat
from stages.stage import Context
from stages.state import ModelState, initial_state
from tests.support.compiler import needs_compiler
from tests.support.home import HOME
from tests.support.memory import Memory, Outcome, assert_same_bits, resumed, uninterrupted
from tests.support.tiny import TINY
from train_eval import NonFiniteLossError, take_step


def test_divergence_is_stopped(ctx: Context) -> None:
    state = initial_state(TINY, 0)
    spec = TrainSpec(epochs=6, optimizer="sgd", learning_rate=100.0, precision="fp32")
    with pytest.raises(NonFiniteLossError, match=r"lower learning_rate"):
        train(state, spec, ctx)


@pytest.mark.parametrize("keep", ["last", "best"])
def test_training_learns_and_does_not_touch_its_input(ctx: Context, keep: Any) -> None:
    state = initial_state(TINY, 0)
    before = {name: value.clone() for name, value in state.weights.items()}
    spec = TrainSpec(
        epochs=4, learning_rate=8e-3, ema_decay=0.9, keep=keep, precision="fp32", batch_size=64
    )
    trained = train(state, spec, ctx)
    assert all(torch.equal(state.weights[name], value) for name, value in before.items())
    assert not torch.equal(trained.weights["head.weight"], before["head.weight"])
    history = ctx.details["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert history[-1]["validation_accuracy"] > 40


def _masked(state: ModelState, ctx: Context) -> ModelState:
    return prune(state, PruneSpec(ratio=0.4), ctx)


def _stage(kind: str, context: Context) -> ModelState:
    """With all that must survive: dropout, EMA, best epoch, schedules, masks, observers."""
    state = initial_state({**TINY, "dropout": 0.1, "stochastic_depth": 0.1}, 0)
    common: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 128,
        "ema_decay": 0.9,
        "keep": "best",
        "mixup": 0.2,
        "mixup_schedule": "rising",
        "cutout": 2,
        "rotation": 10.0,
        "color": 0.2,
        "precision": "fp32",
        "scheduler": "cosine",
        "warmup_epochs": 1.0,
    }
    if kind == "qat":
        return qat(_masked(state, context), QatSpec(backend="fbgemm", **common), context)
    if kind == "masked":
        return finetune(_masked(state, context), FinetuneSpec(**common), context)
    return train(state, TrainSpec(**common), context)


@pytest.fixture(scope="module")
def plain(digits: Dataset) -> Callable[[str], Outcome]:
    return functools.cache(lambda kind: uninterrupted(partial(_stage, kind), digits))


@pytest.mark.parametrize("stop_after", [1, 13, 20, 25])
@pytest.mark.parametrize("kind", ["train", "masked", "qat"])
def test_interrupted_and_resumed_equals_uninterrupted(
    digits: Dataset, plain: Callable[[str], Outcome], kind: str, stop_after: int
) -> None:
    """To the bit, wherever it stops."""
    expected, details = plain(kind)
    found, found_details = resumed(partial(_stage, kind), digits, stop_after)
    assert_same_bits(found, expected)
    assert found_details["history"] == details["history"]


def test_mixup_rises_over_the_epochs_of_the_stage(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed: list[float] = []

    def seen(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        mixed.append(float((args[3].max(1).values < 1).any()))  # the labels, [B, K]
        return take_step(*args, **options)

    monkeypatch.setattr("stages.fitting.take_step", seen)
    spec = TrainSpec(epochs=4, batch_size=16, mixup=1.0, mixup_schedule="rising", precision="fp32")
    train(initial_state(TINY, 0), spec, ctx)
    each = len(mixed) // 4
    shares = [sum(mixed[each * epoch : each * (epoch + 1)]) / each for epoch in range(4)]
    assert mixed[0] == 0 and mixed[-1] == 1
    assert shares == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=0.15)


def test_validation_leaves_no_trace_in_quantized_ranges(digits: Any, ctx: Context) -> None:
    """Other validation images, the same ranges."""
    from dataclasses import replace

    spec = QatSpec(epochs=1, batch_size=256)
    state = initial_state(TINY, 0)
    one = qat(state, spec, ctx)
    few = replace(digits, validation_index=digits.validation_index[:20])
    other = qat(state, spec, Context(few, torch.device("cpu"), 0, say=lambda text: None))
    assert one.quant is not None and other.quant is not None
    assert one.quant.ranges is not None and other.quant.ranges is not None
    for name, value in one.quant.ranges.items():
        assert torch.equal(other.quant.ranges[name], value), name


GOLDEN = HOME / "tests" / "golden" / "quickstart_losses.json"


def test_quickstarts_first_epochs_have_the_golden_losses(ctx: Context) -> None:
    """Losses of the quickstart's baseline, from the file that says how they were made."""
    from experiment.suite.schema import load_suite

    golden = json.loads(GOLDEN.read_text())
    suite = load_suite(HOME / "configs" / "quickstart.py")
    experiment = suite.experiments[0]
    spec = experiment.sequence[0][1]
    assert isinstance(spec, TrainSpec)
    state = initial_state(experiment.model_args, 0)

    class Enough(Exception):
        pass

    class ThreeEpochs:
        def load(self) -> None:
            return None

        def save(self, value: dict[str, Any]) -> None:
            if value["epoch"] == 3:
                raise Enough

    ctx.snapshot = ThreeEpochs()
    with pytest.raises(Enough):
        fit(state, spec, spec.epochs, ctx)
    losses = [row["train_loss"] for row in ctx.details["history"]]
    assert losses == pytest.approx(golden["train_loss"], rel=golden["relative_tolerance"])


def test_poisoned_weights_are_never_saved(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot is asked for after every step; the last one is from before the bad loss."""
    steps: list[int] = []

    def poisoned(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        steps.append(1)
        return F.cross_entropy(logits, labels) * (float("nan") if len(steps) == 16 else 1.0)

    memory = Memory()
    ctx.snapshot, ctx.snapshot_seconds = memory, -1.0
    recipe = TrainSpec(batch_size=128, precision="fp32", epochs=3, ema_decay=0.9)
    monkeypatch.setattr("stages.fitting.cross_entropy", lambda smoothing: poisoned)
    with pytest.raises(NonFiniteLossError, match="loss is nan in epoch 2, step 6"):
        fit(initial_state(TINY, 0), recipe, 3, ctx)  # 10 steps an epoch
    saved = memory.load()
    assert saved is not None and saved["progress"]["step"] == 5
    assert all(torch.isfinite(value).all() for value in saved["module"].values())
    assert all(torch.isfinite(value).all() for value in saved["average"][1].values())


@pytest.mark.parametrize(("save_seconds", "expected"), [(0.0, [1, 2, 3, 4]), (1e6, [1, 4])])
def test_saving_takes_a_small_share_of_the_time(
    ctx: Context, save_seconds: float, expected: list[int]
) -> None:
    """Every epoch where a snapshot is quick; where it takes long, the first and the last."""
    saved: list[int] = []
    clock = [0.0]

    class Slow(Memory):
        def save(self, value: dict[str, Any]) -> None:
            saved.append(value["epoch"])
            clock[0] += save_seconds

    ctx.snapshot = Slow()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.fitting.time.monotonic", lambda: clock[0] + time.perf_counter())
        train(initial_state(TINY, 0), TrainSpec(batch_size=512, precision="fp32", epochs=4), ctx)
    assert saved == expected


def test_compiled_training_equals_eager(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same path as on a GPU, traced forward and backward, without the slow code generation."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    losses = []
    for compile in (False, True):
        ctx.details = {}
        spec = TrainSpec(epochs=2, batch_size=256, precision="fp32", compile=compile)
        train(initial_state(TINY, 0), spec, ctx)
        assert ctx.details["compiled"] is compile
        losses.append([row["train_loss"] for row in ctx.details["history"]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    torch._dynamo.reset()


@pytest.mark.slow
@needs_compiler
def test_compiled_training_learns_with_inductor(ctx: Context) -> None:
    losses = []
    for compile in (False, True):
        ctx.details = {}
        spec = TrainSpec(epochs=2, batch_size=256, precision="fp32", compile=compile)
        train(initial_state(TINY, 0), spec, ctx)
        losses.append([row["train_loss"] for row in ctx.details["history"]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    torch._dynamo.reset()
