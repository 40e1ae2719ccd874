"""`distill`: a smaller student, new or a part of its teacher, is taught. The loop is `fit`.

The student takes the place of the network that enters. Where that is quantized, so is the student:
after `qat` it trains with fake quantization on; after `ptq` its ranges are observed at the end.
Where that leaves early, so does the student, at the places that it has too.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from methods.distillation.students import (
    MULTIPLE,
    inherited,
    quant_of_student,
    student_args,
    why_no_part,
)
from stages.architecture_change import report
from stages.fit_spec import FitSpec
from stages.fitting import fit
from stages.stage import Context
from stages.state import ModelState, initial_state
from stages.teaching import TeacherSpec, taught


class DistillSpec(FitSpec, TeacherSpec):
    """Who teaches, and what the student is: the incoming network scaled, then overridden."""

    takes = {**FitSpec.takes, "epochs": "compression_args.distill_epochs"}
    epochs: int = Field(20, ge=1)
    teacher: str = "current"
    width: float = Field(1.0, gt=0, le=1)  # share of channels, token width, heads, FFN and MLP
    depth: float = Field(1.0, gt=0, le=1)  # share of encoder layers; at least one stays
    student: dict[str, Any] = {}  # model_args over the scaled ones
    init: Literal["random", "teacher"] = "random"  # teacher: evenly spaced parts of its weights

    @model_validator(mode="after")
    def _says_the_student(self) -> DistillSpec:
        if not self.model_fields_set & {"width", "depth", "student"}:
            raise ValueError("should say the student: width, depth or student (model_args)")
        return self

    @property
    def freezes(self) -> bool:
        return False  # a student is new, and its weights have masters

    def tags(self) -> tuple[str, str]:
        return "d", "distilled"

    def check(self, model_args: dict[str, Any]) -> None:
        if self.depth < 1 and model_args.get("fusion") == "parallel":
            raise ValueError("depth is of encoder layers, which fusion 'parallel' has not")
        super().check(self.outgoing(model_args))

    def outgoing(self, model_args: dict[str, Any]) -> dict[str, Any]:
        """The student's arguments. Raises ValueError (pydantic's) where they build no network."""
        return student_args(model_args, self.width, self.depth, self.student)

    def check_teacher(
        self, student_args: dict[str, Any], teacher_args: dict[str, Any], rounded: bool
    ) -> None:
        super().check_teacher(student_args, teacher_args, rounded)
        if self.init == "teacher" and (why := why_no_part(student_args, teacher_args)):
            raise ValueError(
                f"init 'teacher' needs a student that is a part of {self.teacher!r}, but {why}; "
                "set init to 'random'"
            )


def distill(state: ModelState, spec: DistillSpec, ctx: Context) -> ModelState:
    args = spec.outgoing(state.model_args)
    criterion = taught(spec, args, state, ctx)
    weights = initial_state(args, ctx.seed).weights
    if spec.init == "teacher":
        teacher = state if spec.teacher == "current" else ctx.teacher
        assert teacher is not None  # or it could not teach
        part = inherited(teacher.model_args, teacher.weights, args)
        weights = {name: part.get(name, value) for name, value in weights.items()}
    quant = quant_of_student(state.quant, args) if state.quant is not None else None
    student = state.changed(weights, model_args=args, quant=quant)
    report(state, student, ctx)
    if args == state.model_args:
        ctx.warn(
            "the student has every width of the network that it replaces, so nothing is smaller; "
            f"widths become multiples of {MULTIPLE}"
        )
    return fit(student, spec, spec.epochs, ctx, criterion)
