"""Every kind of training that `fit` does, two epochs each, for whoever compares two ways of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stages.distillation import DistillSpec, distill
from stages.early_exit import EarlyExitSpec, early_exit
from stages.finetuning import FinetuneSpec, finetune
from stages.pruning import PruneSpec, prune
from stages.qat import QatSpec, qat
from stages.stage import Context
from stages.state import ModelState
from tests.support.chains import TWO_KINDS

TWO_EPOCHS: dict[str, Any] = {"epochs": 2, "batch_size": 192, "precision": "fp32"}
Stage = Callable[..., ModelState]  # (state, context, **more of the recipe)


def distilled(**options: Any) -> Stage:
    def run(state: ModelState, ctx: Context, **more: Any) -> ModelState:
        return distill(state, DistillSpec(**{"width": 0.5, **TWO_EPOCHS, **options, **more}), ctx)

    return run


def left_early(**options: Any) -> Stage:
    def run(state: ModelState, ctx: Context, **more: Any) -> ModelState:
        return early_exit(state, EarlyExitSpec(**TWO_EPOCHS, **options, **more), ctx)

    return run


def aware(**options: Any) -> Stage:
    def run(state: ModelState, ctx: Context, **more: Any) -> ModelState:
        return qat(state, QatSpec(**TWO_EPOCHS, **options, **more), ctx)

    return run


def masked(state: ModelState, ctx: Context, **more: Any) -> ModelState:
    spec = FinetuneSpec(sparsity=1e-3, ema_decay=0.9, **TWO_EPOCHS, **more)
    return finetune(prune(state, PruneSpec(ratio=0.4), ctx), spec, ctx)


def aware_with_exits(state: ModelState, ctx: Context, **more: Any) -> ModelState:
    return aware(teacher="current")(left_early()(state, ctx, **more), ctx, **more)


FITS: dict[str, Stage] = {
    "masked, sparsity": masked,
    "kd": distilled(grad_clip=1.0, cutout=2),
    "kd, bf16": distilled(precision="bf16"),
    "kd, mixup": distilled(mixup=0.2, optimizer="muon"),
    "dkd": distilled(logit_loss="dkd"),
    "features": distilled(alpha=0.5, optimizer="muon", **TWO_KINDS),
    "remembered": distilled(augmentation="none"),
    "exits": left_early(),
    "exits, taught": left_early(teacher="current", optimizer="muon", **TWO_KINDS),
    "exits alone": left_early(trunk="frozen"),
    "qat": aware(ema_decay=0.9),
    "qat, taught": aware(teacher="current", optimizer="muon"),
    "qat with exits": aware_with_exits,
}


def recordings_in(name: str) -> int:
    """One for each stage that trains, and QAT's second while ranges stay."""
    return 1 + ("qat" in name) + (name == "qat with exits")
