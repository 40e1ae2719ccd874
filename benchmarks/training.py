"""Training throughput: a plain loop, as many scripts have it, against ours, on the default network.

Run: python -m benchmarks.training [--quick] [--root FOLDER] [--optimizer muon] [--batch N]
         [--workers N] [--save FILE]
Plain is torchvision's per-image transforms in a DataLoader (2 workers), float32, attention by
`scaled_dot_product_attention`, AdamW as it comes, OneCycle and a `loss.item()` a step. Both
alternate in one run, on the GPU where there is one. The limit is the matrix products of
convolutions and linear layers alone, each timed by itself in the precision that ours trains in.
Images are noise unless `--root` names a folder (train/<class>/..., test/<class>/...).
About 3 min on 2 CPU cores, 1 min with `--quick`.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from data_sets.batches import BatchLoader
from data_sets.source import DatasetArgs
from dataset import load_dataset
from machine.environment import environment
from machine.files import write_json
from model import HybridCNNTransformer
from networks.attention import ScaledDotProduct
from networks.convolution import fuse_blocks
from train_eval import compile_step, take_step, train_one_epoch
from training.cuda_graph import CapturedStep
from training.losses import cross_entropy
from training.optimizers import get_optimizer, get_scheduler
from training.recipe import Recipe, resolve_precision, wants_compiling

BATCH, CLASSES = 128, 10
STEPS = 10_000  # of the schedule; a benchmark makes fewer
MEAN, STD = [0.491, 0.482, 0.447], [0.247, 0.243, 0.262]
GROUPS = {  # operators by the part of a step that they belong to; the first that fits
    "convolutions": ("convolution",),
    "linear layers": ("aten::mm", "aten::addmm"),
    "attention": ("bmm", "softmax", "scaled_dot"),
    "batch norm, ReLU, pooling": ("NormReluPool", "batch_norm", "clamp_min", "threshold", "pool"),
    "layer norm, GELU": ("layer_norm", "gelu"),
    "optimizer": ("adamw", "Optimizer", "lerp", "_foreach"),
    "augmentation, batches": ("gather", "index", "flip", "where", "randint", "rand", "pad"),
    "copies, casts, adds": ("copy_", "cat", "add", "mul", "sum", "fill_", "div", "sub", "empty"),
}


class PlainDataset(Dataset[tuple[Tensor, int]]):
    """Images `[N, H, W, C]` with torchvision's usual transforms, one image at a time."""

    def __init__(self, images: Tensor, labels: Tensor):
        self.images, self.labels = images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
        steps = [transforms.RandomCrop(images.shape[-1], padding=images.shape[-1] // 8)]
        steps += [transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self.transform = transforms.Compose(
            [transforms.ToPILImage(), *steps, transforms.Normalize(MEAN, STD)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


class PlainAttention(nn.Module):
    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value)


class Plain:
    """The plain loop, over `steps` steps in all; each call takes a new order of the images."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        device: torch.device,
        steps: int = STEPS,
        seed: int = 0,
        batch: int = BATCH,
        workers: int = 2,
    ):
        self.device = device
        torch.manual_seed(seed)
        model = HybridCNNTransformer(num_classes=CLASSES)
        for name, module in list(model.named_modules()):
            if isinstance(module, ScaledDotProduct):
                model.set_submodule(name, PlainAttention())
        self.model = model.to(device)
        self.optimizer = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=0.05)
        self.schedule = OneCycleLR(self.optimizer, 4e-3, steps, cycle_momentum=False)
        self.data = DataLoader(
            PlainDataset(images, labels), batch, shuffle=True, drop_last=True, num_workers=workers,
            persistent_workers=True,
        )  # fmt: skip

    def run(self, steps: int) -> None:
        self.model.train()
        total = 0.0
        for images, labels in islice(self.data, steps):
            images, labels = images.to(self.device), labels.to(self.device)
            loss = F.cross_entropy(self.model(images), labels, label_smoothing=0.1)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            total += loss.item()


class Ours:
    """`train_one_epoch` as `fit` calls it."""

    def __init__(
        self, images: Tensor, labels: Tensor, device: torch.device, steps: int = STEPS,
        seed: int = 0, batch: int = BATCH, optimizer: Any = "adamw",
    ):  # fmt: skip
        self.recipe = Recipe(optimizer=optimizer, batch_size=batch)
        self.calls = 0
        torch.manual_seed(seed)
        self.model = HybridCNNTransformer(num_classes=CLASSES)
        self.model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trains: nn.Module = self.model
        if wants_compiling(self.recipe, device):
            self.trains = compile_step(self.model)
        else:
            fuse_blocks(self.model, device)
        self.precision = resolve_precision("auto", device)
        self.optimizer = get_optimizer(self.model, self.recipe)
        self.data = BatchLoader(
            images.to(device), labels.to(device), batch, mean=MEAN, std=STD, num_classes=CLASSES,
            training=True, augmentation="standard", seed=seed, device=device,
        )  # fmt: skip
        self.schedule = get_scheduler(self.optimizer, self.recipe, steps, 1)
        self.captured: CapturedStep | None = None
        if self.trains is not self.model and device.type == "cuda":
            self.captured = CapturedStep(self.step, self.optimizer, device)

    def step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return take_step(
            self.trains, self.optimizer, images, labels, criterion=cross_entropy(0.1),
            precision=self.precision,
        )  # fmt: skip

    def run(self, steps: int) -> None:
        train_one_epoch(
            self.trains,
            Some(self.data, steps),  # type: ignore[arg-type]
            self.optimizer,
            schedule=self.schedule,
            epoch=self.calls,
            step=self.captured or self.step,
        )
        self.calls += 1


class Some:
    """The first `steps` batches of a loader as an epoch of their own."""

    def __init__(self, loader: BatchLoader, steps: int):
        self.loader, self.steps, self.device = loader, steps, loader.device

    def __len__(self) -> int:
        return self.steps

    def set_epoch(self, epoch: int) -> None:
        self.loader.set_epoch(epoch)

    def batches(self, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        return islice(self.loader.batches(start), self.steps)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def repeated(work: Callable[[], object], times: int) -> None:
    for _ in range(times):
        work()


def first(batches: Iterable[Any], count: int) -> None:
    for _ in islice(batches, count):
        pass


def matmul_seconds(model: nn.Module, images: Tensor, dtype: torch.dtype, repeats: int) -> float:
    """What a step's convolutions and linear layers take alone in `dtype`, forward and backward.

    Each layer's three products (two where no gradient of the input is needed) by themselves, at the
    shapes that they have in the network; the median of `repeats`, summed over the layers.
    """
    inputs: dict[nn.Module, Tensor] = {}
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [m.register_forward_pre_hook(lambda m, x: inputs.update({m: x[0]})) for m in layers]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    total = 0.0
    for layer in layers:
        given = inputs[layer].detach().to(dtype)
        weight = layer.weight.detach().to(dtype)
        needs_input = given.shape[1] != images.shape[1] or given.ndim != 4
        products: list[Callable[[], object]]
        if isinstance(layer, nn.Conv2d):
            out = F.conv2d(given, weight, None, layer.stride, layer.padding)
            gradient = torch.randn_like(out)
            shape = (list(layer.stride), list(layer.padding), [1, 1], False, [0, 0], 1)

            def back(mask: list[bool], g=gradient, x=given, w=weight, s=shape) -> object:  # type: ignore[no-untyped-def]
                return torch.ops.aten.convolution_backward(g, x, w, None, *s, mask)

            products = [
                lambda x=given, w=weight, c=layer: F.conv2d(x, w, None, c.stride, c.padding),  # type: ignore[misc]
                lambda b=back: b([False, True, False]),  # type: ignore[misc]
            ]
            products += [lambda b=back: b([True, False, False])] if needs_input else []  # type: ignore[misc]
        else:
            x = given.flatten(0, -2)
            g = torch.randn(len(x), len(weight), dtype=x.dtype, device=x.device)
            products = [
                lambda x=x, w=weight: F.linear(x, w),  # type: ignore[misc]
                lambda g=g, w=weight: g @ w,  # type: ignore[misc]
                lambda g=g, x=x: g.T @ x,  # type: ignore[misc]
            ]
        many = 20 if images.is_cuda else 1  # a GPU is asked for the next before one is done
        for product in products:
            product()
            work = functools.partial(repeated, product, many)
            total += statistics.median(seconds(work, images.device) for _ in range(repeats)) / many
    return total


def profile_table(ours: Ours, steps: int) -> dict[str, float]:
    """Share of the CPU time of `steps` steps by part."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        ours.run(steps)
    shares = dict.fromkeys([*GROUPS, "rest"], 0.0)
    for event in profiler.key_averages():
        fits = (g for g, parts in GROUPS.items() if any(part in event.key for part in parts))
        shares[next(fits, "rest")] += event.self_cpu_time_total
    total = sum(shares.values())
    return {name: value / total for name, value in shares.items()}


def load(root: str | None) -> tuple[Tensor, Tensor]:
    """Training images uint8 `[N, 3, 32, 32]` and labels."""
    if root is None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (50_000, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return images, torch.randint(0, CLASSES, (50_000,), generator=generator)
    arrays = load_dataset(DatasetArgs(name="ImageFolder", root=root, image_size=32), "data").arrays
    return arrays.train_images, arrays.train_labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds and steps")
    parser.add_argument("--root", help="a folder of images instead of noise")
    parser.add_argument("--optimizer", default="adamw", help="ours; plain has AdamW")
    parser.add_argument("--batch", type=int, default=BATCH, help="images a step")
    parser.add_argument("--workers", type=int, default=2, help="of plain's DataLoader")
    parser.add_argument("--save", help="write all figures to this JSON file")
    args = parser.parse_args()
    rounds, steps = (3, 15) if args.quick else (9, 30)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps *= 6 if device.type == "cuda" else 1
    images, labels = load(args.root)
    size = args.batch
    steps = min(steps, len(images) // size)
    if steps < 1 or args.workers < 0:
        parser.error(f"needs batches of 1 to {len(images)} images and no negative --workers")
    plain = Plain(images, labels, device, batch=size, workers=args.workers)
    ours = Ours(images, labels, device, batch=size, optimizer=args.optimizer)
    for loop in (plain, ours):
        loop.run(5)
    taken: dict[str, list[float]] = {"plain": [], "ours": [], "plain data": [], "our data": []}
    work: dict[str, Callable[[], object]] = {
        "plain": lambda: plain.run(steps),
        "ours": lambda: ours.run(steps),
        "plain data": lambda: first(plain.data, steps),
        "our data": lambda: first(ours.data, steps),
    }
    limit = []
    batch = torch.randn(size, *images.shape[1:], device=device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    dtype = torch.bfloat16 if ours.precision == "bf16" else torch.float32
    for _ in range(rounds):
        for name, run in work.items():
            taken[name].append(seconds(run, device) / steps)
        limit.append(matmul_seconds(ours.model, batch, dtype, 5))
    print(json.dumps(environment(device)))
    rows = {name: statistics.median(times) for name, times in taken.items()}
    rows["matrix products alone"] = statistics.median(limit)
    print(f"\n{'batch ' + str(size):24}{'ms a step':>12}{'min':>8}{'max':>8}{'images/s':>11}")
    for (name, median), times in zip(rows.items(), [*taken.values(), limit], strict=True):
        low, high = 1e3 * min(times), 1e3 * max(times)
        print(f"{name:24}{1e3 * median:>12.1f}{low:>8.1f}{high:>8.1f}{size / median:>11.0f}")
    found: dict[str, Any] = {name: size / median for name, median in rows.items()}
    if device.type == "cpu":
        found["profile"] = profile_table(ours, 5)
        print("\nwhere our step goes")
        for name, shard in found["profile"].items():
            print(f"  {name:30}{shard:>7.1%}")
    ratios = [a / b for a, b in zip(taken["plain"], taken["ours"], strict=True)]
    shares = [a / b for a, b in zip(limit, taken["ours"], strict=True)]
    result = {
        "throughput_vs_plain": round(statistics.median(ratios), 2),
        "share_of_matmul_limit": round(statistics.median(shares), 3),
    }
    if args.save:
        write_json(Path(args.save), {**found, **result, "environment": environment(device)})
    print(json.dumps(result))


if __name__ == "__main__":
    main()
