"""`train` (the baseline, from random weights) and `finetune` (any network, further)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from networks.foreign import NetworkError
from networks.pretrained import Start, load
from stages.fit_spec import FitSpec
from stages.fitting import fit
from stages.stage import Context, StageError
from stages.state import ModelState, build, state_of
from stages.teaching import TeacherSpec, taught


class TrainSpec(FitSpec):
    """Train a network from its initialisation."""

    takes = {**FitSpec.takes, "epochs": "training_args.initial_train_epochs"}
    epochs: int = Field(20, ge=1)
    start: dict[str, str] | None = None  # model_args.weights, looked up: see networks/pretrained.py

    def tags(self) -> tuple[str, str]:
        return "t", "trained"

    def settings(self) -> dict[str, Any]:
        """Of weights to start from what they are, not what they are called; nothing without."""
        found = super().settings()
        start = found.pop("start")
        return found if start is None else {**found, "start": start["digest"]}


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
    """Train what `initial_state` made, or weights to start from. Raises StageError for these."""
    if spec.start is not None:
        network, start = build(state), Start(**spec.start)
        try:
            new = load(network, start)
        except NetworkError as error:
            raise StageError(f"model_args.weights: {error.text}") from error
        ctx.details["start"] = {**spec.start, "new": new}
        anew = f"; new: {', '.join(new)}" if new else ""
        ctx.say(f"  starts from {start.weights}{anew}")
        state = state_of(network)
    return fit(state, spec, spec.epochs, ctx)


def finetune(state: ModelState, spec: FinetuneSpec, ctx: Context) -> ModelState:
    return fit(state, spec, spec.epochs, ctx, taught(spec, state.model_args, state, ctx))
