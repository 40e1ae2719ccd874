"""What a chain may name. A new stage is a file here, a Spec in it, and a row below."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from stages.casting import CastSpec, cast
from stages.distillation import DistillSpec, distill
from stages.early_exit import EarlyExitSpec, early_exit
from stages.finetuning import FinetuneSpec, TrainSpec, finetune, train
from stages.pruning import PruneSpec, prune
from stages.ptq import PtqSpec, ptq
from stages.qat import QatSpec, qat
from stages.stage import StageSpec
from stages.state import ModelState


class Stage(NamedTuple):
    """A row of STAGES: the Spec that a config fills in, and the function that does the work."""

    spec: type[StageSpec]
    run: Callable[..., ModelState]  # (state, spec, ctx) → state


STAGES: dict[str, Stage] = {
    "train": Stage(TrainSpec, train),
    "prune": Stage(PruneSpec, prune),
    "finetune": Stage(FinetuneSpec, finetune),
    "ptq": Stage(PtqSpec, ptq),
    "qat": Stage(QatSpec, qat),
    "distill": Stage(DistillSpec, distill),
    "early_exit": Stage(EarlyExitSpec, early_exit),
    "cast": Stage(CastSpec, cast),
}
