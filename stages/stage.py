"""What a stage is given besides the state (Context), and what a chain says of it (Spec)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field

from dataset import DataLoaders, Dataset, fastest_evaluation_batch, get_dataloaders
from machine.errors import Failed
from stages.state import ModelState
from training.recipe import Recipe, TrainingArgs


class StageError(Failed):
    """A stage cannot do what was asked of it; the message is one line."""


class Snapshot(Protocol):
    """Where a long stage saves itself and finds what an earlier try left."""

    def load(self) -> dict[str, Any] | None: ...

    def save(self, value: dict[str, Any]) -> None: ...


@dataclass
class Context:
    """The surroundings of one stage run: data, device, seed, and where to report."""

    dataset: Dataset
    device: torch.device
    seed: int
    snapshot: Snapshot | None = None
    snapshot_seconds: float = 120.0  # between snapshots inside an epoch
    stop_requested: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = print
    details: dict[str, Any] = field(default_factory=dict)  # goes into the stage's JSON record
    earlier_seconds: float = 0.0  # spent on the stage before it was interrupted
    teacher: ModelState | None = None  # the network that the Spec's teacher names, if it names one

    def warn(self, text: str) -> None:
        """Note what the user should know of this run of the stage; shown and kept with it."""
        warnings = self.details.setdefault("warnings", [])
        if text not in warnings:  # a stage may train several times
            warnings.append(text)

    @property
    def evaluation_batch(self) -> int:
        """Images a batch at which a float network is evaluated fastest."""
        return fastest_evaluation_batch(self.dataset.info.image_size, self.device)

    def loaders(
        self, recipe: Recipe | None = None, batch_size: int | None = None, epochs: int = 1
    ) -> DataLoaders:
        """The data as `recipe` wants it in `epochs` epochs, or plainly in batches of `batch_size`.

        None: of `evaluation_batch`, as are the validation and test images beside a recipe.
        """
        if recipe is None:
            return get_dataloaders(
                self.dataset,
                batch_size or self.evaluation_batch,
                augmentation="none",
                seed=self.seed,
                device=self.device,
            )
        return get_dataloaders(
            self.dataset,
            recipe.batch_size,
            evaluation_batch_size=self.evaluation_batch,
            augmentation=recipe.augmentation,
            flip=recipe.flip,
            cutout=recipe.cutout,
            rotation=recipe.rotation,
            color=recipe.color,
            mixup=recipe.mixup,
            mixup_epochs=epochs if recipe.mixup_schedule == "rising" else None,
            seed=self.seed,
            device=self.device,
        )


class CompressionArgs(BaseModel):
    """`compression_args` of an experiment: the short form, or an explicit `sequence`.

    Beside a sequence, the other keys are the defaults of the stages that it names.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    sequence: list[str | dict[str, dict[str, Any]]] | None = None
    pruning_ratio: float = Field(0.0, ge=0, lt=1)  # share of the output channels of each layer
    pruning_mode: Literal["mask", "structural"] = "mask"
    finetune_epochs: int = Field(0, ge=0)
    finetune_learning_rate: float = Field(1e-3, gt=0)
    quantization: Literal["ptq", "qat"] | None = None
    quantization_backend: str = "pt2e"
    ptq_calibration_batches: int = Field(8, ge=1)
    qat_epochs: int = Field(3, ge=1)
    qat_learning_rate: float = Field(5e-4, gt=0)
    distill_epochs: int = Field(20, ge=1)


class StageSpec(BaseModel):
    """What a chain says of one stage, fully resolved. Subclasses add fields with their ranges.

    First stands what a stage *is*. Its key, its place in a check and its budget in a study follow
    from that, so a Spec overrides what does not hold for it; a run stops at a stage that does what
    its Spec does not declare (experiment/running/step.py).
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    quantizes: ClassVar[bool] = False  # whether what it returns is deployed as int8
    adds_exits: ClassVar[bool] = False  # whether what it returns may be left early
    casts: ClassVar[bool] = False  # whether what it returns is deployed in bfloat16 but for int8
    # option → the key that gives it where the sequence does not: 'compression_args.qat_epochs'
    takes: ClassVar[dict[str, str]] = {}

    @property
    def epochs_trained(self) -> int:
        """How many epochs it trains, in all."""
        return 0

    @property
    def teacher_name(self) -> str | None:
        """Who teaches: 'baseline', 'current' or an experiment; None where nobody does."""
        return None

    @property
    def keeps_float(self) -> list[str] | Literal["auto"] | None:
        """Patterns of the layers that it keeps float; None where it decides nothing of that."""
        return None

    @property
    def freezes(self) -> bool | None:
        """Whether no later stage trains the int8 weights of what it returns; None where it decides
        nothing of that."""
        return None

    @property
    def flips(self) -> Literal["auto"] | bool:
        """Whether it trains on mirrored images as well; 'auto': where the data set allows it."""
        return False

    @property
    def renumbers_layers(self) -> bool:
        """Whether names of layers mean others afterwards."""
        return False

    @property
    def runs_in_torch(self) -> bool:
        """Whether PyTorch by itself runs what it returns, or another engine must."""
        return True

    @property
    def why_nothing(self) -> str:
        """What it means where the stage gives back the network that it got."""
        return "the network is the one that entered"

    def settled(self, device: torch.device) -> StageSpec:
        """With what 'auto' comes to on this device in the place of 'auto'.

        Raises ValueError for what the device cannot do.
        """
        return self

    @classmethod
    def defaults(cls, training: TrainingArgs, compression: CompressionArgs) -> dict[str, Any]:
        """Field values where the sequence says nothing; the class's own defaults come last."""
        sections = {"training_args": training, "compression_args": compression}
        keys = {option: place.split(".") for option, place in cls.takes.items()}
        return {option: getattr(sections[section], key) for option, (section, key) in keys.items()}

    def tags(self) -> tuple[str, str]:
        """Short and long tag of the stage in file names."""
        raise NotImplementedError

    def idle(self) -> dict[str, str]:
        """Options that others leave without effect → why, as in 'with criterion 'l1''.

        They are out of the stage's key, and who writes one is told.
        """
        return {}

    def settings(self) -> dict[str, Any]:
        """What the stage's result depends on, as plain data."""
        return self.model_dump(exclude=set(self.idle()))

    def remarks(self, model_args: dict[str, Any]) -> list[str]:
        """What is allowed and seldom meant, told when a suite is checked."""
        return []

    def warnings(self) -> list[str]:
        """What the user should know before the stage starts; goes into the results as well."""
        return []

    def check(self, model_args: dict[str, Any]) -> None:
        """Raise ValueError where the stage cannot be done to this architecture."""

    def check_target(self, model_args: dict[str, Any], rounded: bool, exact: bool) -> None:
        """Raise ValueError where what the stage is to reach cannot be reached from such a network.

        `rounded`: it is deployed in int8 or bfloat16. `exact`: its arguments are these to the last
        width, not only as far as known.
        """

    def check_frozen(self) -> None:
        """Raise ValueError where the stage cannot be done to a network whose int8 weights are
        frozen."""

    def check_leaving_early(self, model_args: dict[str, Any]) -> None:
        """Raise ValueError where a network of exactly these arguments, which the stage or a later
        one leaves, cannot be left as early as the stage says."""

    def check_teacher(
        self, student_args: dict[str, Any], teacher_args: dict[str, Any], rounded: bool
    ) -> None:
        """Raise ValueError where a teacher of these arguments cannot teach such a student.

        `rounded`: it is deployed in int8 or bfloat16.
        """

    def outgoing(self, model_args: dict[str, Any]) -> dict[str, Any]:
        """The architecture after the stage, as far as it is known before it runs."""
        return model_args

    def foresees(self, model_args: dict[str, Any]) -> bool:
        """Whether `outgoing` is what comes out of exactly these arguments, to the last width."""
        return True
