"""Spaces of ways without a suite, and a tiny search with the command that runs it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import main
from experiment.search.plan import Search, load_search
from experiment.search.space import Space, Way, beginnings

SEARCH = """
DEFAULT_DATASET_CONFIG = {"name": "Digits", "validation_share": 0.3}
DEFAULT_COMPRESSION_PARAMS["finetune_epochs"] = 1
ASKED = {
    "name": "Tiny",
    "baseline": "Base",
    "stages": {
        "P": [{"prune": {"mode": "structural"}}, {"finetune": {"epochs": 2}}],
        "Q": {"qat": {"epochs": 1}},
    },
    "strengths": {"P": {"keep.macs": [0.45, 0.6]}},
    "wish": "accuracy_drop<=60, min bitops",
    "budget_epochs": 40,
    "seeds_final": 2,
}
SEARCHES = [ASKED]
"""


def search(path: Path, *arguments: str) -> int:
    return main.main(["search", *arguments, "--config", str(path)])


def loaded(path: Path) -> Search:
    return load_search(path, "Tiny")


def made_up(
    choices: Mapping[str, Sequence[Mapping[str, Any]]],
    macs: Mapping[str, Sequence[float]],
    *,
    counted: bool = True,
) -> Space:
    """Every order of every subset of letters, each of whose choices keeps a share of the MACs,
    which is `counted` exactly, or not."""
    orders = [
        order
        for length in range(1, len(choices) + 1)
        for order in itertools.permutations(choices, length)
    ]
    ways: list[Way] = [
        tuple(zip(order, numbers, strict=True))
        for order in orders
        for numbers in itertools.product(*(range(len(choices[letter])) for letter in order))
    ]

    def left(way: Way) -> dict[str, float]:
        share = 1.0
        for letter, number in way:
            share *= macs[letter][number]
        return {"macs": 1e6 * share, "bitops": 1e9 * share, "params": 1e4, "model_size_mb": 0.1}

    through = {begin for way in ways for begin in beginnings(way)} | {()}
    epochs = {
        (letter, number, kind): 3 if kind == "full" else 1
        for letter, own in choices.items()
        for number in range(len(own))
        for kind in ("full", "short")
    }
    foreseen = {way: left(way) for way in through}
    return Space(choices, tuple(ways), {}, 0, foreseen, set(ways) if counted else set(), epochs)
