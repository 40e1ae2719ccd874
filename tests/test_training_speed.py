"""What makes a training step fast gives what the slow way gives: kernels, paths, optimizer."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import train_eval
from data_sets.batches import BatchLoader
from dataset import fastest_evaluation_batch, get_dataloaders
from model import HybridCNNTransformer
from networks import fused_norm, transformer
from networks.attention import ScaledDotProduct, trains_faster_written_out, written_out
from networks.convolution import ConvBlock, fuse_blocks
from stages.finetuning import TrainSpec, train
from stages.fitting import fit
from stages.stage import Context
from stages.state import initial_state
from tests.conftest import TINY, tiny
from tests.test_training import Memory
from train_eval import NonFiniteLossError, train_one_epoch
from training import muon
from training.losses import cross_entropy
from training.muon import Muon, hidden_matrices, orthogonalized
from training.optimizers import get_optimizer, get_scheduler
from training.recipe import Recipe

needs_compiler = pytest.mark.skipif(fused_norm.library() is None, reason="no C++ compiler")


# --- Batch norm, ReLU and pooling in one kernel -------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8, 5, 7, 9), (6, 32, 8, 8), (3, 1, 6, 6)])
@pytest.mark.parametrize("pool", [1, 2, 3])
def test_fused_norm_equals_torchs(dtype: torch.dtype, shape: tuple[int, ...], pool: int) -> None:
    """Values, gradients and running statistics; a rest that no window covers counts in them.

    bf16 against float32 torch on the same bf16 values, where no two values tie by rounding.
    """
    maps = (3 * torch.randn(shape) + 5).to(dtype).contiguous(memory_format=torch.channels_last)
    torchs, ours = nn.BatchNorm2d(shape[1]), nn.BatchNorm2d(shape[1])
    nn.init.normal_(torchs.weight)
    nn.init.normal_(torchs.bias)
    ours.load_state_dict(torchs.state_dict())
    pooling = nn.MaxPool2d(pool) if pool > 1 else nn.Identity()
    one, other = maps.float().clone().requires_grad_(), maps.clone().requires_grad_()
    expected = pooling(F.relu(torchs(one)))
    found = fused_norm.norm_relu_pool(other, ours, pooling)
    gradient = torch.randn_like(expected)
    expected.backward(gradient.to(dtype).float())
    found.backward(gradient.to(dtype))
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.01, "atol": 0.01}
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, **close)
    assert one.grad is not None and other.grad is not None
    torch.testing.assert_close(other.grad.float(), one.grad, **close)
    for mine, theirs in zip(ours.parameters(), torchs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-3)
    for name, value in torchs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_fused_norm_hides_no_bad_value(bad: float) -> None:
    maps = torch.randn(2, 3, 4, 4)
    maps[1, 2, 3, 3] = bad
    found = fused_norm.norm_relu_pool(maps, nn.BatchNorm2d(3), nn.MaxPool2d(2))
    assert found[:, 2].isnan().all() and found[:, :2].isfinite().all()


@needs_compiler
def test_only_what_the_kernel_does_is_fused() -> None:
    def fused(device: str = "cpu", hook: str = "", **args: Any) -> list[bool]:
        model = tiny(**args)
        if hook:
            model.get_submodule(hook).register_forward_hook(lambda *_: None)
        fuse_blocks(model, device)
        return [m.fused for m in model.modules() if isinstance(m, ConvBlock)]

    assert fused() == [True, True]
    assert fused(device="cuda") == fused(cnn_norm="group") == fused(cnn_activation="gelu")
    assert fused(cnn_norm="none") == [False, False]
    assert fused(hook="cnn.blocks.1.pool") == [True, False]


def test_without_a_compiler_nothing_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(fused_norm, "library", fused_norm.library.__wrapped__)
    assert fuse_blocks(tiny(), "cpu") is False


@needs_compiler
def test_kernels_are_kept_and_made_again_when_damaged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make = fused_norm.library.__wrapped__
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "one"))
    assert make() is not None
    (kept,) = (tmp_path / "one").glob("fused_norm_*.so")
    written = kept.stat().st_mtime_ns
    assert make() is not None and kept.stat().st_mtime_ns == written
    damaged = tmp_path / "other" / kept.name
    damaged.parent.mkdir()
    damaged.write_bytes(b"damaged")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(damaged.parent))
    assert make() is not None and damaged.stat().st_size > 1000


# --- Attention ----------------------------------------------------------------------------------


def test_both_attention_paths_are_equal_and_the_choice_draws_nothing() -> None:
    query, key, value = (torch.randn(4, 2, 9, 8, requires_grad=True) for _ in range(3))
    weights = torch.randn(4, 2, 9, 8)
    expected = F.scaled_dot_product_attention(query, key, value)
    found = written_out(query, key, value)
    torch.testing.assert_close(found, expected)
    theirs = torch.autograd.grad(expected, (query, key, value), weights)
    torch.testing.assert_close(torch.autograd.grad(found, (query, key, value), weights), theirs)
    before = torch.get_rng_state()
    with torch.inference_mode(False), torch.no_grad():
        chosen = trains_faster_written_out(query.shape, query.dtype, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert chosen is trains_faster_written_out(query.shape, query.dtype, 1)


def test_the_choice_of_a_path_outlives_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The paths differ in the last bits: a run that goes on must not choose anew."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "kept"))
    choose, shape = trains_faster_written_out, torch.Size((4, 2, 9, 8))
    for answer in (True, False):
        monkeypatch.setattr(transformer, "_written_out_wins", lambda *_, answer=answer: answer)
        choose.cache_clear()  # as a new process has it
        assert choose(shape, torch.float32, 1) is True
    assert choose(shape, torch.float32, 2) is False
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "/proc/none")  # nothing can be kept there
    choose.cache_clear()
    assert choose(shape, torch.float32, 1) is False
    choose.cache_clear()


# --- The loop -----------------------------------------------------------------------------------


@pytest.mark.parametrize("written_out", [True, False])
@pytest.mark.parametrize("fused", [pytest.param(True, marks=needs_compiler), False])
def test_losses_are_a_plain_loops(
    monkeypatch: pytest.MonkeyPatch, written_out: bool, fused: bool
) -> None:
    """Float32 without augmentation, against AdamW, OneCycleLR and torch's attention by hand."""
    monkeypatch.setattr(transformer, "trains_faster_written_out", lambda *_: written_out)
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


def test_poisoned_weights_are_never_saved(ctx: Context) -> None:
    """A snapshot is asked for after every step; the last one is from before the bad loss."""
    steps: list[int] = []

    def poisoned(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        steps.append(1)
        return F.cross_entropy(logits, labels) * (float("nan") if len(steps) == 16 else 1.0)

    memory = Memory()
    ctx.snapshot, ctx.snapshot_seconds = memory, -1.0
    recipe = TrainSpec(batch_size=128, precision="fp32", epochs=3, ema_decay=0.9)
    with pytest.raises(NonFiniteLossError, match="loss is nan in epoch 2, step 6"):
        fit(initial_state(TINY, 0), recipe, 3, ctx, poisoned)  # 10 steps an epoch
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


# --- Muon ---------------------------------------------------------------------------------------


def test_muon_equals_torchs_and_adamw() -> None:
    """Matrices and flattened kernels as torch.optim.Muon, the rest as torch.optim.AdamW."""
    model = tiny()
    matrices = hidden_matrices(model)
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    names = {name for name, p in model.named_parameters() if any(p is m for m in matrices)}
    assert {"cnn.blocks.1.conv.weight", "embed.weight"} <= names
    assert not names & {
        "cnn.blocks.0.conv.weight",
        "head.weight",
        "transformer.position.embedding",
    }
    copies = [nn.Parameter(p.detach().flatten(1).clone()) for p in matrices]
    rest = [nn.Parameter(p.detach().clone()) for p in others]
    torchs = torch.optim.Muon(
        copies, 0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(rest, 0.01, weight_decay=0.0)
    ours = Muon(matrices, [{"params": others, "weight_decay": 0.0}], 0.01, weight_decay=0.1)
    for step in range(4):
        if step == 2:  # as after an interruption
            state = ours.state_dict()
            ours = Muon(matrices, [{"params": others, "weight_decay": 0.0}], 0.01, weight_decay=0.1)
            ours.load_state_dict(state)
        for mine, theirs in zip([*matrices, *others], [*copies, *rest], strict=True):
            mine.grad = torch.randn_like(mine)
            theirs.grad = mine.grad.view_as(theirs).clone()
        for optimizer in (ours, torchs, adamw):
            optimizer.step()
    for mine, theirs in zip(matrices, copies, strict=True):
        torch.testing.assert_close(mine.flatten(1), theirs, rtol=0.02, atol=2e-4)  # bf16 inside
    for mine, theirs in zip(others, rest, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("shape", [(2, 12, 30), (1, 30, 12)])
def test_orthogonalized_keeps_the_singular_vectors(
    shape: tuple[int, ...], bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 only where the processor multiplies it: emulated, it took most of a step."""
    monkeypatch.setattr(muon, "bf16_is_fast", lambda device: bf16)
    matrices = torch.randn(shape)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonalized(matrices)
    assert found.dtype == (torch.bfloat16 if bf16 else torch.float32)
    found = found.float()
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5 and values.max() < 1.35
    inner = (left.mT @ found @ right.mT).diagonal(dim1=1, dim2=2)  # U^T X V: its diagonal
    torch.testing.assert_close(inner.sort().values, values.sort().values, rtol=0.05, atol=0.05)


def test_training_with_muon_learns(ctx: Context) -> None:
    spec = TrainSpec(
        epochs=4, optimizer="muon", learning_rate=0.02, batch_size=64, precision="fp32"
    )
    train(initial_state(TINY, 0), spec, ctx)
    assert ctx.details["history"][-1]["validation_accuracy"] > 60


# --- Data ---------------------------------------------------------------------------------------


def test_evaluation_batches_by_pixels() -> None:
    assert fastest_evaluation_batch((32, 32), "cpu") == 64
    assert fastest_evaluation_batch((224, 224), "cpu") == 1
    assert fastest_evaluation_batch((32, 32), "cuda") == 2048


def test_images_of_a_device_stay_there() -> None:
    """The order and the draws are made where the images are ('meta' holds no data to fetch)."""
    images = torch.empty(40, 3, 8, 8, dtype=torch.uint8, device="meta")
    labels = torch.empty(40, dtype=torch.int64, device="meta")
    loader = BatchLoader(
        images, labels, 8, mean=[0.5] * 3, std=[0.2] * 3, num_classes=10, training=True,
        augmentation="standard", cutout_size=2, device="meta",
    )  # fmt: skip
    shapes = [(batch.shape, batch.device.type, truth.device.type) for batch, truth in loader]
    assert shapes == [((8, 3, 8, 8), "meta", "meta")] * 5
