"""Which letters, orders and strengths mattered, by what the model of a search says of its space."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from experiment.search.policy import Policy
from experiment.search.space import Way
from experiment.study.luck import Array

WAYS = 40  # pairs of ways that an effect is the mean over
DRAWS = 400
FAR = 5.0  # times the scale of drops: ways that lose more are not looked at


def mattered(policy: Policy) -> dict[str, list[dict[str, Any]]]:
    """Effects on the accuracy in points, means over ways that lose little, with 95 % intervals."""
    space, near = policy.space, _near(policy)
    rng = np.random.default_rng(policy.seed)
    orders, strengths, letters = [], [], []
    for a, b in itertools.combinations(space.choices, 2):
        first = [way for way in near if _before(way, a, b)]
        effect = _effect(policy, first, partial(_exchanged, a=a, b=b), rng)
        if effect is not None:
            orders.append({"first": a, "second": b, **effect})
    for letter, choices in space.choices.items():
        for option in choices[0]:
            values = [choice[option] for choice in choices]
            numbers = [v for v in values if isinstance(v, int | float)]
            if len(numbers) < len(values) or len(set(values)) < 2:
                low, high = values[0], values[-1]
            else:
                low, high = min(values), max(values)
            there = [way for way in near if letter in dict(way)]
            effect = _effect(
                policy,
                [_with(way, letter, option, high, choices) for way in there],
                partial(_with, letter=letter, option=option, value=low, choices=choices),
                rng,
            )
            if effect is not None and low != high:
                told = {"letter": letter, "option": option, "from": low, "to": high}
                strengths.append({**told, **effect})
        there = [way for way in near if letter in dict(way) and len(way) > 1]
        effect = _effect(policy, there, partial(_without, letter=letter), rng)
        if effect is not None:
            letters.append({"letter": letter, **effect})
    return {"orders": orders, "strengths": strengths, "letters": letters}


def _near(policy: Policy) -> list[Way]:
    drops = policy.drops.points(np.minimum(policy.mean, 10.0))
    return [policy.space.ways[i] for i in np.flatnonzero(drops < FAR * policy.drops.scale)]


def _effect(
    policy: Policy, ways: Sequence[Way], other: Callable[[Way], Way], rng: np.random.Generator
) -> dict[str, Any] | None:
    """How much more accurate ways are than what `other` makes of them; None where neither there."""
    both = {(way, other(way)) for way in ways}
    there = sorted(p for p in both if all(way in policy.index for way in p) and p[0] != p[1])
    if not there:
        return None
    chosen = [there[i] for i in rng.permutation(len(there))[:WAYS]]
    mean, covariance = policy.drops.joint([way for pair in chosen for way in pair])
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    draws = mean + rng.standard_normal((DRAWS, len(mean))) @ root.T
    points: Array = policy.drops.points(np.clip(draws, -4, 4))
    effects = (points[:, 1::2] - points[:, ::2]).mean(axis=1)
    low, high = np.percentile(effects, [2.5, 97.5])
    return {"effect": float(np.median(effects)), "interval": [float(low), float(high)]}


def _before(way: Way, a: str, b: str) -> bool:
    order = [letter for letter, _ in way]
    return a in order and b in order and order.index(a) < order.index(b)


def _exchanged(way: Way, a: str, b: str) -> Way:
    own = dict(way)
    return tuple(
        (b, own[b]) if letter == a else (a, own[a]) if letter == b else (letter, number)
        for letter, number in way
    )


def _without(way: Way, letter: str) -> Way:
    return tuple(each for each in way if each[0] != letter)


def _with(way: Way, letter: str, option: str, value: Any, choices: Sequence[Any]) -> Way:
    """The way with another value of one option, all others as they are."""
    number = dict(way)[letter]
    wanted = {**choices[number], option: value}
    return tuple(
        (each, [dict(c) for c in choices].index(wanted) if each == letter else own)
        for each, own in way
    )
