"""`train` (the baseline, from random weights) and `finetune` (any network, further)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from stages.fitting import FitSpec, fit, recipe_of
from stages.stage import CompressionArgs, Context
from stages.state import ModelState
from stages.teaching import TeacherSpec, taught
from training.recipe import TrainingArgs


class TrainSpec(FitSpec):
    """Train a network from its initialisation."""

    epochs: int = Field(20, ge=1)

    @classmethod
    def defaults(cls, training: TrainingArgs, compression: CompressionArgs) -> dict[str, Any]:
        return {**recipe_of(training), "epochs": training.initial_train_epochs}

    def tags(self) -> tuple[str, str]:
        return "t", "trained"


class FinetuneSpec(FitSpec, TeacherSpec):
    """Train the present network on: pruned channels stay pruned, fake quantization stays on."""

    @classmethod
    def defaults(cls, training: TrainingArgs, compression: CompressionArgs) -> dict[str, Any]:
        return {
            **recipe_of(training),
            "epochs": compression.finetune_epochs,
            "learning_rate": compression.finetune_learning_rate,
        }

    def tags(self) -> tuple[str, str]:
        return "f", "finetuned"


def train(state: ModelState, spec: TrainSpec, ctx: Context) -> ModelState:
    return fit(state, spec, spec.epochs, ctx)


def finetune(state: ModelState, spec: FinetuneSpec, ctx: Context) -> ModelState:
    return fit(state, spec, spec.epochs, ctx, taught(spec, state.model_args, state, ctx))
