"""The one loop and the one evaluation, against plain loops with torch's own parts."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import train_eval
from dataset import Dataset, get_dataloaders
from model import HybridCNNTransformer
from networks import attention as attention_module
from networks.attention import ScaledDotProduct
from networks.convolution import fuse_blocks
from stages.fitting import evaluate_shard
from stages.stage import Context
from tests.support.compiler import needs_compiler
from tests.support.processes import in_team
from tests.support.tiny import TINY, tiny
from train_eval import EpochProgress, NonFiniteLossError, evaluate, train_one_epoch
from training.losses import cross_entropy
from training.optimizers import get_optimizer, get_scheduler
from training.recipe import Recipe
from training.team import Team
from training.whole_batch import Shard


def _evaluations(team: Team | None, dataset: Dataset, count: int) -> list[float]:
    model = tiny().eval()
    loader = Context(dataset, torch.device("cpu"), 0).loaders(batch_size=32).validation
    loader.index = loader.index[:count]
    shard = Shard(team, 64, lambda: False) if team is not None else None
    found = evaluate_shard(model, loader, shard)
    assert len(loader.index) == count
    return [found.accuracy, found.loss, found.images]


@pytest.mark.parametrize(("count", "size"), [(101, 2), (2, 3)])
def test_every_image_is_judged_once(tmp_path: Path, digits: Dataset, count: int, size: int) -> None:
    torch.manual_seed(0)
    accuracy, loss, images = _evaluations(None, digits, count)
    assert images == count
    for found in in_team(size, tmp_path, _evaluations, digits, count):
        assert found == [accuracy, pytest.approx(loss, rel=1e-6), images]


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


@pytest.mark.parametrize("written_out", [True, False])
@pytest.mark.parametrize("fused", [pytest.param(True, marks=needs_compiler), False])
def test_losses_are_a_plain_loops(
    monkeypatch: pytest.MonkeyPatch, written_out: bool, fused: bool
) -> None:
    """Float32 without augmentation, against AdamW, OneCycleLR and torch's attention by hand."""
    monkeypatch.setattr(attention_module, "trains_faster_written_out", lambda *_: written_out)
    loader = get_dataloaders({"name": "Digits"}, 64, augmentation="none").train
    ours, plain = (HybridCNNTransformer(**TINY) for _ in range(2))
    plain.load_state_dict(ours.state_dict())
    for name, module in list(plain.named_modules()):
        if isinstance(module, ScaledDotProduct):
            attention = nn.Module()
            attention.forward = F.scaled_dot_product_attention  # type: ignore[assignment]
            plain.set_submodule(name, attention)
    recipe = Recipe(batch_size=64, learning_rate=2e-3, precision="fp32")
    optimizer = get_optimizer(ours, recipe)
    schedule = get_scheduler(optimizer, recipe, 2, len(loader))
    ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert not fused or fuse_blocks(ours, "cpu")
    found: list[float] = []

    def criterion(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        loss = cross_entropy(0.1)(logits, labels, images)
        found.append(loss.item())
        return loss

    groups = [
        {"params": [p for p in plain.parameters() if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in plain.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, 2e-3)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        adamw, [2e-3, 2e-3], 2 * len(loader), cycle_momentum=False
    )
    expected, means = [], []
    for epoch in range(2):
        result = train_one_epoch(
            ours, loader, optimizer, criterion=criterion, schedule=schedule, epoch=epoch
        )
        means.append(result.loss)
        plain.train()
        for images, labels in loader:
            loss = F.cross_entropy(plain(images.contiguous()), labels, label_smoothing=0.1)
            adamw.zero_grad()
            loss.backward()
            adamw.step()
            cycle.step()
            expected.append(loss.item())
    assert found == pytest.approx(expected, rel=2e-3)
    assert found[:5] == pytest.approx(expected[:5], rel=1e-5)
    steps = len(loader)
    assert means == pytest.approx([sum(found[:steps]) / steps, sum(found[steps:]) / steps])


def test_no_step_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from a tensor until the end of an epoch."""
    loader = get_dataloaders({"name": "Digits"}, 32, cutout=2).train
    model = tiny()
    recipe = Recipe(batch_size=32, precision="fp32", grad_clip=1.0, optimizer="muon")
    optimizer = get_optimizer(model, recipe)
    reads: list[int] = []
    step = [0]
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "numpy"):
        plain = getattr(Tensor, name)

        def counted(self: Tensor, *args: Any, plain: Any = plain) -> Any:
            reads.append(step[0])
            return plain(self, *args)

        monkeypatch.setattr(Tensor, name, counted)
    monkeypatch.setattr(train_eval, "SETTLE_SECONDS", 1e9)

    def after_step(progress: train_eval.EpochProgress) -> None:
        step[0] = progress.step

    schedule = get_scheduler(optimizer, recipe, 1, len(loader))
    train_one_epoch(
        model, loader, optimizer, schedule=schedule, grad_clip=1.0, after_step=after_step
    )
    assert reads == [len(loader)] * 2  # the sums of losses and right answers, after the last step


def test_every_kind_of_network_is_compiled_and_seeds_share_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TorchDynamo gives a function up after a few kinds (`recompile_limit`), with a warning."""
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        compiled.append(width)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    images = torch.randn(4, 1, 8, 8)
    with torch._dynamo.config.patch(recompile_limit=2, accumulated_recompile_limit=3):
        for width in (8, 8, 9, 8, 10, 11, 9, 12):
            train_eval.compile_step(tiny(cnn_channels=[8, width]).train())(images)
    assert compiled == [8, 9, 10, 11, 12]
    torch.compiler.reset()
