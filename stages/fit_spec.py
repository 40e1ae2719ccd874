"""What a chain says of a stage that trains."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from data_sets.augmentation import (
    hidden_by_cutout,
    hidden_by_randaugment,
    hidden_by_rotation,
)
from model import blueprint
from stages.stage import StageSpec
from training.recipe import Recipe, resolve_precision


def _has_batch_norm(model_args: dict[str, Any]) -> bool:
    return any(isinstance(m, nn.BatchNorm2d) for m in blueprint(model_args).modules())


MUCH_HIDDEN = 0.5  # share of an image from which an augmentation that hides it is remarked on


class FitSpec(Recipe, StageSpec):
    """What the stages that train share."""

    takes = {name: f"training_args.{name}" for name in Recipe.model_fields}
    epochs: int = Field(3, ge=1)

    @property
    def epochs_trained(self) -> int:
        return self.epochs

    @property
    def flips(self) -> Literal["auto"] | bool:
        return self.augmentation != "none" and self.flip

    def settled(self, device: torch.device) -> FitSpec:
        precision = resolve_precision(self.precision, device)
        return self.model_copy(update={"precision": precision})

    def check(self, model_args: dict[str, Any]) -> None:
        if self.sparsity and not _has_batch_norm(model_args):
            remedy = ", or cnn_norm to 'batch'" if "cnn_norm" in model_args else ""
            raise ValueError(f"sparsity needs batch norm; set it to 0{remedy}")
        height, width = model_args["image_size"]
        if self.cutout >= max(height, width):
            raise ValueError(
                f"cutout {self.cutout} can hide a whole image of {height}×{width} pixels; set it "
                f"to {max(height, width) // 2} or less"
            )

    def remarks(self, model_args: dict[str, Any]) -> list[str]:
        height, width = model_args["image_size"]
        hidden = {
            f"cutout {self.cutout}": hidden_by_cutout(self.cutout, height, width),
            f"rotation {self.rotation:g}": hidden_by_rotation(self.rotation, height, width),
        }
        if self.augmentation == "randaugment":
            hidden["one of the two operations of augmentation 'randaugment'"] = (
                hidden_by_randaugment(height, width)
            )
        return [
            f"{option} hides up to {share:.0%} of an image of {height}×{width} pixels"
            for option, share in hidden.items()
            if share > MUCH_HIDDEN
        ]

    def idle(self) -> dict[str, str]:
        never = f"within epochs {self.epochs}"
        first_cut = {
            "step": self.step_epochs,
            "multistep": min(self.milestones, default=0),
            "plateau": self.patience + 2,
        }
        late = first_cut.get(self.scheduler, 0) >= self.epochs
        cuts = ("step_epochs", "milestones", "patience", "gamma") if late else ()
        return {**dict.fromkeys(cuts, never), **super().idle()}
