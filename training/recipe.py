"""`training_args`: how a network is trained, and what 'auto' means on a device."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from machine.processor import bf16_is_fast

# What has an effect only beside some values of another option: option → that one, these values.
BESIDE = {
    "momentum": ("optimizer", ("sgd", "rmsprop")),
    "warmup_epochs": ("scheduler", ("cosine",)),
    "step_epochs": ("scheduler", ("step",)),
    "milestones": ("scheduler", ("multistep",)),
    "gamma": ("scheduler", ("step", "multistep", "plateau")),
    "patience": ("scheduler", ("plateau",)),
    "flip": ("augmentation", ("standard", "randaugment")),
}
# Options that results may be older than: where they are off, records and keys are without them.
LEFT_OUT_WHEN_OFF = ("mixup_schedule", "rotation", "color")


class Recipe(BaseModel):
    """How a network is trained. `train` takes these from `training_args`; a stage may override."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    batch_size: int = Field(128, ge=2, le=65536)
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop", "muon"] = "adamw"
    learning_rate: float = Field(4e-3, gt=0, le=100)  # the peak, where the schedule has one
    weight_decay: float = Field(0.05, ge=0, le=10)  # on matrices and kernels only
    momentum: float = Field(0.9, ge=0, lt=1)  # sgd (Nesterov) and rmsprop
    scheduler: Literal["cosine", "onecycle", "step", "multistep", "plateau", "none"] = "onecycle"
    warmup_epochs: float = Field(0.0, ge=0)  # cosine: linear warm-up from 1 % of the rate
    step_epochs: int = Field(10, ge=1)  # step: epochs between cuts
    milestones: list[int] = []  # multistep: epochs of the cuts
    gamma: float = Field(0.1, gt=0, le=1)  # step, multistep, plateau: factor of a cut
    patience: int = Field(3, ge=0)  # plateau: epochs without a better validation loss
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    grad_clip: float = Field(0.0, ge=0)  # largest gradient norm; 0 = off
    sparsity: float = Field(0.0, ge=0, le=1)  # weight of Σ|γ| over batch norms, arXiv:1708.06519
    ema_decay: float = Field(0.0, ge=0, lt=1)  # averaged weights are kept instead; 0 = off
    augmentation: Literal["none", "standard", "randaugment"] = "standard"
    # standard, randaugment: mirror half of the images; auto: where their classes allow it, as the
    # data set's row in DATASET_REGISTRY says
    flip: Literal["auto"] | bool = "auto"
    cutout: int = Field(0, ge=0)  # side of the square in pixels; 0 = off
    rotation: float = Field(0.0, ge=0, le=180)  # largest angle in degrees, either way; 0 = off
    color: float = Field(0.0, ge=0, le=1)  # largest change of brightness, contrast, saturation
    mixup: float = Field(0.0, ge=0)  # alpha; 0 = off
    # rising: the share of batches that are mixed grows from 0 at the first step to 1 at the last
    mixup_schedule: Literal["constant", "rising"] = "constant"
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the hardware has it
    keep: Literal["last", "best"] = "last"  # weights of the last epoch, or best on validation
    compile: Literal["auto"] | bool = "auto"  # torch.compile a float network; auto: on a GPU

    @property
    def shows_the_same_images(self) -> bool:
        """Whether every epoch has the images as they are stored."""
        changed = self.cutout or self.rotation or self.color or self.mixup
        return self.augmentation == "none" and not changed

    def idle(self) -> dict[str, str]:
        """Options that another leaves without effect → why, as in 'with scheduler 'onecycle''."""
        found = {
            option: f"with {choice} {getattr(self, choice)!r}"
            for option, (choice, values) in BESIDE.items()
            if getattr(self, choice) not in values
        }
        return found if self.mixup else {**found, "mixup_schedule": "with mixup 0"}

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        off = {n for n in LEFT_OUT_WHEN_OFF if getattr(self, n) == Recipe.model_fields[n].default}
        return {name: value for name, value in dump(self).items() if name not in off}

    @model_validator(mode="after")
    def _milestones(self) -> Recipe:
        if self.scheduler == "multistep" and not self.milestones:
            raise ValueError("scheduler 'multistep' needs milestones, e.g. [30, 60]")
        return self


class TrainingArgs(Recipe):
    """`training_args` of an experiment."""

    initial_train_epochs: int = Field(20, ge=0)  # 0 where a baseline is loaded
    seed: int = Field(0, ge=0, lt=2**31)
    deterministic: bool = False  # deterministic algorithms also where they are slower (CUDA)


def resolve_precision(precision: str, device: torch.device | str) -> str:
    """'auto' → 'bf16' where it is fast, else 'fp32'; other values as they are."""
    if precision != "auto":
        return precision
    return "bf16" if bf16_is_fast(device) else "fp32"


def wants_compiling(recipe: Recipe, device: torch.device | str) -> bool:
    """'auto' → on a GPU; on the CPU compiled steps were no faster, and take half a minute first."""
    return torch.device(device).type == "cuda" if recipe.compile == "auto" else recipe.compile
