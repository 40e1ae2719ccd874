"""The one training loop and the one evaluation loop; what they are made of is in training/."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from data_sets.batches import BatchLoader
from machine.errors import Failed
from training.cuda_graph import TrainingStep
from training.losses import Criterion, cross_entropy, final_logits, over_exits
from training.optimizers import ExponentialMovingAverage, Schedule, get_optimizer, get_scheduler
from training.recipe import Recipe, TrainingArgs, resolve_precision, wants_compiling
from training.whole_batch import Shard

__all__ = [  # what a notebook takes from here; some of it is made behind the door
    "Criterion", "EpochProgress", "Evaluation", "ExponentialMovingAverage", "NonFiniteLossError",
    "Recipe", "Schedule", "TrainResult", "TrainingArgs", "compile_step", "cross_entropy",
    "evaluate", "final_logits", "get_optimizer", "get_scheduler", "over_exits",
    "resolve_precision", "take_step", "train_one_epoch", "wants_compiling",
]  # fmt: skip


class NonFiniteLossError(Failed):
    """The loss became NaN or infinite, or ran away; the message says in which epoch and step."""


@dataclass
class EpochProgress:
    """Where an epoch stands: enough to go on with it in another process.

    What the last steps gave waits on the device, so that no step waits for it, until `settle`.
    """

    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    epoch: int = 0
    waiting: list[tuple[Tensor, Tensor, int]] = field(default_factory=list, repr=False)

    def add(self, loss: Tensor, correct: Tensor, images: int) -> None:
        """Count a step: its mean loss and number of right answers, both scalars on the device."""
        self.waiting.append((loss, correct, images))
        self.step += 1

    def settle(self) -> None:
        """Bring the sums up to date. Raises NonFiniteLossError, which names the first bad step."""
        if not self.waiting:
            return
        waiting, self.waiting = self.waiting, []
        losses = torch.stack([loss for loss, _, _ in waiting]).tolist()
        for number, value in enumerate(losses, self.step - len(waiting) + 1):
            if not math.isfinite(value):
                raise NonFiniteLossError(
                    f"loss is {value} in epoch {self.epoch + 1}, step {number}"
                )
        for value, (_, _, images) in zip(losses, waiting, strict=True):
            self.loss_sum += value * images
            self.seen += images
        self.correct += int(torch.stack([correct for _, correct, _ in waiting]).sum())

    def plain(self) -> dict[str, Any]:
        """As plain data, settled: `EpochProgress(**plain)` goes on from there."""
        self.settle()
        return {
            "step": self.step,
            "loss_sum": self.loss_sum,
            "correct": self.correct,
            "seen": self.seen,
        }


VARIANTS = 4096  # networks, batch sizes and settings that one process may compile
SETTLE_SECONDS = 2.0  # time between two looks at the losses, each of which waits for the device


class TrainResult(NamedTuple):
    """One training epoch: mean loss, top-1 in percent, the last rate, images a second."""

    loss: float
    accuracy: float
    learning_rate: float
    images_per_second: float


class Evaluation(NamedTuple):
    """One pass over a split: mean cross-entropy, top-1 in percent, mean ms an image (forward)."""

    loss: float
    accuracy: float
    inference_time_ms: float
    images: int
    by_class: (
        Tensor  # int64 [2, K]: how many images of each class are right, and how many there are
    )

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the classes that occur of the share of their images that is right, in percent.

        As sklearn.metrics.balanced_accuracy_score has it.
        """
        right, there = self.by_class[:, self.by_class[1] > 0]
        return 100 * float((right.double() / there).mean()) if len(there) else 0.0


def compile_step(model: nn.Module) -> nn.Module:
    """`model`, sharing its weights, with forward and backward compiled, whatever came before it.

    TorchDynamo keeps code by function, and after eight kinds of network in one would compile no
    more and run the ninth as it is.
    """
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, VARIANTS)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, VARIANTS)
    return torch.compile(model, dynamic=False)  # type: ignore[return-value]


def train_one_epoch(
    model: nn.Module,
    loader: BatchLoader,
    optimizer: torch.optim.Optimizer,
    *,
    criterion: Criterion | None = None,
    schedule: Schedule | None = None,
    precision: str = "fp32",
    grad_clip: float = 0.0,
    epoch: int = 0,
    progress: EpochProgress | None = None,
    after_step: Callable[[EpochProgress], None] | None = None,
    description: str = "train",
    shard: Shard | None = None,
    step: TrainingStep | None = None,
) -> TrainResult:
    """One pass over `loader`, from `progress.step` on; the model is left in training mode.

    `after_step` runs after every optimizer step, and may raise to stop. With a `shard` of every
    batch, the result is that of all processes together. Losses are looked at every SETTLE_SECONDS
    and at the end, so NonFiniteLossError comes some steps late; it names the right one. A `step`
    takes the place of `take_step` with `criterion`, `precision` and `grad_clip`.
    """
    step = step or functools.partial(
        take_step, model, optimizer, criterion=criterion or cross_entropy(), precision=precision,
        grad_clip=grad_clip, shard=shard,
    )  # fmt: skip
    progress = progress or EpochProgress()
    progress.epoch = epoch
    loader.set_epoch(epoch)
    model.train()
    progress.settle()
    started, seen_before = time.perf_counter(), progress.seen
    settled = started
    bar = tqdm(
        loader.batches(progress.step),
        total=len(loader),
        initial=progress.step,
        desc=description,
        unit="batch",
        leave=False,
        disable=None,
    )
    for images, labels in bar:
        batch = len(images)
        loss, hits = step(images, labels)
        rate = optimizer.param_groups[0]["lr"]
        if schedule is not None:
            schedule.after_step()
        progress.add(loss, hits, batch)
        if shard is not None or time.perf_counter() - settled > SETTLE_SECONDS:
            progress.settle()  # processes look at the same step, so that they stop at the same
            settled = time.perf_counter()
            bar.set_postfix(
                loss=f"{progress.loss_sum / progress.seen:.3f}",
                acc=f"{100 * progress.correct / progress.seen:.1f}%",
                lr=f"{rate:.1e}",
                refresh=False,
            )
        if after_step is not None:
            after_step(progress)
    progress.settle()
    seconds = time.perf_counter() - started
    seen = max(1, progress.seen)
    return TrainResult(
        progress.loss_sum / seen,
        100 * progress.correct / seen,
        float(optimizer.param_groups[0]["lr"]),
        (progress.seen - seen_before) / seconds,
    )


def take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    criterion: Criterion,
    precision: str = "fp32",
    grad_clip: float = 0.0,
    shard: Shard | None = None,
) -> tuple[Tensor, Tensor]:
    """Train on one batch; its mean loss and number of right answers, both scalars on the device."""
    if shard is not None:
        images, labels = shard.rows_of(images), shard.rows_of(labels)
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = model(images)
        loss = criterion(logits.float(), labels, images)
    hard = labels if labels.ndim == 1 else labels.argmax(1)
    hits = (final_logits(logits.detach()).argmax(1) == hard).sum()
    loss = loss if shard is None else shard.weight * loss
    loss.backward()
    loss = loss.detach()
    if shard is not None:
        loss, hits = shard.reduce(optimizer, loss, hits)
    if grad_clip > 0:
        nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    optimizer.step()
    return loss, hits


@torch.inference_mode()
def evaluate(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Loss and accuracy of `model` over a whole split, as it is (its mode is left alone).

    A float network must be in eval mode; an int8 network has no other.
    """
    loss = seconds = 0.0
    by_class = torch.zeros(2, 0, dtype=torch.int64)
    for images, labels in loader:
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        started = time.perf_counter()
        logits = final_logits(model(images))
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        seconds += time.perf_counter() - started
        loss += F.cross_entropy(logits.float(), labels, reduction="sum").item()
        of_right = labels[logits.argmax(1) == labels]
        counts = [each.bincount(minlength=logits.shape[1]) for each in (of_right, labels)]
        by_class = torch.stack(counts).cpu() + (by_class if by_class.numel() else 0)
    correct, count = by_class.sum(1).tolist()
    some = max(1, count)
    return Evaluation(loss / some, 100 * correct / some, 1e3 * seconds / some, count, by_class)
