"""A teacher for any stage that trains: its options, the frozen network, and the loss it adds.

`finetune`, `qat` and `distill` share `TeacherSpec`; `taught` makes what `fit` minimises.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from methods.distillation.features import FeaturePair, Watch, places
from methods.distillation.losses import attention_loss, dkd_loss, feature_loss, kd_loss
from stages.deployment import deploy
from stages.stage import Context, StageError, StageSpec
from stages.state import ModelState
from train_eval import evaluate
from training.losses import Criterion, cross_entropy, final_logits
from training.recipe import Recipe

OPTIONS = (
    "temperature", "alpha", "logit_loss", "dkd_alpha", "dkd_beta", "feature_weight",
    "attention_weight",
)  # fmt: skip


class TeacherSpec(Recipe, StageSpec):
    """Who teaches, and how its say is weighed against the labels'."""

    # 'baseline', 'current' (the network as it enters the stage) or an experiment; None = nobody
    teacher: str | None = None
    temperature: float = Field(4.0, gt=0, le=100)
    alpha: float = Field(0.9, ge=0, le=1)  # share of the teacher's logits; the labels have the rest
    logit_loss: Literal["kd", "dkd"] = "kd"
    dkd_alpha: float = Field(1.0, ge=0, le=1000)  # dkd: weight of target against rest
    dkd_beta: float = Field(8.0, ge=0, le=1000)  # dkd: weight of the classes in the rest
    feature_weight: float = Field(0.0, ge=0, le=1e6)  # of projected features; 0 = off
    attention_weight: float = Field(0.0, ge=0, le=1e6)  # of attention maps; 0 = off

    @model_validator(mode="after")
    def _has_a_say(self) -> TeacherSpec:
        given = [name for name in OPTIONS if name in self.model_fields_set]
        if self.teacher is None and given:
            raise ValueError(f"{given[0]} needs a teacher: 'baseline', 'current' or an experiment")
        if self.teacher is not None and not (self.alpha or self.looks_inside):
            raise ValueError(
                "the teacher has no say; set alpha, feature_weight or attention_weight above 0"
            )
        if self.teacher is not None and self.logit_loss == "dkd" and self.mixup:
            raise ValueError(
                "logit_loss 'dkd' needs one label an image, which mixup takes away; set mixup to "
                "0, or logit_loss to 'kd'"
            )
        return self

    @property
    def teacher_name(self) -> str | None:
        return self.teacher

    @property
    def looks_inside(self) -> bool:
        """Whether features are wanted, not logits alone."""
        return bool(self.feature_weight or self.attention_weight)

    def idle(self) -> dict[str, str]:
        found = super().idle()
        if self.teacher is None:
            return found
        if self.logit_loss == "kd":
            found |= dict.fromkeys(("dkd_alpha", "dkd_beta"), "with logit_loss 'kd'")
        if not self.alpha:
            of_logits = ("temperature", "logit_loss", "dkd_alpha", "dkd_beta")
            found |= dict.fromkeys(of_logits, "with alpha 0")
        if self.alpha == 1:
            found["label_smoothing"] = "with alpha 1, which leaves labels no share"
        return {**found, **self.not_compiled("with a teacher")}

    def not_compiled(self, why: str) -> dict[str, str]:
        """`compile` has no effect then; but False, which also keeps a GPU from recording steps."""
        return {"compile": why} if self.compile else {}

    def settings(self) -> dict[str, Any]:
        """Without what is switched off."""
        off = {name for name in ("feature_weight", "attention_weight") if not getattr(self, name)}
        if self.teacher is None:
            off = {"teacher", *OPTIONS}
        return {name: value for name, value in super().settings().items() if name not in off}

    def check_teacher(
        self, student_args: dict[str, Any], teacher_args: dict[str, Any], rounded: bool
    ) -> None:
        if not self.looks_inside:
            return
        if rounded:
            raise ValueError(
                f"teacher {self.teacher!r} is int8 or bfloat16, which shows its logits alone; set "
                "feature_weight and attention_weight to 0, or choose a float32 teacher"
            )
        if not places(student_args, teacher_args):
            raise ValueError(
                f"the student and teacher {self.teacher!r} have no feature map of one size; set "
                "feature_weight and attention_weight to 0"
            )


class Teacher:
    """A frozen network that is asked about the images that a student sees.

    It is what `deploy` makes of its state, none of its exits taken: an int8 one answers on the CPU.
    """

    def __init__(self, state: ModelState, ctx: Context, precision: str, watched: list[FeaturePair]):
        self.state = state
        deployed = deploy(state, ctx.device)
        self.device = deployed.device
        self.batch_size = deployed.evaluation_batch(ctx)  # that it answers fastest
        self.network = deployed.whole.requires_grad_(False)
        self.bf16 = precision == "bf16" and not state.is_rounded
        self.watch = Watch(self.network, [(p.teacher, p.positions) for p in watched])
        self.known: tuple[Tensor, Tensor] | None = None  # sorted content keys, their logits

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Its logits, float32 `[B, K]`, where the images are."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = final_logits(self.network(images.to(self.device)))
        return logits.float().to(images.device)

    def remember(self, loader: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Ask once about every image of `loader`; `logits` then knows the answers."""
        answers = [(content_keys(images), self(images)) for images, _ in loader]
        keys, order = torch.cat([key for key, _ in answers]).sort()
        self.known = keys, torch.cat([logits for _, logits in answers])[order]

    def logits(self, images: Tensor) -> Tensor:
        """As a call, or from memory, in a form that a gradient may pass by.

        NaN for an image that is not in memory: a recorded step cannot raise, but its loss is
        looked at.
        """
        if self.known is None:
            return self(images).clone()
        keys, logits = self.known
        wanted = content_keys(images)
        found = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
        return logits[found].masked_fill((keys[found] != wanted)[:, None], math.nan)

    def features(self, name: str) -> Tensor:
        """A watched module's output at the last call."""
        return self.watch.seen[name].clone()


def content_keys(images: Tensor) -> Tensor:
    """A 64-bit key of each image's content: its bits times fixed random numbers, modulo 2^64."""
    bits = images.flatten(1).contiguous().view(torch.int32).long()  # [B, C*H*W]
    return (bits * _odd_numbers(bits.shape[1], bits.device)).sum(1)


@functools.cache
def _odd_numbers(count: int, device: torch.device) -> Tensor:
    numbers = torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(0))
    return (2 * numbers + 1).to(device)


class Distillation(nn.Module):
    """The criterion (logits, labels, images) of a student: its labels' loss and its teacher's.

    Its own parameters project the student's features to the teacher's widths. `fit` trains them
    with the student, and they are dropped with it.
    """

    def __init__(
        self, spec: TeacherSpec, labels: Criterion, teacher: Teacher, at: list[FeaturePair]
    ):
        super().__init__()
        self.spec, self.labels, self.teacher, self.at = spec, labels, teacher, at
        self.answer: Tensor | None = None  # the teacher's, to what the student saw last
        self.projections = nn.ModuleList(
            [nn.Linear(*place.channels) for place in at] if spec.feature_weight else []
        )

    def attach(self, student: nn.Module) -> None:
        """Watch the module that is trained; each time that it is called, so is the teacher."""
        self.watch = Watch(student, [(place.student, place.positions) for place in self.at])
        student.register_forward_pre_hook(self._forget)

    def _forget(self, student: nn.Module, images: tuple[Tensor, ...]) -> None:
        # By the images' identity it could not be told: a recorded step has the same tensor anew.
        self.answer = None

    def forward(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        spec = self.spec
        if self.answer is None:  # each early exit has its turn
            self.answer = self.teacher.logits(images)
        teacher = self.answer
        loss = (1 - spec.alpha) * self.labels(logits, labels, images)
        if spec.alpha and spec.logit_loss == "dkd":
            weights = spec.temperature, spec.dkd_alpha, spec.dkd_beta
            loss = loss + spec.alpha * dkd_loss(logits, teacher, labels, *weights)
        elif spec.alpha:
            loss = loss + spec.alpha * kd_loss(logits, teacher, spec.temperature)
        for number, place in enumerate(self.at):
            mine, theirs = self.watch.seen[place.student], self.teacher.features(place.teacher)
            if spec.attention_weight:
                loss = loss + spec.attention_weight * attention_loss(mine, theirs)
            if spec.feature_weight:
                projected = self.projections[number](mine)
                loss = loss + spec.feature_weight * feature_loss(projected, theirs)
        return loss


def taught(
    spec: TeacherSpec, student_args: dict[str, Any], current: ModelState, ctx: Context
) -> Distillation | None:
    """The criterion with `spec`'s teacher (`current`: the network as it enters the stage).

    None where nobody teaches. Where every epoch shows the same images, the teacher answers once.
    Raises StageError where the context lacks the teacher, ValueError where it cannot teach.
    """
    if spec.teacher is None:
        return None
    state = current if spec.teacher == "current" else ctx.teacher
    if state is None:
        raise StageError(f"teacher {spec.teacher!r} is not there; the context should hold it")
    spec.check_teacher(student_args, state.model_args, state.is_rounded)
    at = places(student_args, state.model_args) if spec.looks_inside else []
    teacher = Teacher(state, ctx, spec.precision, at)
    loaders = ctx.loaders(batch_size=teacher.batch_size)
    if spec.shows_the_same_images and not spec.looks_inside:
        teacher.remember(loaders.calibration)  # all training images
    validation = evaluate(teacher, loaders.validation)  # type: ignore[arg-type]
    ctx.details["teacher"] = {
        "name": spec.teacher,
        "validation_accuracy": validation.accuracy,
        "validation_loss": validation.loss,
        "int8": state.quant is not None,
        "remembered": teacher.known is not None,
    }
    ctx.say(
        f"  teacher {spec.teacher}{', int8' if state.quant is not None else ''}: "
        f"validation acc {validation.accuracy:.2f} %"
    )
    torch.manual_seed(ctx.seed)  # of the projections
    return Distillation(spec, cross_entropy(spec.label_smoothing), teacher, at)
