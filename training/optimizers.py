"""Optimizers, learning-rate schedules and averaged weights, as a Recipe names them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import lr_scheduler

from training.muon import Muon, hidden_matrices
from training.recipe import Recipe


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
