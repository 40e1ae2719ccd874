"""What a chain says of a pruning, and what of it is known before any weight is."""

from __future__ import annotations

import functools
import json
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator

from machine.files import canonical_json
from methods.pruning.amounts import (
    Amount,
    args_after,
    check_reachable,
)
from methods.pruning.cutting import TARGETS, Dimension, Weights
from methods.pruning.dimensions import dimensions, left_alone
from methods.pruning.importance import norm_scales
from methods.pruning.masks import channel_tensors
from model import HYBRID, Network, architecture_of, blueprint
from stages.finetuning import FinetuneSpec
from stages.stage import CompressionArgs, StageSpec
from training.recipe import TrainingArgs

Target = Literal["conv", "ffn", "heads", "head_dim", "embed", "depth"]
STRUCTURAL_ONLY = (
    "targets", "keep", "scope", "ratios", "protect", "min_channels", "round_to", "iterations",
    "schedule", "calibration_batches", "candidates",
)  # fmt: skip
OWN_WORD = ("heads", "head_dim", "depth")  # targets that no graph shows
OF_THE_FLOAT_NETWORK = (
    "keep latency_ms is of the float32 network, and this one is quantized or cast; prune before it "
    "is, or keep macs"
)


class PruneSpec(StageSpec):
    """What to remove, by which criterion, and how much: `ratio`, or a cost to `keep`."""

    takes = {
        "ratio": "compression_args.pruning_ratio",
        "mode": "compression_args.pruning_mode",
    }

    ratio: float | None = Field(None, ge=0, lt=1)  # of the channels; at least one stays
    mode: Literal["mask", "structural"] = "mask"
    criterion: Literal[
        "l1", "l2", "fpgm", "bn_scale", "lamp", "taylor", "hessian", "activation", "random"
    ] = "l1"  # mode 'mask' has l1
    targets: list[Target] = ["conv", "ffn", "head_dim"]
    scope: Literal["uniform", "global"] = "uniform"  # ratio of each dimension, or of all units
    keep: dict[Literal["macs", "params", "latency_ms", "batch"], float] | None = None
    # pattern of dimension names → its own ratio; 'auto': by a sensitivity scan, see sensitivity.py
    ratios: dict[str, float] | Literal["auto"] = {}
    protect: list[str] = []  # patterns of dimensions left alone
    min_channels: int = Field(1, ge=1)
    round_to: int = Field(1, ge=1)  # widths become multiples of it
    calibration_batches: int = Field(8, ge=1)  # of 64 images, for these and for candidates
    candidates: int = Field(1, ge=1, le=1000)  # cuts of one cost, judged; see candidates.py
    iterations: int = Field(1, ge=1, le=100)
    schedule: Literal["linear", "geometric", "cubic"] = "linear"  # of the share kept
    finetune: FinetuneSpec | None = None  # between iterations

    @property
    def epochs_trained(self) -> int:
        between = self.finetune.epochs if self.finetune is not None else 0
        return (self.iterations - 1) * between

    @property
    def flips(self) -> Literal["auto"] | bool:
        between = None if "finetune" in self.idle() else self.finetune
        return between is not None and between.flips

    @property
    def why_nothing(self) -> str:
        if self.keep:
            return f"keep {self.keep} is met by the network as it entered"
        if self.mode == "mask":
            return (
                f"ratio {self.ratio:g} is of all channels of a layer, zeroed ones too, and asks "
                "for no more than these"
            )
        return f"ratio {self.ratio:g} of the units that entered rounds to none in each dimension"

    @property
    def renumbers_layers(self) -> bool:
        return "depth" in self.targets

    def settled(self, device: torch.device) -> PruneSpec:
        between = self.finetune.settled(device) if self.finetune is not None else None
        return self.model_copy(update={"finetune": between})

    @classmethod
    def defaults(cls, training: TrainingArgs, compression: CompressionArgs) -> dict[str, Any]:
        between = FinetuneSpec.defaults(training, compression)
        given = super().defaults(training, compression)
        if not compression.pruning_ratio:
            del given["ratio"]
        return {**given, "finetune": {**between, "epochs": max(1, between["epochs"])}}

    @field_validator("keep")
    @classmethod
    def _one_cost(cls, keep: dict[str, float] | None) -> dict[str, float] | None:
        if keep is None:
            return None
        named = [name for name in keep if name != "batch"]
        if len(named) != 1 or not 0 < keep[named[0]] < 1:
            raise ValueError(
                "should name one of macs, params, latency_ms, its share between 0 and 1"
            )
        if "batch" in keep and ("latency_ms" not in keep or keep["batch"] < 1):
            raise ValueError("should have 'batch' (1 or more) only beside latency_ms")
        return keep

    @field_validator("ratios")
    @classmethod
    def _shares(cls, ratios: dict[str, float] | str) -> dict[str, float] | str:
        if isinstance(ratios, dict) and any(not 0 <= ratio < 1 for ratio in ratios.values()):
            raise ValueError("should map patterns to ratios from 0 to below 1")
        return ratios

    @model_validator(mode="after")
    def _agree(self) -> PruneSpec:
        if self.finetune is not None and self.finetune.teacher is not None:
            raise ValueError("finetune between cuts has no teacher; add a finetune stage with one")
        if self.mode == "mask":
            changed = [n for n in STRUCTURAL_ONLY if n in self.model_fields_set]
            if changed:
                raise ValueError(
                    f"{changed[0]} needs mode 'structural'; mode 'mask' has ratio alone"
                )
            if self.criterion != "l1":
                raise ValueError(f"criterion {self.criterion!r} needs mode 'structural'")
        if self.keep is None and self.ratio is None:
            raise ValueError("should have ratio (or compression_args.pruning_ratio), or keep")
        if self.mode == "mask":
            return self
        if not self.targets:
            raise ValueError(f"targets should name some of {', '.join(TARGETS)}")
        if self.ratios and self.scope == "global":
            raise ValueError("ratios are of each dimension; use scope 'uniform'")
        if self.candidates > 1 and self.keep is None:
            raise ValueError("candidates above 1 need keep, a cost that all of them meet")
        if self.candidates > 1 and self.ratios == "auto":
            raise ValueError(
                "candidates above 1 try how the cut is shared, which ratios 'auto' says already; "
                "remove one of the two"
            )
        if self.iterations > 1 and self.finetune is None:
            raise ValueError("iterations above 1 need finetune options")
        if self.iterations > 1 and "depth" in self.targets and (self.protect or self.ratios):
            raise ValueError(
                "a cut of target 'depth' renumbers the layers, so patterns would mean others in "
                "the next iteration; prune depth in a stage of its own"
            )
        return self

    def tags(self) -> tuple[str, str]:
        if self.keep:
            name, share = next((n, s) for n, s in self.keep.items() if n != "batch")
            amount = f"{name.removesuffix('_ms')}{100 * share:g}"
        else:
            amount = f"{100 * (self.ratio or 0):g}"
        return f"p{amount}", f"pruned_{amount}"

    def idle(self) -> dict[str, str]:
        if self.mode == "mask":
            others = PruneSpec.model_fields.keys() - {"ratio", "mode"}
            return dict.fromkeys(others, "with mode 'mask', which cuts once")
        found = {"ratio": "beside keep"} if self.keep else {}
        if self.iterations == 1:
            found["schedule"] = "with iterations 1"
            found["finetune"] = "with iterations 1, as it comes between cuts"
        looks = self.criterion in ("taylor", "hessian", "activation")
        if not looks and self.candidates == 1:
            found["calibration_batches"] = f"with criterion {self.criterion!r}"
        return found

    def settings(self) -> dict[str, Any]:
        """Without candidates where there is one, which is the plain cut."""
        found = super().settings()
        return {n: v for n, v in found.items() if n != "candidates" or v > 1}

    def remarks(self, model_args: dict[str, Any]) -> list[str]:
        found = [] if self.mode == "mask" else _left_alone(self.targets, model_args)
        if self.finetune is None or "finetune" in self.idle():
            return found
        return [*found, *self.finetune.remarks(model_args)]

    def check(self, model_args: dict[str, Any]) -> None:
        if self.finetune is not None and "finetune" not in self.idle():
            self.finetune.check(model_args)
        masked = self.mode == "mask" and architecture_of(model_args) != HYBRID
        if masked and not channel_tensors(blueprint(model_args)):
            raise ValueError("the network has no layer whose channels could be zero")
        if self.mode == "structural":
            network = blueprint(model_args)
            dims = self.dimensions(network)
            shared = [d for d in dims if not any(fnmatchcase(d.name, p) for p in self.own_ratios())]
            if self.candidates > 1 and len(shared) < 2:
                raise ValueError(
                    "candidates above 1 share a cut among dimensions in different ways, and here "
                    f"there is {shared[0].name if shared else 'none'} alone; set candidates to 1"
                )
            if self.criterion in ("bn_scale", "fpgm"):
                weights = network.state_dict()
                odd = [d.name for d in dims if not _scored(d, self.criterion, weights)]
                if odd:
                    raise ValueError(f"criterion {self.criterion!r} does not score {odd[0]}")

    def check_frozen(self) -> None:
        if self.candidates > 1:
            raise ValueError(
                "candidates above 1 are judged with batch norm statistics of their own, which "
                "frozen int8 weights do not let change; set candidates to 1, or prune before"
            )

    def check_target(self, model_args: dict[str, Any], rounded: bool, exact: bool) -> None:
        if self.keep and "latency_ms" in self.keep:
            if rounded:
                raise ValueError(OF_THE_FLOAT_NETWORK)
        elif self.keep and exact and self._plain_cut_foreseen(model_args):
            _foreseen(self, model_args, exact=True)
        elif self.keep and exact and self._any_layers_alike(model_args):
            dims = self.dimensions(blueprint(model_args))
            check_reachable(dims, model_args, self.keep, self.amount())

    def foresees(self, model_args: dict[str, Any]) -> bool:
        """Not where scores, losses or milliseconds decide, nor over many cuts, for their time."""
        return self.candidates == 1 and self._plain_cut_foreseen(model_args)

    def _plain_cut_foreseen(self, model_args: dict[str, Any]) -> bool:
        """Whether widths hang on no weight, but for which of the candidates is chosen."""
        by_scores = self.scope == "global" or self.ratios == "auto"
        timed = self.keep is not None and "latency_ms" in self.keep
        at_once = self.iterations == 1 and not by_scores and not timed
        return self.mode == "mask" or (at_once and self._any_layers_alike(model_args))

    def _any_layers_alike(self, model_args: dict[str, Any]) -> bool:
        """Whether it is all one which encoder layers go, if any do."""
        if "depth" not in self.targets:
            return True
        if architecture_of(model_args) != HYBRID:
            return False
        widths = [model_args[key] for key in ("num_heads", "head_dim", "ffn_dim")]
        unlike = model_args["exits"] or self.ratios or self.protect
        return not unlike and all(len(set(each)) <= 1 for each in widths)

    def outgoing(self, model_args: dict[str, Any]) -> dict[str, Any]:
        if self.mode == "mask" or not self.foresees(model_args):
            return model_args
        return _foreseen(self, model_args, exact=False)

    def dimensions(self, model: Network) -> list[Dimension]:
        """What of the network may be pruned. Raises ValueError for patterns that match nothing."""
        dims = dimensions(model, self.targets)
        if self.targets != PruneSpec.model_fields["targets"].default:
            for target in OWN_WORD:
                offered = any(d.target == target for d in dims)
                if (
                    target in self.targets
                    and not offered
                    and architecture_of(model.model_args) != HYBRID
                ):
                    name = architecture_of(model.model_args)
                    raise ValueError(
                        f"targets: {target!r} is of networks that say themselves what it is, and "
                        f"{name} does not; remove it"
                    )
        if not dims:
            why = "; ".join(_left_alone(self.targets, model.model_args)) or "has none of these"
            raise ValueError(f"targets {self.targets}: the network {why}")
        for pattern in [*self.protect, *self.own_ratios()]:
            if not any(fnmatchcase(d.name, pattern) for d in dims):
                names = ", ".join(d.name for d in dims)
                raise ValueError(f"{pattern!r} matches nothing to prune; there are: {names}")
        free = [d for d in dims if not any(fnmatchcase(d.name, p) for p in self.protect)]
        if not free:
            raise ValueError(f"protect {self.protect} leaves nothing to prune")
        return free

    def amount(self) -> Amount:
        ratios = self.own_ratios()
        return Amount(self.scope == "uniform", self.min_channels, self.round_to, ratios)

    def own_ratios(self) -> dict[str, float]:
        """The ratios written out for some dimensions."""
        return self.ratios if isinstance(self.ratios, dict) else {}


def _scored(dimension: Dimension, criterion: str, weights: Weights) -> bool:
    if criterion == "bn_scale":
        return bool(norm_scales(dimension, weights))
    return dimension.target != "depth"


def _left_alone(targets: list[Target], model_args: dict[str, Any]) -> list[str]:
    """A line on what the targets mean and cannot be cut, if anything."""
    refused = left_alone(model_args, targets)
    if not refused:
        return []
    first, why = next(iter(refused.items()))
    others = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
    return [f"leaves {first}{others} as it is: {why}"]


def _foreseen(spec: PruneSpec, model_args: dict[str, Any], *, exact: bool) -> dict[str, Any]:
    """The arguments after one cut whose widths hang on no weight, as `prune_once` will have them.

    Raises ValueError where a cost to keep is out of reach and must be `exact`.
    """
    about = canonical_json([spec.model_dump(exclude={"finetune"}), model_args])
    return json.loads(_foreseen_as_json(about, exact))  # chains share their first stages


@functools.lru_cache(maxsize=1024)
def _foreseen_as_json(about: bytes, exact: bool) -> bytes:
    plain, args = json.loads(about)
    spec = PruneSpec(**plain)
    dims, wanted = spec.dimensions(blueprint(args)), spec.keep or spec.ratio or 0.0
    return canonical_json(args_after(dims, args, wanted, spec.amount(), exact=exact))
