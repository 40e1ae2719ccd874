"""How the first process of a torchrun tells the others what to train, and what these do all along.

They get everything from it, data included, and keep nothing: they need neither config nor folders.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from data_sets.source import Arrays
from dataset import Dataset
from machine.errors import Interrupted
from methods.distillation.features import FeaturePair
from stages.stage import Context, StageError
from stages.state import ModelState
from stages.teaching import Distillation, Teacher, TeacherSpec
from train_eval import NonFiniteLossError
from training.losses import cross_entropy
from training.recipe import Recipe
from training.team import Team, local_rank

RAISED_BY_ALL_RANKS = (
    NonFiniteLossError,
    Interrupted,
    StageError,
)  # by every process after the same step


class Teaching(NamedTuple):
    """What a Distillation is made of; its own parameters come with the first process's."""

    spec: TeacherSpec
    state: ModelState
    at: list[FeaturePair]
    known: tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class FitJob:
    """The arguments of `fit`, as far as others need them."""

    state: ModelState
    recipe: Recipe
    epochs: int
    exits_only: bool
    seed: int
    device: str
    deterministic: bool
    dataset: int  # its number among those that were sent
    teaching: Teaching | None


class FirstRank:
    """The first process's side; it remembers which data sets the others have."""

    def __init__(self) -> None:
        self.sent: list[Dataset] = []

    def broadcast_fit(
        self,
        team: Team,
        state: ModelState,
        recipe: Recipe,
        epochs: int,
        ctx: Context,
        distillation: Distillation | None,
        exits_only: bool,
    ) -> None:
        """Have the other processes call `fit` as well."""
        known = [number for number, other in enumerate(self.sent) if other is ctx.dataset]
        number = known[0] if known else len(self.sent)
        teaching = None
        if distillation is not None:
            teacher = distillation.teacher
            answers = teacher.known and (teacher.known[0].cpu(), teacher.known[1].cpu())
            teaching = Teaching(distillation.spec, teacher.state, distillation.at, answers)
        team.broadcast(
            FitJob(
                state,
                recipe,
                epochs,
                exits_only,
                ctx.seed,
                ctx.device.type,
                torch.are_deterministic_algorithms_enabled(),
                number,
                teaching,
            )
        )
        if not known:
            self.sent.append(ctx.dataset)
            _broadcast_dataset(team, ctx.dataset)


first_rank = FirstRank()


def take_part(team: Team, fit: Callable[..., Any]) -> None:
    """Take part in every `fit` of the first process until it is done. Raises TeamError."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the first process says when to stop
    datasets: list[Dataset] = []
    while (job := team.broadcast()) is not None:
        if job.dataset == len(datasets):
            datasets.append(_broadcast_dataset(team))
        torch.use_deterministic_algorithms(job.deterministic)
        device = torch.device(job.device)
        if device.type == "cuda":
            device = torch.device("cuda", local_rank() % torch.cuda.device_count())
        ctx = Context(datasets[job.dataset], device, job.seed, say=lambda text: None)
        try:
            distillation = _distillation(job.teaching, ctx)
            fit(job.state, job.recipe, job.epochs, ctx, distillation, exits_only=job.exits_only)
        except RAISED_BY_ALL_RANKS:
            continue


def _distillation(teaching: Teaching | None, ctx: Context) -> Distillation | None:
    if teaching is None:
        return None
    spec = teaching.spec
    teacher = Teacher(teaching.state, ctx, spec.precision, teaching.at)
    if teaching.known is not None:
        keys, logits = teaching.known
        teacher.known = keys.to(ctx.device), logits.to(ctx.device)
    return Distillation(spec, cross_entropy(spec.label_smoothing), teacher, teaching.at)


def _broadcast_dataset(team: Team, dataset: Dataset | None = None) -> Dataset:
    """The first process's data set; its images travel by themselves, without a pickled copy."""
    about = None
    if dataset is not None:
        shapes = [(array.shape, array.dtype) for array in dataset.arrays]
        about = replace(dataset, arrays=None), shapes  # type: ignore[arg-type]
    described, shapes = team.broadcast(about)
    arrays = []
    for number, (shape, dtype) in enumerate(shapes):
        found = torch.empty(shape, dtype=dtype) if dataset is None else dataset.arrays[number]
        found = found.contiguous()
        dist.broadcast(found, 0, group=team.control)
        arrays.append(found)
    return replace(described, arrays=Arrays(*arrays))
