"""The loop and its parts, against torch's own and against runs that were never interrupted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import swa_utils

from dataset import get_dataloaders
from machine.errors import Interrupted
from stages.finetuning import FinetuneSpec, TrainSpec, finetune, train
from stages.fitting import fit
from stages.pruning import PruneSpec, prune
from stages.qat import QatSpec, qat
from stages.stage import Context
from stages.state import ModelState, initial_state
from tests.conftest import TINY
from train_eval import EpochProgress, NonFiniteLossError, evaluate, train_one_epoch
from training.losses import cross_entropy
from training.optimizers import ExponentialMovingAverage, get_optimizer, get_scheduler
from training.recipe import Recipe

RECIPE = Recipe(batch_size=128, learning_rate=5e-3, precision="fp32")


def test_loop_equals_a_plain_torch_loop() -> None:
    """Same data, torch's own AdamW and OneCycleLR: the same weights."""

    def network() -> nn.Module:
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

    loader = get_dataloaders({"name": "Digits"}, 64, augmentation="none").train
    recipe = Recipe(batch_size=64, weight_decay=0.0, precision="fp32", grad_clip=0.5)
    ours = network()
    optimizer = get_optimizer(ours, recipe)
    schedule = get_scheduler(optimizer, recipe, 2, len(loader))
    for epoch in range(2):
        result = train_one_epoch(
            ours,
            loader,
            optimizer,
            criterion=cross_entropy(0.1),
            schedule=schedule,
            grad_clip=0.5,
            epoch=epoch,
        )
    theirs = network()
    plain = torch.optim.AdamW(theirs.parameters(), 4e-3, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.OneCycleLR(plain, 4e-3, 2 * len(loader), cycle_momentum=False)
    for epoch in range(2):
        loader.set_epoch(epoch)
        losses = []
        for images, labels in loader:
            loss = F.cross_entropy(theirs(images), labels, label_smoothing=0.1)
            plain.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
            plain.step()
            rates.step()
            losses.append(loss.item())
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    assert result.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)


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


def test_evaluation_equals_a_plain_computation() -> None:
    loaders = get_dataloaders({"name": "Digits"}, 100)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    result = evaluate(model, loaders.test)
    images = loaders.test.normalize(loaders.test.images)
    logits, labels = model(images), loaders.test.labels
    assert result.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert result.accuracy == pytest.approx(
        100 * (logits.argmax(1) == labels).float().mean().item()
    )
    assert result.images == 360
    assert result.inference_time_ms > 0


def test_non_finite_loss_names_epoch_and_step() -> None:
    loader = get_dataloaders({"name": "Digits"}, 64).train
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    steps = []

    def poisoned(logits: torch.Tensor, labels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        steps.append(1)
        return logits.sum() * (float("nan") if len(steps) == 4 else 1.0)

    optimizer = get_optimizer(model, RECIPE)
    with pytest.raises(NonFiniteLossError, match="loss is nan in epoch 3, step 4"):
        train_one_epoch(model, loader, optimizer, criterion=poisoned, epoch=2)


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


class Memory:
    """A snapshot kept in memory, through the same serialisation as the store's."""

    def __init__(self) -> None:
        self.content: bytes | None = None

    def save(self, value: dict[str, Any]) -> None:
        from machine.files import tensor_bytes

        self.content = tensor_bytes(value)

    def load(self) -> dict[str, Any] | None:
        import io

        return self.content and torch.load(io.BytesIO(self.content), weights_only=True)


def _masked(state: ModelState, ctx: Context) -> ModelState:
    return prune(state, PruneSpec(ratio=0.4), ctx)


@pytest.mark.parametrize("stop_after", [1, 13, 20, 25])
@pytest.mark.parametrize("kind", ["train", "masked", "qat"])
def test_interrupted_and_resumed_equals_uninterrupted(
    digits: Any, kind: str, stop_after: int
) -> None:
    """To the bit, wherever it stops: dropout, EMA, best epoch, schedule, masks, observers."""
    args = {**TINY, "dropout": 0.1, "stochastic_depth": 0.1}
    common: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 128,
        "ema_decay": 0.9,
        "keep": "best",
        "mixup": 0.2,
        "cutout": 2,
        "precision": "fp32",
        "scheduler": "cosine",
        "warmup_epochs": 1.0,
    }

    def run(context: Context) -> ModelState:
        state = initial_state(args, 0)
        if kind == "qat":
            return qat(_masked(state, context), QatSpec(backend="fbgemm", **common), context)
        if kind == "masked":
            return finetune(_masked(state, context), FinetuneSpec(**common), context)
        return train(state, TrainSpec(**common), context)

    def context(**more: Any) -> Context:
        return Context(digits, torch.device("cpu"), 0, say=lambda text: None, **more)

    plain = context()
    expected = run(plain)
    memory, asked = Memory(), []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == stop_after

    with pytest.raises(Interrupted):
        run(context(snapshot=memory, stop_requested=stop))
    torch.manual_seed(12345)  # another process has another generator state
    resumed = context(snapshot=memory)
    found = run(resumed)
    for name, value in expected.weights.items():
        assert torch.equal(found.weights[name], value), name
    if expected.quant is not None and expected.quant.ranges is not None:
        assert found.quant is not None and found.quant.ranges is not None
        for name, value in expected.quant.ranges.items():
            assert torch.equal(found.quant.ranges[name], value), name
    assert resumed.details["history"] == plain.details["history"]


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


def test_a_snapshot_inside_an_epoch_carries_the_sums(ctx: Context) -> None:
    loader = get_dataloaders({"name": "Digits"}, 64, augmentation="none").train
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    whole = train_one_epoch(model, loader, optimizer)
    half = EpochProgress()

    class Stop(Exception):
        pass

    def at_ten(progress: EpochProgress) -> None:
        if progress.step == 10:
            raise Stop

    with pytest.raises(Stop):
        train_one_epoch(model, loader, optimizer, progress=half, after_step=at_ten)
    rest = train_one_epoch(model, loader, optimizer, progress=half)
    assert rest.loss == pytest.approx(whole.loss, rel=1e-6)
    assert rest.accuracy == whole.accuracy


GOLDEN = Path(__file__).parent / "golden" / "quickstart_losses.json"


def test_quickstarts_first_epochs_have_the_golden_losses(ctx: Context) -> None:
    """Losses of the quickstart's baseline, from the file that says how they were made."""
    from experiment.suite.schema import load_suite

    golden = json.loads(GOLDEN.read_text())
    suite = load_suite(Path(__file__).parents[1] / "configs" / "quickstart.py")
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
