"""Structural pruning: how much of each dimension goes, chosen by ratio or by a cost to reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor

from machine.timing import latency
from methods import costs
from methods.pruning.cutting import Dimension, cut_args, without_exits
from model import blueprint, build_network

Removed = list[tuple[Dimension, Tensor]]
LARGEST_DIAL = 0.999  # end of the dial that is tried: something of every dimension stays
HALVINGS = 16  # of the dial's range; a 65,536th of a network is less than a unit
TOLERANCE = 0.02  # share of the original cost within which a 'keep' counts as met
CLOSE = TOLERANCE / 4  # the same, within which nothing closer is looked for


@dataclass(frozen=True)
class Amount:
    """How much to remove, besides the ratio itself."""

    uniform: bool = True  # the ratio of each dimension; else of all units together
    min_channels: int = 1
    round_to: int = 1
    ratios: dict[str, float] = field(default_factory=dict)  # pattern of names → its own ratio
    # name → how dear a dimension's units are beside the others'; 1 where nothing is said
    factors: dict[str, float] = field(default_factory=dict)


class Choice(NamedTuple):
    """What goes, at which dial, and the share of the cost that is left."""

    removed: Removed
    dial: float
    left: float


def choose(
    dims: Sequence[Dimension], scores: Sequence[Tensor], ratio: float, amount: Amount
) -> Removed:
    """The units to remove of each dimension: the weakest `ratio` of them."""
    counts = (
        _uniform(dims, ratio, amount) if amount.uniform else _global(dims, scores, ratio, amount)
    )
    removed = []
    for dimension, score, count in zip(dims, scores, counts, strict=True):
        order = score.view(dimension.blocks, -1).argsort(dim=1, stable=True)  # weakest first
        offsets = torch.arange(dimension.blocks)[:, None] * dimension.width
        removed.append((dimension, (order + offsets)[:, :count].flatten()))
    return removed


def _uniform(dims: Sequence[Dimension], ratio: float, amount: Amount) -> list[int]:
    """Units to remove of each block, every dimension by the same ratio or its own.

    With a factor f the share that stays is the f-th root of what it would be.
    """
    counts = []
    for dimension in dims:
        own = [r for pattern, r in amount.ratios.items() if fnmatchcase(dimension.name, pattern)]
        factor = amount.factors.get(dimension.name, 1.0)
        shared = ratio if factor == 1 else 1 - (1 - ratio) ** (1 / factor)
        wanted = round(dimension.width * (own[-1] if own else shared))
        counts.append(dimension.width - _allowed(dimension, dimension.width - wanted, amount))
    return counts


def _global(
    dims: Sequence[Dimension], scores: Sequence[Tensor], ratio: float, amount: Amount
) -> list[int]:
    """As `_uniform`, by one threshold over all units, each dimension's scores over their mean.

    Factors multiply the scores.
    """
    steps = []  # per dimension, the cost of removing its weakest, second weakest, ... unit
    for dimension, score in zip(dims, scores, strict=True):
        ranked = score.view(dimension.blocks, -1).sort(dim=1).values.mean(0)
        factor = amount.factors.get(dimension.name, 1.0)
        steps.append(factor * ranked / score.mean().clamp_min(1e-30))
    owner = torch.cat([torch.full((len(step),), i) for i, step in enumerate(steps)])
    weakest = torch.cat(steps).argsort(stable=True)[: round(ratio * len(owner))]
    counts = owner[weakest].bincount(minlength=len(dims)).tolist()
    return [
        d.width - _allowed(d, d.width - count, amount)
        for d, count in zip(dims, counts, strict=True)
    ]


def _allowed(dimension: Dimension, keep: int, amount: Amount) -> int:
    """The nearest width that min_channels and round_to allow; heads and layers are not rounded."""
    if dimension.target in ("heads", "depth"):
        return max(1, keep)
    least = -(-amount.min_channels // amount.round_to) * amount.round_to
    keep = max(least, round(keep / amount.round_to) * amount.round_to)
    return min(keep, dimension.width)


def choose_for_cost(
    choose_at: Callable[[float], Removed],
    model_args: dict[str, Any],
    keep: dict[str, float],
    *,
    of: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
    exact: bool = True,
) -> Choice:
    """The choice that leaves `keep` of a cost, found by bisection.

    `choose_at` maps a dial from 0 (remove nothing) to 1 to a choice. `keep` is {'macs': s},
    {'params': s}, {'units': s} or {'latency_ms': s, 'batch': n}, s a share of the cost of the
    network with arguments `of` (None: the present one). Latency is that of the float network on
    `device`. Raises ValueError, with the nearest possible share, where none is within 2 % and it
    must be `exact`.
    """
    wanted = next(value for name, value in keep.items() if name != "batch")
    measure = _cost(keep, device)
    whole = measure(of or model_args)
    low, high = 0.0, LARGEST_DIAL
    best: Choice | None = None
    for _ in range(HALVINGS):
        dial = (low + high) / 2
        removed = choose_at(dial)
        if "units" in keep:
            units = sum(d.size for d, _ in removed)
            left = 1 - sum(len(gone) for _, gone in removed) / units
        else:
            left = measure(cut_args(model_args, removed)) / whole
        if best is None or abs(left - wanted) < abs(best.left - wanted):
            best = Choice(removed, dial, left)
        if abs(best.left - wanted) < CLOSE:
            break
        low, high = (dial, high) if left > wanted else (low, dial)
    assert best is not None
    if exact and abs(best.left - wanted) > TOLERANCE:
        raise ValueError(_impossible(keep, best.left))
    return best


def args_after(
    dims: Sequence[Dimension],
    model_args: dict[str, Any],
    wanted: float | Mapping[Any, float],
    amount: Amount,
    *,
    exact: bool,
) -> dict[str, Any]:
    """The arguments after a uniform cut by a ratio, or to keep a cost: scores say only which go.

    Raises ValueError where a cost must be kept and `exact`, and cannot.
    """
    scores = [torch.zeros(dimension.size) for dimension in dims]

    def choose_at(dial: float) -> Removed:
        return choose(dims, scores, dial, amount)

    if isinstance(wanted, Mapping):
        removed = choose_for_cost(choose_at, model_args, dict(wanted), exact=exact).removed
    else:
        removed = choose_at(wanted)
    return cut_args(model_args, removed)


def check_reachable(
    dims: Sequence[Dimension], model_args: dict[str, Any], keep: Mapping[Any, float], amount: Amount
) -> None:
    """Raise ValueError where not even the most that may go leaves as little as `keep` says.

    For a choice that hangs on weights; `keep` names macs or params.
    """
    left = args_after(dims, model_args, LARGEST_DIAL, replace(amount, uniform=True), exact=False)
    measure, share = _cost(keep, "cpu"), next(iter(keep.values()))
    least = measure(left) / measure(model_args)
    if least - share > TOLERANCE:
        raise ValueError(_impossible(keep, least))


def _impossible(keep: Mapping[Any, float], nearest: float) -> str:
    return (
        f"keep {dict(keep)}: not possible with these targets and limits; nearest is {nearest:.3f}"
    )


def _cost(
    keep: Mapping[Any, float], device: torch.device | str
) -> Callable[[dict[str, Any]], float]:
    if "units" in keep:
        return lambda args: 1.0
    if "macs" in keep:
        return lambda args: costs.planned_macs(without_exits(args))[-1]
    if "params" in keep:
        return lambda args: sum(p.numel() for p in blueprint(args).parameters())

    def milliseconds(args: dict[str, Any]) -> float:
        model = build_network(args).eval()
        images = costs.example_image(model).repeat(int(keep.get("batch", 1)), 1, 1, 1)
        placed = model.to(device).to(memory_format=torch.channels_last)
        images = images.to(device=device, memory_format=torch.channels_last)
        return latency(placed, images)["median"]

    return milliseconds
