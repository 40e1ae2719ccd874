"""`prune`: remove whole output channels, heads or layers, for good or behind a mask.

Mode 'mask' sets the weakest channels of every layer to zero and keeps them there. Mode 'structural'
cuts them out: what comes back is a smaller network, described by `model_args` alone.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

import costs
from model import HybridCNNTransformer
from stages import importance
from stages.dimensions import TARGETS, Dimension, cut, dimensions
from stages.finetuning import FinetuneSpec, fit
from stages.masks import mask_channels
from stages.sensitivity import ratios_for_drop, scan
from stages.state import (
    CompressionArgs,
    Context,
    ModelState,
    Snapshot,
    StageSpec,
    blueprint,
    build,
    from_plain,
    state_of,
    to_plain,
)
from stages.structural import Amount, Removed, choose, choose_for_cost
from train_eval import TrainingArgs

Target = Literal["conv", "ffn", "heads", "head_dim", "embed", "depth"]
STRUCTURAL_ONLY = ("targets", "keep", "scope", "ratios", "protect", "iterations")


class PruneSpec(StageSpec):
    """What to remove, by which criterion, and how much: `ratio`, or a cost to `keep`."""

    ratio: float | None = Field(0.5, ge=0, lt=1)  # of the channels; at least one stays
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
        if self.mode == "mask":
            changed = [n for n in STRUCTURAL_ONLY if n in self.model_fields_set]
            if changed:
                raise ValueError(
                    f"{changed[0]} needs mode 'structural'; mode 'mask' has ratio alone"
                )
            if self.criterion != "l1":
                raise ValueError(f"criterion {self.criterion!r} needs mode 'structural'")
            if self.ratio is None:
                raise ValueError("mode 'mask' needs a ratio")
        elif self.keep is None and self.ratio is None:
            raise ValueError("should have ratio or keep")
        elif not self.targets:
            raise ValueError(f"targets should name some of {', '.join(TARGETS)}")
        elif self.ratios and self.scope == "global":
            raise ValueError("ratios are of each dimension; use scope 'uniform'")
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

    def dimensions(self, model: HybridCNNTransformer) -> list[Dimension]:
        """What of the network may be pruned. Raises ValueError for patterns that match nothing."""
        dims = dimensions(model, self.targets)
        if not dims:
            raise ValueError(f"targets {self.targets}: the network has none of these")
        for pattern in [*self.protect, *self._own_ratios()]:
            if not any(fnmatchcase(d.name, pattern) for d in dims):
                names = ", ".join(d.name for d in dims)
                raise ValueError(f"{pattern!r} matches nothing to prune; there are: {names}")
        return [d for d in dims if not any(fnmatchcase(d.name, p) for p in self.protect)]

    def amount(self) -> Amount:
        ratios = self._own_ratios()
        return Amount(self.scope == "uniform", self.min_channels, self.round_to, ratios)

    def _own_ratios(self) -> dict[str, float]:
        return self.ratios if isinstance(self.ratios, dict) else {}


def _scored(dimension: Dimension, criterion: str) -> bool:
    if criterion == "bn_scale":
        return any(".norm" in m.tensor for m in dimension.members if m.role == "norm")
    return dimension.target != "depth"


def prune(state: ModelState, spec: PruneSpec, ctx: Context) -> ModelState:
    if spec.mode == "mask":
        model = build(state)
        assert spec.ratio is not None
        ctx.details["zero_channels"] = mask_channels(model, spec.ratio)
        return state.changed(state_of(model).weights)
    if spec.iterations == 1:
        pruned = prune_once(state, spec, ctx, spec.ratio, spec.keep)
    else:
        pruned = _prune_in_steps(state, spec, ctx)
    report(state, pruned, spec, ctx)
    return pruned


def prune_once(
    state: ModelState,
    spec: PruneSpec,
    ctx: Context,
    ratio: float | None,
    keep: dict[Any, float] | None,
) -> ModelState:
    """One cut: score every unit, choose, remove."""
    model = build(state)
    dims = spec.dimensions(model)
    loader = ctx.loaders(batch_size=64).calibration

    def calibration() -> importance.Batches:
        pairs = itertools.islice(loader, spec.calibration_batches)
        return ((images.cpu(), labels.cpu()) for images, labels in pairs)

    scores = importance.importance(model, dims, spec.criterion, calibration, ctx.seed)
    if spec.ratios == "auto":
        curves = scan(state, dims, scores, ctx.loaders(batch_size=256).validation)
        ctx.details["sensitivity"] = curves

        def choose_at(dial: float) -> Removed:  # the dial is the loss that each may cost
            ratios = ratios_for_drop(curves, 100 * dial**2)
            return choose(dims, scores, 0.0, replace(spec.amount(), ratios=ratios))

        keep = keep or {"units": 1 - (ratio or 0)}
    else:

        def choose_at(dial: float) -> Removed:
            return choose(dims, scores, dial, spec.amount())

    if keep:
        removed, dial = choose_for_cost(choose_at, state.model_args, state.weights, keep)
        ctx.details["ratio_found" if spec.ratios != "auto" else "drop_found"] = (
            dial if spec.ratios != "auto" else 100 * dial**2
        )
    else:
        assert ratio is not None
        removed = choose_at(ratio)
    args, weights = cut(state.model_args, state.weights, removed)
    return state.changed(weights, model_args=args)


def _prune_in_steps(state: ModelState, spec: PruneSpec, ctx: Context) -> ModelState:
    """Cut, finetune, cut, ..., cut: importance is taken anew each time; the last cut ends it."""
    assert spec.finetune is not None
    snapshot = ctx.snapshot
    found = snapshot.load() if snapshot is not None else None
    first, current = 0, state
    if found is not None:
        first, current = found["iteration"], from_plain(found["state"])
    widths = {d.name: d.width for d in spec.dimensions(build(state))}
    for step in range(first, spec.iterations):
        if not (found and step == first and found["cut"]):
            current = _cut_at_step(current, spec, ctx, step, widths)
        if step + 1 < spec.iterations:
            ctx.say(f"  iteration {step + 1}/{spec.iterations} is cut; finetuning")
            inner = _InnerSnapshot(snapshot, step, current, found if step == first else None)
            ctx.snapshot = inner if snapshot is not None else None
            try:
                current = fit(current, spec.finetune, spec.finetune.epochs, ctx)
            finally:
                ctx.snapshot = snapshot
    return current


class _InnerSnapshot:
    """A fit's snapshot inside an iteration's."""

    def __init__(
        self, outer: Snapshot | None, step: int, state: ModelState, found: dict[str, Any] | None
    ):
        self.outer, self.step, self.state, self.found = outer, step, state, found

    def load(self) -> dict[str, Any] | None:
        return self.found["fit"] if self.found is not None else None

    def save(self, value: dict[str, Any]) -> None:
        assert self.outer is not None
        self.outer.save(
            {"iteration": self.step, "cut": True, "state": to_plain(self.state), "fit": value}
        )


def _cut_at_step(
    state: ModelState, spec: PruneSpec, ctx: Context, step: int, widths: dict[str, int]
) -> ModelState:
    """One cut of an iterative schedule; `widths` are those before the first."""

    def now(final: float) -> float:
        """Share of what is there now to keep, towards `final` of what was there at first."""
        return _kept(spec, final, step + 1) / _kept(spec, final, step)

    if spec.keep:
        cost = _named(spec.keep)
        return prune_once(state, spec, ctx, None, {**spec.keep, cost: now(spec.keep[cost])})
    assert spec.ratio is not None
    if spec.scope == "global" or "depth" in spec.targets or not isinstance(spec.ratios, dict):
        return prune_once(state, spec, ctx, 1 - now(1 - spec.ratio), None)
    exact = {}  # ratios from the first widths, so that rounding does not add up
    for dimension in spec.dimensions(build(state)):
        own = [r for p, r in spec.ratios.items() if fnmatchcase(dimension.name, p)]
        kept = _kept(spec, 1 - (own[-1] if own else spec.ratio), step + 1)
        exact[dimension.name] = max(0.0, 1 - kept * widths[dimension.name] / dimension.width)
    return prune_once(state, spec.model_copy(update={"ratios": exact}), ctx, spec.ratio, None)


def _kept(spec: PruneSpec, final: float, step: int) -> float:
    """Share of the original that is left after `step` of the iterations, `final` after the last."""
    done = step / spec.iterations
    if spec.schedule == "geometric":
        return final**done
    if spec.schedule == "cubic":  # arXiv:1710.01878
        return final + (1 - final) * (1 - done) ** 3
    return 1 - (1 - final) * done


def _named(keep: dict[Any, float]) -> Any:
    return next(name for name in keep if name != "batch")


def report(before: ModelState, after: ModelState, spec: PruneSpec, ctx: Context) -> None:
    """Note widths, MACs and parameters before and after, by layer, and show where they went."""
    one, other = build(before), build(after)
    macs, layers = costs.count_macs(one)
    macs_after, layers_after = costs.count_macs(other)
    params, params_after = (sum(p.numel() for p in m.parameters()) for m in (one, other))
    widths = {
        key: [before.model_args[key], after.model_args[key]]
        for key in before.model_args
        if before.model_args[key] != after.model_args[key]
    }
    ctx.details.update(
        widths=widths,
        macs=[macs, macs_after],
        params=[params, params_after],
        layer_macs={name: [layers[name], layers_after.get(name, 0)] for name in layers},
    )
    for key, (old, new) in widths.items():
        ctx.say(f"       {key:13} {old} → {new}")
    lost = sorted(layers, key=lambda name: layers_after.get(name, 0) - layers[name])
    for name in lost[:5]:
        now = layers_after.get(name, 0)
        ctx.say(f"       {name:38} {layers[name] / 1e6:8.3f} → {now / 1e6:8.3f} M MACs")
    ctx.say(
        f"       in all {macs / 1e6:.2f} → {macs_after / 1e6:.2f} M MACs "
        f"({macs_after / macs:.1%}), {params / 1e3:.1f} → {params_after / 1e3:.1f} k parameters"
    )
