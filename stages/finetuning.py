"""`train` (the baseline, from random weights) and `finetune` (any network, further)."""

from __future__ import annotations

from pydantic import Field

from stages.fit_spec import FitSpec
from stages.fitting import fit
from stages.stage import Context
from stages.state import ModelState
from stages.teaching import TeacherSpec, taught


class TrainSpec(FitSpec):
    """Train a network from its initialisation."""

    takes = {**FitSpec.takes, "epochs": "training_args.initial_train_epochs"}
    epochs: int = Field(20, ge=1)

    def tags(self) -> tuple[str, str]:
        return "t", "trained"


class FinetuneSpec(FitSpec, TeacherSpec):
    """Train the present network on: pruned channels stay pruned, fake quantization stays on."""

    takes = {
        **FitSpec.takes,
        "epochs": "compression_args.finetune_epochs",
        "learning_rate": "compression_args.finetune_learning_rate",
    }

    def tags(self) -> tuple[str, str]:
        return "f", "finetuned"


def train(state: ModelState, spec: TrainSpec, ctx: Context) -> ModelState:
    return fit(state, spec, spec.epochs, ctx)


def finetune(state: ModelState, spec: FinetuneSpec, ctx: Context) -> ModelState:
    return fit(state, spec, spec.epochs, ctx, taught(spec, state.model_args, state, ctx))
