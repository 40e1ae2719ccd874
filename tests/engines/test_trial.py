"""An engine that is missing, broken or wrong is left out, by name and with the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from engines import ENGINES, eager
from engines.program import Program, Ready
from engines.programs import programs
from engines.trial import reference, tried
from tests.support.int8 import calibrated_on
from tests.support.tiny import tiny

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]


def engine(change: Callable[[Ready], Ready], **more: Any) -> Any:
    """PyTorch itself, changed."""

    def ready(program: Program, batch: int | None, threads: int) -> Ready:
        return change(eager.ready(program, batch, threads))

    plain = {"FIXED_BATCH": False, "unavailable": lambda: None, "unfit": lambda program: None}
    return SimpleNamespace(**{**plain, "ready": ready, **more})


def wrong_for_many(ready: Ready) -> Ready:
    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        (logits,) = ready.run(inputs)
        return [logits if len(logits) == 1 else logits.flip(1)]

    return ready._replace(run=run)


def raising(ready: Ready) -> Ready:
    raise OSError("libbroken.so: cannot open shared object file\nand a second line")


def negated(ready: Ready) -> Ready:
    return ready._replace(run=lambda inputs: [-value for value in ready.run(inputs)])


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (engine(lambda r: r, unavailable=lambda: "needs odd; pip install odd"), "needs odd; pip"),
        (engine(lambda r: r, unfit=lambda program: "has no such type"), "has no such type"),
        (engine(raising), "failed: libbroken.so: cannot open shared object file"),
        (engine(negated), "disagrees with the graph: logits are off by 200.00%"),
        (engine(wrong_for_many), "disagrees with the graph: logits are off by"),
        (engine(lambda r: r._replace(int8_layers=())), "computes none of the 12 int8 layers"),
    ],
)
def test_an_engine_that_does_not_do_is_left_out(
    odd: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = tiny(), torch.randn(128, 1, 8, 8)
    made = programs(model, calibrated_on(model, images, backend="x86"))
    expected = reference(made, model, images)
    monkeypatch.setitem(ENGINES, "odd", odd)
    trial = tried("odd", made, [1, 64], None, expected)
    assert trial.parts is None
    assert trial.found["left_out"].startswith(said)
    assert "\n" not in trial.found["left_out"]


def test_layers_that_run_in_float_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = tiny(), torch.randn(128, 1, 8, 8)
    made = programs(model, calibrated_on(model, images, backend="x86"))
    without_head = engine(lambda r: r._replace(int8_layers=made[0].int8_layers[:-1]))
    monkeypatch.setitem(ENGINES, "odd", without_head)
    expected = reference(made, model, images)
    for name, layers, lacking in (("odd", 11, ["head"]), ("eager", 12, [])):
        trial = tried(name, made, [1, 64], None, expected)
        assert trial.parts is not None
        assert (trial.found["int8_layers"], trial.found["int8_layers_wanted"]) == (layers, 12)
        assert trial.found["float_instead"] == lacking
        assert trial.found["images"] == 32 + 128


def test_near_ties_of_a_network_that_cannot_tell_classes_are_no_disagreement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All logits but for a hundredth are the same for every class; an error of 0.2 % turns some."""
    model, images = tiny(), torch.randn(128, 1, 8, 8)
    with torch.no_grad():
        model.head.weight.mul_(0.01)
        model.head.bias.fill_(1.0)
    made = programs(model, calibrated_on(model, images, backend="x86"))
    expected = reference(made, model, images)._replace(relative=0.01)
    noise = torch.Generator().manual_seed(0)

    def noisy(ready: Ready, size: float) -> Ready:
        def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
            (logits,) = ready.run(inputs)
            return [logits + size * torch.randn(logits.shape, generator=noise)]

        return ready._replace(run=run)

    for size, kept in ((0.002, True), (0.05, False)):
        monkeypatch.setitem(ENGINES, "odd", engine(lambda r, size=size: noisy(r, size)))
        trial = tried("odd", made, [1, 64], None, expected)
        assert (trial.parts is not None) is kept, trial.found
    flips = expected.logits.argmax(1) != (expected.logits + 0.002 * torch.randn(128, 10)).argmax(1)
    assert flips.float().mean() > expected.other_class  # what was refused for that alone
