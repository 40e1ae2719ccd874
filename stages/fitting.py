"""`fit`: how every stage that trains does it, and goes on after an interruption."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from data_sets.batches import BatchLoader
from machine.errors import Interrupted
from machine.files import tensor_bytes
from methods.early_exit.exits import Exits
from methods.quantization import backends
from networks.convolution import fuse_blocks
from stages.ranks import RAISED_BY_ALL_RANKS, first_rank
from stages.stage import Context, StageError
from stages.state import ModelState, build, cpu_copy
from stages.teaching import Distillation
from stages.trainable import (
    LastExit,
    all_is_frozen,
    freeze,
    freeze_trunk,
    frozen_in,
    masks_in,
    trainable,
    why_not_recorded,
    with_sparsity,
)
from train_eval import (
    EpochProgress,
    Evaluation,
    NonFiniteLossError,
    compile_step,
    evaluate,
    take_step,
    train_one_epoch,
)
from training import whole_batch
from training.cuda_graph import CapturedStep, TrainingStep
from training.losses import Criterion, cross_entropy, over_exits
from training.optimizers import ExponentialMovingAverage, get_optimizer, get_scheduler
from training.recipe import Recipe, resolve_precision, wants_compiling
from training.team import current_team
from training.whole_batch import Shard, part_of

SAVING_SHARE = 0.05  # share of the training time that snapshots between epochs may take
FROZEN = "an earlier stage froze the int8 weights, batch norms included"


def fit(
    state: ModelState,
    recipe: Recipe,
    epochs: int,
    ctx: Context,
    distillation: Distillation | None = None,
    *,
    exits_only: bool = False,
) -> ModelState:
    """Train `state`'s network for `epochs` epochs and return the state that comes out.

    Early exits are trained with it, or `exits_only`, all else frozen. A quantization-aware state
    (scheme 'qat') trains with fake quantization, its ranges moving in the first half of the epochs.
    Whole channels that are zero stay zero, and int8 weights that are frozen what they are. A
    `distillation` is the criterion; its own parameters train along and are dropped. Saves itself to
    `ctx.snapshot` after an epoch, or after several where saving would take more than SAVING_SHARE
    of the time, and goes on from there; on the CPU the result is the same to the bit. The other
    processes of a torchrun take part, and may be others when it goes on. Raises NonFiniteLossError
    and Interrupted, both with the last snapshot kept, and TeamError.
    """
    if frozen_in(state):
        if all_is_frozen(state):
            ctx.warn(f"{FROZEN}, and this network has nothing else: nothing was trained")
            return state
        if not exits_only:
            ctx.warn(f"{FROZEN}: only what int8 leaves in float32, and exits, are trained")
    team = current_team()
    meeting = team.together(RAISED_BY_ALL_RANKS) if team is not None else nullcontext()
    with meeting, _fastest_convolutions():
        if team is not None and team.rank == 0:
            first_rank.broadcast_fit(team, state, recipe, epochs, ctx, distillation, exits_only)
        criterion: Criterion = distillation or cross_entropy(recipe.label_smoothing)
        training = _Training(state, recipe, epochs, ctx, distillation, exits_only)
        if state.model_args["exits"]:
            weight = (state.exits or Exits()).loss_weight
            criterion = over_exits(criterion, math.inf if exits_only else weight)
        if recipe.sparsity:
            criterion = with_sparsity(criterion, training.module, recipe.sparsity)
        training.set_step(criterion)
        training.resume()
        while training.epoch < epochs:
            training.run_epoch()
        return training.result()


@contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Inside, cuDNN times its kernels at each new shape, unless these must be deterministic."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class _Training:
    """The moving parts of `fit`: everything that a snapshot must hold is an attribute here."""

    def __init__(
        self,
        state: ModelState,
        recipe: Recipe,
        epochs: int,
        ctx: Context,
        distillation: Distillation | None,
        exits_only: bool,
    ):
        self.state, self.recipe, self.epochs, self.ctx = state, recipe, epochs, ctx
        torch.manual_seed(ctx.seed)
        self.fake_quant = state.quant is not None and state.quant.scheme == "qat"
        backend = state.quant.backend if state.quant is not None and self.fake_quant else None
        in_bf16 = backend is None or backends.trains_in_bf16(backend)
        self.precision = resolve_precision(recipe.precision, ctx.device) if in_bf16 else "fp32"
        # One network in four roles: `module` holds what is trained (float, or fake-quantized),
        # `names` says where each master weight lives in it, `stepped` is what a step calls (the
        # module or its compiled form), `evaluated` what validation judges (the module or an exit).
        float_model = build(state)
        self.module, self.names = trainable(state, float_model, ctx.device)
        self.evaluated = self.module
        frozen = {self.names[name] for name in frozen_in(state)}
        freeze(self.module, frozen)
        if exits_only:
            freeze_trunk(self.module, self.names)
            self.evaluated = LastExit(self.module)
        self.masks = masks_in(self.module, float_model, self.names)
        # Data, and who shares it.
        self.loaders = ctx.loaders(recipe, epochs=epochs)
        self.shard = self.join_team()
        # What a step is made of.
        self.distillation = distillation
        if distillation is not None:
            distillation.to(ctx.device).attach(self.module)
        alone = self.shard is None  # kernels and compiled code know nothing of other processes
        plain = not (self.fake_quant or distillation or state.model_args["exits"])
        self.compiled = alone and plain and wants_compiling(recipe, ctx.device)
        teacher = distillation.teacher.state if distillation is not None else None
        self.not_recorded = why_not_recorded(state, recipe, ctx.device, teacher, alone)
        self.stepped = compile_step(self.module) if self.compiled else self.module
        fused = alone and not self.compiled and fuse_blocks(self.module, ctx.device)
        trained = nn.ModuleList([m for m in (self.module, distillation) if m is not None])
        self.optimizer = get_optimizer(trained, recipe)
        self.schedule = get_scheduler(self.optimizer, recipe, epochs, len(self.loaders.train))
        self.average = None
        if recipe.ema_decay:
            moving = [name for name in self.names.values() if name not in frozen]
            self.average = ExponentialMovingAverage(self.module, recipe.ema_decay, moving)
        # Where the training stands, and the clock by which it saves itself.
        self.epoch, self.progress = 0, EpochProgress()
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] | None = None  # {'loss', 'module'} of the best epoch
        self.started = self.saved_at = time.monotonic()
        self.save_seconds = 0.0  # time that the last snapshot took
        self.apply_masks()
        ctx.details.update(
            precision=self.precision,
            device=str(ctx.device),
            compiled=self.compiled,
            recorded=self.not_recorded is None,
            not_recorded=self.not_recorded,
            fused_norm=fused,
            history=self.history,
        )

    def join_team(self) -> Shard | None:
        """This process's part of every batch, where there are others. Raises StageError."""
        team = current_team()
        if team is None:
            return None
        try:
            batch = self.loaders.train.batch_size
            shard = Shard(team, batch, self.ctx.stop_requested)
        except ValueError as error:
            raise StageError(str(error)) from None
        shard.synchronize(self.module)
        backends.observe_together(self.module, whole_batch.all_reduce_extremes)
        self.ctx.details["processes"] = team.size
        return shard

    def set_step(self, criterion: Criterion) -> None:
        """What trains on a batch, while ranges move and when they do not; recorded, two graphs."""
        step: TrainingStep = partial(
            take_step, self.stepped, self.optimizer, criterion=criterion, precision=self.precision,
            grad_clip=self.recipe.grad_clip, shard=self.shard,
        )  # fmt: skip
        self.steps = dict.fromkeys((True, False), step)
        if self.not_recorded is None:
            for observing in self.steps:
                self.steps[observing] = CapturedStep(step, self.optimizer, self.ctx.device)

    def run_epoch(self) -> None:
        started = time.perf_counter()
        observing = self.fake_quant and 2 * self.epoch < self.epochs
        self.set_observing(observing)
        try:
            result = train_one_epoch(
                self.stepped,
                self.loaders.train,
                self.optimizer,
                schedule=self.schedule,
                epoch=self.epoch,
                progress=self.progress,
                after_step=self.after_step,
                description=f"epoch {self.epoch + 1}/{self.epochs}",
                shard=self.shard,
                step=self.steps[observing],
            )
            self.guard_divergence(result.loss)
            validation = self.validate()
        except NonFiniteLossError as error:
            raise NonFiniteLossError(
                f"{error}; lower learning_rate or set grad_clip (the last good snapshot is kept)"
            ) from None
        self.schedule.after_epoch(validation.loss)
        row = {
            "epoch": self.epoch + 1,
            "train_loss": result.loss,
            "train_accuracy": result.accuracy,
            "validation_loss": validation.loss,
            "validation_accuracy": validation.accuracy,
            "learning_rate": result.learning_rate,
        }
        self.history.append(row)
        self.ctx.say(
            f"  epoch {self.epoch + 1:>{len(str(self.epochs))}}/{self.epochs}"
            f"  loss {result.loss:.4f}  acc {result.accuracy:6.2f} %"
            f"  | validation loss {validation.loss:.4f}  acc {validation.accuracy:6.2f} %"
            f"  | lr {result.learning_rate:.1e}  {result.images_per_second:.0f} images/s"
            f"  {time.perf_counter() - started:.1f} s"
        )
        self.epoch, self.progress = self.epoch + 1, EpochProgress()
        since = time.monotonic() - self.saved_at
        if self.epoch == self.epochs or since * SAVING_SHARE >= self.save_seconds:
            self.save()

    def validate(self) -> Evaluation:
        """Judge the weights that count, and keep them where they are the best so far."""
        self.set_observing(False)  # validation images leave no trace in the ranges
        with _averaged(self.module, self.average):
            self.module.eval()
            validation = evaluate_shard(self.evaluated, self.loaders.validation, self.shard)
            if not math.isfinite(validation.loss):  # after a last step with a finite loss
                raise NonFiniteLossError(
                    f"validation loss is {validation.loss} after epoch {self.epoch + 1}"
                )
            if self.recipe.keep == "best" and (
                self.best is None or validation.loss < self.best["loss"]
            ):
                self.best = {"loss": validation.loss, "module": cpu_copy(self.module.state_dict())}
        return validation

    def set_observing(self, on: bool) -> None:
        """Whether what is trained on moves a quantized network's ranges."""
        if self.fake_quant:
            assert self.state.quant is not None
            backends.set_observing(self.module, self.state.quant, on)

    def guard_divergence(self, loss: float) -> None:
        """A finite loss can still have run away: far above guessing, and above where it began."""
        chance = math.log(self.state.model_args["num_classes"])
        first = self.history[0]["train_loss"] if self.history else loss
        if loss > 5 * max(chance, first):
            raise NonFiniteLossError(
                f"training diverged: mean loss {loss:.3g} in epoch {self.epoch + 1}, "
                f"first {first:.3g}, guessing {chance:.3g}"
            )

    def after_step(self, progress: EpochProgress) -> None:
        self.apply_masks()
        if self.average is not None:
            self.average.update(self.module)
        stop = self.ctx.stop_requested() if self.shard is None else self.shard.stopping
        if stop:
            self.save()
            raise Interrupted
        if time.monotonic() - self.saved_at > self.ctx.snapshot_seconds:
            self.save()

    @torch.no_grad()
    def apply_masks(self) -> None:
        for tensor, mask in self.masks:
            tensor.mul_(mask)

    def save(self) -> None:
        started = time.monotonic()
        if self.ctx.snapshot is not None:
            self.ctx.snapshot.save(self.everything())
        self.saved_at = time.monotonic()
        self.save_seconds = self.saved_at - started

    def everything(self) -> dict[str, Any]:
        """All that moves, as plain data and tensors; the same whatever the number of processes."""
        on_gpu = self.ctx.device.type == "cuda"
        return {
            "epoch": self.epoch,
            "progress": self.progress.plain(),
            "module": self.module.state_dict(),
            "distillation": self.distillation and self.distillation.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.scheduler.state_dict(),
            "average": self.average and (self.average.updates, self.average.average),
            "best": self.best,
            "history": self.history,
            "seconds": self.ctx.earlier_seconds + time.monotonic() - self.started,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.ctx.device) if on_gpu else None,
        }

    def resume(self) -> None:
        """Go on from `ctx.snapshot`, if there is one; other processes from where the first is."""
        found = self.ctx.snapshot.load() if self.ctx.snapshot is not None else None
        if self.shard is not None:
            first = self.shard.team.rank == 0
            start = self.shard.team.broadcast(
                tensor_bytes(found or self.everything()) if first else b""
            )
            if not first:
                found = torch.load(io.BytesIO(start), map_location="cpu", weights_only=True)
        if found is None:
            return
        self.epoch, self.progress = found["epoch"], EpochProgress(**found["progress"])
        self.module.load_state_dict(found["module"])
        if self.distillation is not None:
            self.distillation.load_state_dict(found["distillation"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.schedule.scheduler.load_state_dict(found["schedule"])
        if self.average is not None:
            self.average.updates, average = found["average"]
            self.average.average = {n: v.to(self.ctx.device) for n, v in average.items()}
        self.best = found["best"]
        self.ctx.earlier_seconds = found["seconds"]
        self.history[:] = found["history"]
        torch.set_rng_state(found["rng"])
        if found["cuda_rng"] is not None and self.ctx.device.type == "cuda":
            torch.cuda.set_rng_state(found["cuda_rng"], self.ctx.device)
        self.ctx.say(f"  resumed at epoch {self.epoch + 1}, step {self.progress.step + 1}")

    def result(self) -> ModelState:
        if self.best is not None:
            self.module.load_state_dict(self.best["module"])
        elif self.average is not None:
            self.module.load_state_dict(self.average.average, strict=False)
        found = self.module.state_dict()
        weights = cpu_copy({name: found[source] for name, source in self.names.items()})
        if self.state.quant is None or not self.fake_quant or self.average is not None:
            return self.state.changed(weights)  # averaged weights have ranges of their own
        quant = backends.with_trained_ranges(self.state.quant, self.module.cpu())
        return self.state.changed(weights, quant=quant)


def evaluate_shard(model: nn.Module, loader: BatchLoader, shard: Shard | None) -> Evaluation:
    """`evaluate`; of several processes each on its part of the images, every image once."""
    if shard is None:
        return evaluate(model, loader)
    whole, loader.index = loader.index, part_of(loader.index, shard.team)
    mine = evaluate(model, loader)
    loader.index = whole
    sums = [mine.loss * mine.images, mine.inference_time_ms * mine.images]
    by_class = torch.zeros(2, loader.num_classes)  # also where this process has no image
    by_class[:, : mine.by_class.shape[1]] = mine.by_class
    total = torch.cat([torch.tensor(sums, dtype=torch.float64), by_class.double().flatten()])
    dist.all_reduce(total)
    loss, ms = total[:2].tolist()
    by_class = total[2:].round().long().view(2, -1)
    images = int(by_class[1].sum())
    return Evaluation(loss / images, ms / images, by_class)


@contextmanager
def _averaged(module: nn.Module, average: ExponentialMovingAverage | None) -> Iterator[None]:
    """Inside, `module` holds the averaged weights."""
    if average is None:
        yield
        return
    values = module.state_dict()
    current = {name: values[name].clone() for name in average.average}
    module.load_state_dict(average.average, strict=False)
    yield
    module.load_state_dict(current, strict=False)
