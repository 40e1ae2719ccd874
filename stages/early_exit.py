"""`early_exit`: heads on the way, trained, and thresholds at which a sample leaves.

Heads stand where the network names places (BranchyNet, arXiv:1709.01686): of a hybrid after the CNN
and after each encoder layer but the last.

What leaving means is in exits.py; later stages train the heads along, cut them and quantize them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from methods.costs import planned_macs
from methods.early_exit.exits import Exits
from methods.early_exit.thresholds import check_saving
from methods.pruning.dimensions import with_exits
from model import HYBRID, architecture_of, blueprint, build_network, places_of
from stages.fit_spec import FitSpec
from stages.fitting import fit
from stages.stage import CompressionArgs, Context
from stages.state import ModelState
from stages.teaching import TeacherSpec, taught
from training.recipe import TrainingArgs


class EarlyExitSpec(FitSpec, TeacherSpec):
    """Exit heads, and how certain one must be."""

    adds_exits = True
    takes = {
        **FitSpec.takes,
        "epochs": "compression_args.finetune_epochs",
        "learning_rate": "compression_args.finetune_learning_rate",
    }
    places: list[str] | None = None  # 'cnn', 'layer_0', ...; None: all that there are
    trunk: Literal["joint", "frozen"] = "joint"  # whether all else is trained along
    loss_weight: float = Field(0.3, gt=0)  # of each exit beside the network's end
    criterion: Literal["confidence", "entropy", "patience"] = "confidence"
    thresholds: float | list[float] | None = None  # for all exits, or one an exit
    max_accuracy_drop: float | None = Field(None, ge=0)  # points of validation accuracy; None: 0.5
    saving: float | None = Field(None, gt=0, lt=1)  # or: the share of MACs to save

    @classmethod
    def defaults(cls, training: TrainingArgs, compression: CompressionArgs) -> dict[str, Any]:
        given = super().defaults(training, compression)
        return {**given, "epochs": max(1, given["epochs"])}

    def idle(self) -> dict[str, str]:
        frozen = {"sparsity": "with trunk 'frozen'"} if self.trunk == "frozen" else {}
        return {**super().idle(), **frozen, **self.not_compiled("with early exits")}

    @model_validator(mode="after")
    def _one_target(self) -> EarlyExitSpec:
        given = [
            name
            for name in ("thresholds", "max_accuracy_drop", "saving")
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} exclude one another; keep one")
        values = self.thresholds if isinstance(self.thresholds, list) else [self.thresholds]
        for value in values:
            if value is None:
                continue
            if self.criterion == "patience" and (value < 1 or value != int(value)):
                raise ValueError(
                    f"thresholds of 'patience' should be whole numbers from 1: {value}"
                )
            if self.criterion != "patience" and not 0 <= value <= 1:
                raise ValueError(f"thresholds should be from 0 (leave) to 1 (stay): {value}")
        return self

    def tags(self) -> tuple[str, str]:
        return "e", "early_exit"

    def check(self, model_args: dict[str, Any]) -> None:
        super().check(model_args)
        allowed = places_of(model_args)
        if not allowed:
            raise ValueError(
                f"{architecture_of(model_args)} names no places where it could be left early; its "
                "class would have exit_places and parts, see docs/networks.md"
            )
        if architecture_of(model_args) != HYBRID:
            blueprint(self.outgoing(model_args))  # whether its constructor takes exits
        places = self.places_in(model_args)
        if not places or places != [place for place in allowed if place in places]:
            raise ValueError(f"places {places} should be some of {allowed}, in this order")
        if isinstance(self.thresholds, list) and len(self.thresholds) != len(places):
            raise ValueError(
                f"thresholds has {len(self.thresholds)} entries, there are {len(places)} exits"
            )

    def check_leaving_early(self, model_args: dict[str, Any]) -> None:
        if self.saving is not None and model_args["exits"]:
            check_saving(planned_macs(model_args), self.exits(len(model_args["exits"])))

    def outgoing(self, model_args: dict[str, Any]) -> dict[str, Any]:
        return with_exits(model_args, self.places_in(model_args))

    def places_in(self, model_args: dict[str, Any]) -> list[str]:
        """Where the exits of such a network are."""
        allowed = places_of(model_args)
        return allowed if self.places is None else self.places

    def exits(self, count: int) -> Exits:
        """The record for `count` exits, thresholds unknown unless they are given."""
        given = self.thresholds
        if given is not None:
            given = [given] * count if isinstance(given, float | int) else given
        drop = self.max_accuracy_drop
        if given is None and drop is None and self.saving is None:
            drop = 0.5
        return Exits(
            self.criterion,
            None if given is None else tuple(given),
            max_accuracy_drop=drop,
            saving=self.saving,
            loss_weight=self.loss_weight,
        )


def early_exit(state: ModelState, spec: EarlyExitSpec, ctx: Context) -> ModelState:
    spec.check(state.model_args)
    args = spec.outgoing(state.model_args)
    torch.manual_seed(ctx.seed)
    fresh = build_network(args).state_dict()  # heads that were there before stay
    weights = {name: state.weights.get(name, value) for name, value in fresh.items()}
    started = state.changed(weights, model_args=args, exits=spec.exits(len(args["exits"])))
    criterion = taught(spec, args, state, ctx)
    return fit(started, spec, spec.epochs, ctx, criterion, exits_only=spec.trunk == "frozen")
