"""Weight decay, schedules and the moving average, by hand and against torch's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import swa_utils

from training.optimizers import ExponentialMovingAverage, get_optimizer, get_scheduler
from training.recipe import Recipe


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_optimizers_decay_matrices_only(name: Any) -> None:
    model = nn.Linear(3, 2)
    optimizer = get_optimizer(model, Recipe(optimizer=name, weight_decay=0.1))
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays[id(model.bias)] == 0
    assert decays[id(model.weight)] == (0.1 if name in ("sgd", "adamw", "rmsprop", "adam") else 0)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({"scheduler": "none"}, [1, 1, 1, 1]),
        ({"scheduler": "step", "step_epochs": 2, "gamma": 0.5}, [1, 1, 0.5, 0.5]),
        ({"scheduler": "multistep", "milestones": [1, 3], "gamma": 0.1}, [1, 0.1, 0.1, 0.01]),
        ({"scheduler": "cosine"}, [1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4]),
        ({"scheduler": "cosine", "warmup_epochs": 2.0}, [0.01, 0.505, 1, 0.5]),
        ({"scheduler": "plateau", "patience": 0, "gamma": 0.5}, [1, 1, 0.5, 0.25]),
    ],
)
def test_schedules_by_hand(recipe: dict, expected: list[float]) -> None:
    """The rate at the start of each of 4 epochs of 10 steps, as a share of the peak."""
    model = nn.Linear(1, 1)
    spec = Recipe(learning_rate=1.0, **recipe)
    optimizer = get_optimizer(model, spec)
    schedule = get_scheduler(optimizer, spec, 4, 10)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        for _ in range(10):
            optimizer.step()
            schedule.after_step()
        schedule.after_epoch(validation_loss=1.0)
    assert rates == pytest.approx(expected, abs=1e-6)


def test_every_schedule_survives_a_save_and_load() -> None:
    for name in ("cosine", "onecycle", "step", "multistep", "plateau", "none"):
        recipe = Recipe(scheduler=name, milestones=[1], warmup_epochs=0.5)  # type: ignore[arg-type]
        one, other = nn.Linear(1, 1), nn.Linear(1, 1)
        first, second = get_optimizer(one, recipe), get_optimizer(other, recipe)
        a, b = get_scheduler(first, recipe, 3, 4), get_scheduler(second, recipe, 3, 4)
        for _ in range(5):
            first.step()
            a.after_step()
        a.after_epoch(1.0)
        second.load_state_dict(first.state_dict())
        b.scheduler.load_state_dict(a.scheduler.state_dict())
        for schedule, optimizer in ((a, first), (b, second)):
            optimizer.step()
            schedule.after_step()
            schedule.after_epoch(1.0)
        assert first.param_groups[0]["lr"] == second.param_groups[0]["lr"]


def test_moving_average_equals_torchs() -> None:
    model = nn.Linear(4, 3)
    ours = ExponentialMovingAverage(model, 0.5)
    theirs = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.5))
    theirs.update_parameters(model)  # torch's first update copies
    ours.updates = 100  # past the warm-up of the decay
    for _ in range(5):
        with torch.no_grad():
            model.weight.add_(torch.randn(3, 4))
        ours.update(model)
        theirs.update_parameters(model)
    torch.testing.assert_close(ours.average["weight"], theirs.module.weight.data)
