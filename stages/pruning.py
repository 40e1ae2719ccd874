"""`prune`: remove whole output channels, heads or layers, for good or behind a mask.

Mode 'mask' sets the weakest channels of every layer to zero and keeps them there. Mode 'structural'
cuts them out: what comes back is a smaller network, described by `model_args` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from machine.errors import Interrupted
from machine.files import canonical_json
from methods.pruning import importance
from methods.pruning.amounts import CLOSE, TOLERANCE, Choice, Removed, choose, choose_for_cost
from methods.pruning.candidates import drawn_factors, judge
from methods.pruning.cutting import Weights, cut
from methods.pruning.masks import mask_channels
from methods.pruning.sensitivity import ratios_for_drop, scan
from stages.architecture_change import report
from stages.fitting import fit
from stages.prune_spec import OF_THE_FLOAT_NETWORK, PruneSpec
from stages.stage import Context, Snapshot, StageError
from stages.state import ModelState, build, from_plain, state_of, to_plain


def prune(state: ModelState, spec: PruneSpec, ctx: Context) -> ModelState:
    if spec.mode == "mask":
        model = build(state)
        assert spec.ratio is not None
        ctx.details["zero_channels"] = mask_channels(model, spec.ratio)
        return state.changed(state_of(model).weights)
    if spec.keep and "latency_ms" in spec.keep and state.is_rounded:
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

    def choose_at(dial: float, factors: dict[str, float]) -> Removed:
        amount = replace(spec.amount(), factors=factors)
        if spec.ratios == "auto":  # the dial is the loss that each dimension may cost
            ratios = ratios_for_drop(curves, _drop(dial))
            return choose(dims, scores, 0.0, replace(amount, ratios=ratios))
        return choose(dims, scores, dial, amount)

    def meet(factors: dict[str, float], exact: bool) -> Choice:
        assert keep is not None
        return choose_for_cost(
            lambda dial: choose_at(dial, factors),
            state.model_args,
            keep,
            of=of.model_args if of else None,
            device=ctx.device,
            exact=exact,
        )

    if not keep:
        assert spec.ratio is not None
        args, weights = cut(state.model_args, state.weights, choose_at(spec.ratio, {}))
        return state.changed(weights, model_args=args)
    if spec.candidates == 1:
        choice = meet({}, last)
        args, weights = cut(state.model_args, state.weights, choice.removed)
    else:
        drawn = drawn_factors(dims, spec.candidates, ctx.seed)
        choices = [meet(factors, last and not factors) for factors in drawn]
        choice, args, weights = _best(state, choices, keep[_named(keep)], calibration, ctx)
    auto = spec.ratios == "auto"
    ctx.details["drop_found" if auto else "ratio_found"] = (
        _drop(choice.dial) if auto else choice.dial
    )
    return state.changed(weights, model_args=args)


def _best(
    state: ModelState,
    choices: Sequence[Choice],
    wanted: float,
    calibration: Callable[[], importance.Batches],
    ctx: Context,
) -> tuple[Choice, dict[str, Any], Weights]:
    """Of cuts that keep the `wanted` cost, that of the least validation loss; the first is plain.

    Left out are those that keep more than asked for, and than the plain cut: they would win by
    what they cost.
    """
    plain = choices[0].left
    most, least = max(plain, wanted + CLOSE), min(plain, wanted - TOLERANCE)
    validation = ctx.loaders().validation
    seen: set[bytes] = set()
    rows: list[dict[str, Any]] = []
    best: tuple[Choice, dict[str, Any], Weights] | None = None
    lowest = math.inf
    for number, choice in enumerate(choices):
        if ctx.stop_requested():
            raise Interrupted
        args, weights = cut(state.model_args, state.weights, choice.removed)
        widths = canonical_json(args)  # which say all: factors do not change which units go first
        if widths in seen or not least <= choice.left <= most:
            continue
        seen.add(widths)
        judged = judge(args, weights, calibration, validation)
        if best is None or judged.loss < lowest:
            best = choice, args, judged.weights
            lowest = judged.loss if math.isfinite(judged.loss) else math.inf
            ctx.details["chosen"] = number
        rows.append(
            {
                "number": number,
                "widths": {d.name: d.width - len(gone) // d.blocks for d, gone in choice.removed},
                "kept": choice.left,
                "loss_as_cut": judged.loss_as_cut,
                "loss": judged.loss,
                "accuracy": judged.accuracy,
            }
        )
    assert best is not None
    ctx.details["candidates"] = rows
    ctx.say(
        f"       candidate {ctx.details['chosen']} of {len(rows)} that differ at the same cost: "
        f"validation loss {lowest:.4f}, of the plain cut {rows[0]['loss']:.4f}"
    )
    return best


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
