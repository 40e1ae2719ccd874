"""The one training loop and the one evaluation loop, with their optimizers and schedulers."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.optim import lr_scheduler
from tqdm import tqdm

from augmentation import BatchLoader
from captured import Step
from machine import bf16_is_fast
from muon import Muon, hidden_matrices

Criterion = Callable[[Tensor, Tensor, Tensor], Tensor]  # (logits, labels, images) → scalar


class Recipe(BaseModel):
    """How a network is trained. `train` takes these from `training_args`; a stage may override."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    batch_size: int = Field(128, ge=2, le=65536)
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop", "muon"] = "adamw"
    learning_rate: float = Field(4e-3, gt=0, le=100)  # the peak, where the schedule has one
    weight_decay: float = Field(0.05, ge=0, le=10)  # on matrices and kernels only
    momentum: float = Field(0.9, ge=0, lt=1)  # sgd (Nesterov) and rmsprop
    scheduler: Literal["cosine", "onecycle", "step", "multistep", "plateau", "none"] = "onecycle"
    warmup_epochs: float = Field(0.0, ge=0)  # cosine: linear warm-up from 1 % of the rate
    step_epochs: int = Field(10, ge=1)  # step: epochs between cuts
    milestones: list[int] = []  # multistep: epochs of the cuts
    gamma: float = Field(0.1, gt=0, le=1)  # step, multistep, plateau: factor of a cut
    patience: int = Field(3, ge=0)  # plateau: epochs without a better validation loss
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    grad_clip: float = Field(0.0, ge=0)  # largest gradient norm; 0 = off
    sparsity: float = Field(0.0, ge=0, le=1)  # weight of Σ|γ| over batch norms, arXiv:1708.06519
    ema_decay: float = Field(0.0, ge=0, lt=1)  # averaged weights are kept instead; 0 = off
    augmentation: Literal["none", "standard", "randaugment"] = "standard"
    cutout: int = Field(0, ge=0)  # side of the square in pixels; 0 = off
    mixup: float = Field(0.0, ge=0)  # alpha; 0 = off
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the hardware has it
    keep: Literal["last", "best"] = "last"  # weights of the last epoch, or best on validation
    compile: Literal["auto"] | bool = "auto"  # torch.compile a float network; auto: on a GPU

    @model_validator(mode="after")
    def _milestones(self) -> Recipe:
        if self.scheduler == "multistep" and not self.milestones:
            raise ValueError("scheduler 'multistep' needs milestones, e.g. [30, 60]")
        return self


class TrainingArgs(Recipe):
    """`training_args` of an experiment."""

    initial_train_epochs: int = Field(20, ge=0)  # 0 where a baseline is loaded
    seed: int = Field(0, ge=0, lt=2**31)
    deterministic: bool = False  # deterministic algorithms also where they are slower (CUDA)


class NonFiniteLossError(RuntimeError):
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


KINDS = 4096  # of networks, batch sizes and settings that one process may compile
SETTLE_SECONDS = 2.0  # between looks at the losses, each of which waits for the device


class Share(Protocol):
    """One process's part of each batch, where several train one network: see parallel.py."""

    weight: float  # of its mean loss in that of the whole batch

    def of(self, values: Tensor) -> Tensor:
        """Its rows of a whole batch."""

    def reduce(
        self, optimizer: torch.optim.Optimizer, loss: Tensor, hits: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum gradients over all processes, in place; returns the sums of loss and hits."""


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


def resolve_precision(precision: str, device: torch.device | str) -> str:
    """'auto' → 'bf16' where it is fast, else 'fp32'; other values as they are."""
    if precision != "auto":
        return precision
    return "bf16" if bf16_is_fast(device) else "fp32"


def wants_compiling(recipe: Recipe, device: torch.device | str) -> bool:
    """'auto' → on a GPU; on the CPU compiled steps were no faster, and take half a minute first."""
    return torch.device(device).type == "cuda" if recipe.compile == "auto" else recipe.compile


def compile_step(model: nn.Module) -> nn.Module:
    """`model`, sharing its weights, with forward and backward compiled, whatever came before it.

    TorchDynamo keeps code by function, and after eight kinds of network in one would compile no
    more and run the ninth as it is.
    """
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, KINDS)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, KINDS)
    return torch.compile(model, dynamic=False)  # type: ignore[return-value]


def get_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over the model's parameters; norms and biases are not decayed."""
    matrices = [p for p in hidden_matrices(model) if p.requires_grad]
    apart = {id(p) for p in matrices} if recipe.optimizer == "muon" else set()
    decayed = [
        p for p in model.parameters() if p.requires_grad and p.ndim > 1 and id(p) not in apart
    ]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rate = recipe.learning_rate
    on_gpu = any(p.is_cuda for p in model.parameters())  # where a step may be captured
    if recipe.optimizer == "muon":
        decay = recipe.weight_decay
        return Muon(matrices, groups, rate, weight_decay=decay, capturable=on_gpu)
    if recipe.optimizer == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(groups, rate, recipe.momentum, nesterov=nesterov, fused=True)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, rate, fused=True, capturable=on_gpu)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, rate, fused=True, capturable=on_gpu)
    return torch.optim.RMSprop(groups, rate, momentum=recipe.momentum, capturable=on_gpu)


class Schedule:
    """A learning-rate scheduler with the moment at which it steps: 'step', 'epoch' or 'metric'."""

    def __init__(self, scheduler: Any, unit: Literal["step", "epoch", "metric"]):
        self.scheduler, self.unit = scheduler, unit

    def after_step(self) -> None:
        if self.unit == "step":
            self.scheduler.step()

    def after_epoch(self, validation_loss: float) -> None:
        if self.unit == "epoch":
            self.scheduler.step()
        elif self.unit == "metric":
            self.scheduler.step(validation_loss)


def get_scheduler(
    optimizer: torch.optim.Optimizer, recipe: Recipe, epochs: int, steps_per_epoch: int
) -> Schedule:
    """The recipe's schedule over `epochs` epochs of `steps_per_epoch` optimizer steps."""
    total = max(1, epochs * steps_per_epoch)
    if recipe.scheduler == "onecycle":
        rates = [recipe.learning_rate] * len(optimizer.param_groups)
        # OneCycleLR would swing momentum too, and refuses rmsprop at momentum 0.
        cycle = lr_scheduler.OneCycleLR(optimizer, rates, total, cycle_momentum=False)
        return Schedule(cycle, "step")
    if recipe.scheduler == "cosine":
        warmup = min(total - 1, round(recipe.warmup_epochs * steps_per_epoch))
        cosine = lr_scheduler.CosineAnnealingLR(optimizer, total - warmup)
        if warmup == 0:
            return Schedule(cosine, "step")
        linear = lr_scheduler.LinearLR(optimizer, 0.01, total_iters=warmup)
        both = lr_scheduler.SequentialLR(optimizer, [linear, cosine], [warmup])
        return Schedule(both, "step")
    if recipe.scheduler == "step":
        step = lr_scheduler.StepLR(optimizer, recipe.step_epochs, recipe.gamma)
        return Schedule(step, "epoch")
    if recipe.scheduler == "multistep":
        multistep = lr_scheduler.MultiStepLR(optimizer, recipe.milestones, recipe.gamma)
        return Schedule(multistep, "epoch")
    if recipe.scheduler == "plateau":
        plateau = lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=recipe.gamma, patience=recipe.patience
        )
        return Schedule(plateau, "metric")
    return Schedule(lr_scheduler.ConstantLR(optimizer, 1.0, total_iters=0), "epoch")


class ExponentialMovingAverage:
    """Averaged copies of some tensors of a module: its parameters and norm statistics, by name.

    torch's AveragedModel deep-copies the module and averages every buffer, which for a quantization
    observer that has seen nothing (its minimum is infinite) gives NaN.
    """

    def __init__(self, module: nn.Module, decay: float, names: Iterable[str] | None = None):
        self.decay, self.updates = decay, 0
        values = module.state_dict()
        chosen = values.keys() if names is None else names
        self.average = {n: values[n].clone() for n in chosen if values[n].is_floating_point()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average by 1 - decay, by more in the first steps."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        values = module.state_dict()
        torch._foreach_lerp_(
            list(self.average.values()), [values[name] for name in self.average], 1 - decay
        )


def cross_entropy(label_smoothing: float = 0.0) -> Criterion:
    """The plain criterion; takes class indices `[B]` or, under mixup, probabilities `[B, K]`."""

    def loss(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    return loss


def final_logits(logits: Tensor) -> Tensor:
    """`[B, K]`; of the logits of every exit, `[E + 1, B, K]`, those of the network's end."""
    return logits[-1] if logits.ndim == 3 else logits


def over_exits(criterion: Criterion, exit_weight: float) -> Criterion:
    """`criterion` at the network's end, and `exit_weight` times at each exit, over all weights.

    An infinite weight leaves out the end (arXiv:1709.01686: a weighted sum over the exits).
    """
    frozen = math.isinf(exit_weight)

    def loss(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        *exits, end = [criterion(one, labels, images) for one in logits]
        of_exits = torch.stack(exits)
        if frozen:
            return of_exits.mean()
        return (end + exit_weight * of_exits.sum()) / (1 + exit_weight * len(exits))

    return loss


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
    share: Share | None = None,
    step: Step | None = None,
) -> TrainResult:
    """One pass over `loader`, from `progress.step` on; the model is left in training mode.

    `after_step` runs after every optimizer step, and may raise to stop. With a `share` of every
    batch, the result is that of all processes together. Losses are looked at every SETTLE_SECONDS
    and at the end, so NonFiniteLossError comes some steps late; it names the right one. A `step`
    takes the place of `take_step` with `criterion`, `precision` and `grad_clip`.
    """
    step = step or functools.partial(
        take_step, model, optimizer, criterion=criterion or cross_entropy(), precision=precision,
        grad_clip=grad_clip, share=share,
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
        if share is not None or time.perf_counter() - settled > SETTLE_SECONDS:
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
    share: Share | None = None,
) -> tuple[Tensor, Tensor]:
    """Train on one batch; its mean loss and number of right answers, both scalars on the device."""
    if share is not None:
        images, labels = share.of(images), share.of(labels)
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = model(images)
        loss = criterion(logits.float(), labels, images)
    hard = labels if labels.ndim == 1 else labels.argmax(1)
    hits = (final_logits(logits.detach()).argmax(1) == hard).sum()
    loss = loss if share is None else share.weight * loss
    loss.backward()
    loss = loss.detach()
    if share is not None:
        loss, hits = share.reduce(optimizer, loss, hits)
    if grad_clip > 0:
        nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    optimizer.step()
    return loss, hits


@torch.inference_mode()
def evaluate(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Loss and accuracy of `model` over a whole split, as it is (its mode is left alone).

    A float network must be in eval mode; an int8 network has no other.
    """
    loss = correct = seconds = 0.0
    count = 0
    for images, labels in loader:
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        started = time.perf_counter()
        logits = final_logits(model(images))
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        seconds += time.perf_counter() - started
        loss += F.cross_entropy(logits.float(), labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    some = max(1, count)
    return Evaluation(loss / some, 100 * correct / some, 1e3 * seconds / some, count)
