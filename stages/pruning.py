"""`prune`: remove whole output channels, heads or layers, for good or behind a mask.

Mode 'mask' sets the weakest channels of every layer to zero and keeps them there. Mode 'structural'
cuts them out: what comes back is a smaller network, described by `model_args` alone.
"""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator

from machine.files import canonical_json
from methods.pruning import importance
from methods.pruning.amounts import (
    Amount,
    Removed,
    args_after,
    check_reachable,
    choose,
    choose_for_cost,
)
from methods.pruning.dimensions import TARGETS, Dimension, cut, dimensions
from methods.pruning.masks import mask_channels
from methods.pruning.sensitivity import ratios_for_drop, scan
from model import HybridCNNTransformer, blueprint
from stages.architecture_change import report
from stages.finetuning import FinetuneSpec
from stages.fitting import fit
from stages.stage import CompressionArgs, Context, Snapshot, StageError, StageSpec
from stages.state import ModelState, build, from_plain, state_of, to_plain
from training.recipe import TrainingArgs

Target = Literal["conv", "ffn", "heads", "head_dim", "embed", "depth"]
STRUCTURAL_ONLY = (
    "targets", "keep", "scope", "ratios", "protect", "min_channels", "round_to", "iterations",
    "schedule", "calibration_batches",
)  # fmt: skip
OF_THE_FLOAT_NETWORK = (
    "keep latency_ms is of the float network, and this one is quantized; prune before it is, or "
    "keep macs"
)


class PruneSpec(StageSpec):
    """What to remove, by which criterion, and how much: `ratio`, or a cost to `keep`."""

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
    calibration_batches: int = Field(8, ge=1)  # of 64 images, for taylor, hessian, activation
    iterations: int = Field(1, ge=1, le=100)
    schedule: Literal["linear", "geometric", "cubic"] = "linear"  # of the share kept
    finetune: FinetuneSpec | None = None  # between iterations

    @property
    def epochs_trained(self) -> int:
        between = self.finetune.epochs if self.finetune is not None else 0
        return (self.iterations - 1) * between

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
        given = {"mode": compression.pruning_mode}
        if compression.pruning_ratio:
            given["ratio"] = compression.pruning_ratio  # type: ignore[assignment]
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

    def settings(self) -> dict[str, Any]:
        """Only what has a say, so that an idle setting does not make another stage."""
        if self.mode == "mask":
            return {"ratio": self.ratio, "mode": self.mode}
        idle = {"ratio"} if self.keep else {"keep"}
        if self.iterations == 1:
            idle |= {"schedule", "finetune"}
        if self.criterion not in ("taylor", "hessian", "activation"):
            idle.add("calibration_batches")
        return self.model_dump(exclude=idle)

    def check(self, model_args: dict[str, Any]) -> None:
        if self.mode == "structural":
            dims = self.dimensions(blueprint(model_args))
            if self.criterion in ("bn_scale", "fpgm"):
                odd = [d.name for d in dims if not _scored(d, self.criterion)]
                if odd:
                    raise ValueError(f"criterion {self.criterion!r} does not score {odd[0]}")

    def check_target(self, model_args: dict[str, Any], int8: bool, exact: bool) -> None:
        if self.keep and "latency_ms" in self.keep:
            if int8:
                raise ValueError(OF_THE_FLOAT_NETWORK)
        elif self.keep and exact and self.foresees(model_args):
            _foreseen(self, model_args, exact=True)
        elif self.keep and exact and self._any_layers_alike(model_args):
            dims = self.dimensions(blueprint(model_args))
            check_reachable(dims, model_args, self.keep, self.amount())

    def foresees(self, model_args: dict[str, Any]) -> bool:
        """Not where scores or milliseconds decide, nor over many cuts, which take their time."""
        by_scores = self.scope == "global" or self.ratios == "auto"
        timed = self.keep is not None and "latency_ms" in self.keep
        at_once = self.iterations == 1 and not by_scores and not timed
        return self.mode == "mask" or (at_once and self._any_layers_alike(model_args))

    def _any_layers_alike(self, model_args: dict[str, Any]) -> bool:
        """Whether it is all one which encoder layers go, if any do."""
        if "depth" not in self.targets:
            return True
        widths = [model_args[key] for key in ("num_heads", "head_dim", "ffn_dim")]
        unlike = model_args["exits"] or self.ratios or self.protect
        return not unlike and all(len(set(each)) <= 1 for each in widths)

    def outgoing(self, model_args: dict[str, Any]) -> dict[str, Any]:
        if self.mode == "mask" or not self.foresees(model_args):
            return model_args
        return _foreseen(self, model_args, exact=False)

    def dimensions(self, model: HybridCNNTransformer) -> list[Dimension]:
        """What of the network may be pruned. Raises ValueError for patterns that match nothing."""
        dims = dimensions(model, self.targets)
        if not dims:
            raise ValueError(f"targets {self.targets}: the network has none of these")
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


def _scored(dimension: Dimension, criterion: str) -> bool:
    if criterion == "bn_scale":
        return any(".norm" in m.tensor for m in dimension.members if m.role == "norm")
    return dimension.target != "depth"


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


def prune(state: ModelState, spec: PruneSpec, ctx: Context) -> ModelState:
    if spec.mode == "mask":
        model = build(state)
        assert spec.ratio is not None
        ctx.details["zero_channels"] = mask_channels(model, spec.ratio)
        return state.changed(state_of(model).weights)
    if spec.keep and "latency_ms" in spec.keep and state.quant is not None:
        raise StageError(OF_THE_FLOAT_NETWORK)
    if spec.iterations == 1:
        pruned = prune_once(state, spec, ctx)
    else:
        pruned = _prune_in_steps(state, spec, ctx)
    report(state, pruned, ctx)
    return pruned


def prune_once(
    state: ModelState,
    spec: PruneSpec,
    ctx: Context,
    *,
    of: ModelState | None = None,
    last: bool = True,
) -> ModelState:
    """One cut: score every unit, choose, remove. A cost to keep is a share of that of `of`."""
    model = build(state)
    dims = spec.dimensions(model)
    loader = ctx.loaders(batch_size=64).calibration
    calibration = importance.calibration_batches(loader, spec.calibration_batches)
    scores = importance.importance(model, dims, spec.criterion, calibration, ctx.seed)
    keep: dict[str, float] | None = dict(spec.keep) if spec.keep else None  # type: ignore[arg-type]
    if spec.ratios == "auto":
        curves = scan(state.model_args, state.weights, dims, scores, ctx.loaders().validation)
        ctx.details["sensitivity"] = curves
        keep = keep or {"units": 1 - (spec.ratio or 0)}

    def choose_at(dial: float) -> Removed:
        if spec.ratios == "auto":  # the dial is the loss that each dimension may cost
            ratios = ratios_for_drop(curves, _drop(dial))
            return choose(dims, scores, 0.0, replace(spec.amount(), ratios=ratios))
        return choose(dims, scores, dial, spec.amount())

    if keep:
        removed, dial = choose_for_cost(
            choose_at,
            state.model_args,
            keep,
            of=of.model_args if of else None,
            device=ctx.device,
            exact=last,
        )
        auto = spec.ratios == "auto"
        ctx.details["drop_found" if auto else "ratio_found"] = _drop(dial) if auto else dial
    else:
        assert spec.ratio is not None
        removed = choose_at(spec.ratio)
    args, weights = cut(state.model_args, state.weights, removed)
    return state.changed(weights, model_args=args)


def _drop(dial: float) -> float:
    """Points that each dimension may lose, for a dial from 0 to 1.

    Cubed, so that most steps of the bisection fall on small drops, where the answer lies.
    """
    return 100 * dial**3


def _prune_in_steps(state: ModelState, spec: PruneSpec, ctx: Context) -> ModelState:
    """Cut, finetune, cut, ..., cut: importance is taken anew each time; the last cut ends it."""
    assert spec.finetune is not None
    snapshot = ctx.snapshot
    found = snapshot.load() if snapshot is not None else None
    first = found["iteration"] if found is not None else 0
    current = from_plain(found["state"]) if found is not None else state
    for step in range(first, spec.iterations):
        resumed = found if step == first else None
        if resumed is None:
            current = _cut_at_step(current, state, spec, ctx, step)
        if step + 1 < spec.iterations:
            ctx.say(f"  iteration {step + 1}/{spec.iterations} is cut; finetuning")
            if snapshot is not None:
                ctx.snapshot = _InnerSnapshot(snapshot, step, current, resumed)
            try:
                current = fit(current, spec.finetune, spec.finetune.epochs, ctx)
            finally:
                ctx.snapshot = snapshot
    return current


class _InnerSnapshot:
    """A fit's snapshot inside an iteration's, which also holds the network as it was cut."""

    def __init__(self, outer: Snapshot, step: int, state: ModelState, found: dict[str, Any] | None):
        self.outer, self.step, self.state, self.found = outer, step, state, found

    def load(self) -> dict[str, Any] | None:
        return self.found["fit"] if self.found is not None else None

    def save(self, value: dict[str, Any]) -> None:
        self.outer.save({"iteration": self.step, "state": to_plain(self.state), "fit": value})


def _cut_at_step(
    state: ModelState, original: ModelState, spec: PruneSpec, ctx: Context, step: int
) -> ModelState:
    """The cut of one iteration, towards the share of the `original` that is due after it."""
    changes: dict[str, Any] = {}
    if spec.keep:
        cost = _named(spec.keep)
        changes["keep"] = {**spec.keep, cost: _kept(spec, spec.keep[cost], step + 1)}
    final = 1 - (spec.ratio or 0)
    relative = 1 - _kept(spec, final, step + 1) / _kept(spec, final, step)
    if spec.ratios == "auto" or spec.scope == "global" or "depth" in spec.targets:
        changes["ratio"] = relative
    else:  # ratios from the first widths, so that rounding does not add up
        widths = {d.name: d.width for d in spec.dimensions(build(original))}
        exact = {}
        for dimension in spec.dimensions(build(state)):
            own = [r for p, r in spec.own_ratios().items() if fnmatchcase(dimension.name, p)]
            if own or not spec.keep:
                kept = _kept(spec, 1 - own[-1] if own else final, step + 1)
                exact[dimension.name] = max(
                    0.0, 1 - kept * widths[dimension.name] / dimension.width
                )
        changes.update(ratios=exact, ratio=relative)
    last = step + 1 == spec.iterations
    return prune_once(state, spec.model_copy(update=changes), ctx, of=original, last=last)


def _kept(spec: PruneSpec, final: float, step: int) -> float:
    """Share of the original that is left after `step` of the iterations, `final` after the last."""
    done = step / spec.iterations
    if done == 1:
        return final  # to the bit, which the formulas below miss
    if spec.schedule == "geometric":
        return final**done
    if spec.schedule == "cubic":  # arXiv:1710.01878
        return final + (1 - final) * (1 - done) ** 3
    return 1 - (1 - final) * done


def _named(keep: dict[Any, float]) -> Any:
    return next(name for name in keep if name != "batch")
