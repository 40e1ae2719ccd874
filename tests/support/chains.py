"""Chains of stages in one line, over networks or through a suite."""

from __future__ import annotations

from typing import Any

from methods.pruning.masks import channel_tensors
from stages import STAGES
from stages.deployment import Deployed, calibrated
from stages.distillation import DistillSpec
from stages.finetuning import FinetuneSpec
from stages.pruning import PruneSpec
from stages.ptq import PtqSpec
from stages.qat import QatSpec
from stages.stage import Context
from stages.state import ModelState, build

TWO_KINDS = {"feature_weight": 1.0, "attention_weight": 5.0}


FAST: dict[str, Any] = {"epochs": 1, "batch_size": 256, "precision": "fp32"}


def specs(backend: str) -> dict[str, Any]:
    return {
        "prune": PruneSpec(ratio=0.4),
        "finetune": FinetuneSpec(**FAST),
        "ptq": PtqSpec(backend=backend, calibration_batches=2),
        "qat": QatSpec(backend=backend, calibration_batches=2, **FAST),
        # the start teaches where an int8 teacher would have to be compiled first
        "distill": DistillSpec(
            width=0.5, teacher="current" if backend == "x86" else "baseline", **FAST
        ),
    }


SPECS = specs("x86")


def run_chain(
    state: ModelState, order: tuple[str, ...], ctx: Context, backend: str = "x86"
) -> Deployed:
    for name in order:
        deployed = calibrated(STAGES[name].run(state, specs(backend)[name], ctx), ctx)
        state = deployed.state
    return deployed


def zero_filters(state: ModelState) -> dict[str, set[int]]:
    """Layer → indices of its all-zero filters, found the plain way."""
    return {
        layer: {i for i, row in enumerate(state.weights[owned[0]]) if not row.any()}
        for layer, owned in channel_tensors(build(state)).items()
    }
