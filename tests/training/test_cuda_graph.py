"""A recorded step, by CUDA graphs' rules on the CPU: that it is the step, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from machine.errors import Failed
from tests.support.recorded import CpuStep
from tests.support.tiny import tiny
from train_eval import take_step
from training import cuda_graph
from training.losses import Criterion, cross_entropy
from training.optimizers import get_optimizer, get_scheduler
from training.recipe import Recipe

STEPS = 9


def trained(
    criterion: Criterion, *, recorded: bool, network: Callable[[], nn.Module] = tiny, **options: Any
) -> tuple[list[float], dict[str, Tensor], CpuStep]:
    """Losses and weights of STEPS steps on new images each, the learning rate moving."""
    recipe = Recipe(batch_size=16, learning_rate=1e-2, **options)
    torch.manual_seed(0)
    model = network().train()
    optimizer = get_optimizer(model, recipe)
    schedule = get_scheduler(optimizer, recipe, 1, STEPS)
    take = partial(take_step, model, optimizer, criterion=criterion, grad_clip=1.0)
    step = CpuStep(take, optimizer, torch.device("cpu"))
    losses = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_graph, "WARM_UP", cuda_graph.WARM_UP if recorded else STEPS)
        for _ in range(STEPS):
            images, labels = torch.randn(16, 1, 8, 8), torch.randint(0, 10, (16,))
            losses.append(float(step(images, labels)[0]))
            schedule.after_step()
    assert (step.recording is not None) == recorded
    return losses, model.state_dict(), step


def assert_recorded_alike(criterion: Criterion, **options: Any) -> None:
    losses, weights, _ = trained(criterion, recorded=False, **options)
    found, recorded, _ = trained(criterion, recorded=True, **options)
    assert found == losses and len(set(losses)) == STEPS
    for name, value in weights.items():
        assert torch.equal(recorded[name], value), name


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd", "adam"])
def test_a_recorded_step_is_the_step_to_the_bit(optimizer: Any) -> None:
    assert_recorded_alike(cross_entropy(0.1), optimizer=optimizer)


def test_random_numbers_are_drawn_anew_at_each_replay() -> None:
    network = partial(tiny, dropout=0.2, stochastic_depth=0.2)
    assert_recorded_alike(cross_entropy(), network=network)
    step = trained(cross_entropy(), recorded=True, network=network)[2]
    assert step.recording is not None
    step.recording.graph.replay()
    first = float(step.recording.loss)
    step.recording.graph.replay()
    assert float(step.recording.loss) != first


def test_what_the_host_counts_is_seen_in_the_losses() -> None:
    """A number of Python's stays in a replay what it was: so the comparison can fail."""

    def counting() -> Criterion:
        calls = itertools.count(1)
        return lambda logits, labels, images: F.cross_entropy(logits, labels) / next(calls)

    losses, *_ = trained(counting(), recorded=False)
    found, *_ = trained(counting(), recorded=True)
    assert found[: cuda_graph.WARM_UP + 1] == losses[: cuda_graph.WARM_UP + 1]
    assert found[cuda_graph.WARM_UP + 1] != losses[cuda_graph.WARM_UP + 1]


def rounded(logits: Tensor, zero_points: torch.dtype = torch.float32) -> Tensor:
    scale, zero_point = torch.ones(len(logits)), torch.zeros(len(logits), dtype=zero_points)
    return torch.fake_quantize_per_channel_affine(logits, scale, zero_point, 0, -128, 127)


@pytest.mark.parametrize(
    "looks",
    [
        lambda logits: logits * logits.max().item(),
        lambda logits: logits if logits.sum() > 0 else 2 * logits,
        lambda logits: logits if torch.equal(logits, logits) else 2 * logits,
        lambda logits: logits * len(logits[logits > 0]),
        lambda logits: logits * len(logits.flatten().unique()),
        lambda logits: logits * torch.tensor(2.0),
        lambda logits: rounded(logits, torch.int32),  # its C++ checks that these are in range
    ],
)
def test_a_step_that_waits_for_the_device_is_refused(looks: Callable[[Tensor], Tensor]) -> None:
    def criterion(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        return F.cross_entropy(looks(logits), labels)

    trained(criterion, recorded=False)
    with pytest.raises(Failed, match=r"while a step is recorded; .* set compile to False"):
        trained(criterion, recorded=True)


def test_rounding_by_channels_does_not_wait() -> None:
    assert_recorded_alike(lambda logits, labels, _: F.cross_entropy(rounded(logits), labels))


def test_recording_carries_nothing_out() -> None:
    """The fourth step is taken once: by the first replay, not by the recording."""
    torch.manual_seed(0)
    model = tiny(dropout=0.1).train()
    optimizer = get_optimizer(model, Recipe())
    take = partial(take_step, model, optimizer, criterion=cross_entropy())
    step = CpuStep(take, optimizer, torch.device("cpu"))
    images, labels = torch.randn(8, 1, 8, 8), torch.randint(0, 10, (8,))
    for _ in range(cuda_graph.WARM_UP):
        step(images, labels)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    step._recorded(images, labels)
    assert torch.equal(torch.get_rng_state(), drawn)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
