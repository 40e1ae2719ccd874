"""What a search chooses from: orders of letters at strengths, and what is known of each beforehand.

A way is a chain as the search sees it: letters, each with the number of one of its choices. Every
beginning of a way is a way too, so ways form a tree, as their networks do in the store.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiment.study.luck import Array
from experiment.suite.builder import after_checks
from experiment.suite.records import Outline
from methods.costs import planned_attention, planned_macs
from model import blueprint
from stages.stage import StageSpec

Way = tuple[tuple[str, int], ...]  # letters, each with the number of its choice
Stages = tuple[tuple[str, StageSpec], ...]
KINDS = ("full", "short")
LONGEST = 12  # letters of a choice in a name
MOST = 6_000  # ways that are looked at; of a larger space as many by lot


@dataclass(frozen=True)
class Space:
    """Every way, and of each what follows from the baseline's arguments alone."""

    choices: Mapping[str, Sequence[Mapping[str, Any]]]  # letter → option → value, a dict a choice
    ways: tuple[Way, ...]
    impossible: Mapping[str, int]  # why → how many ways
    beyond: int  # ways that were left out by lot
    foreseen: Mapping[Way, Mapping[str, float]]  # figure → value; of the baseline as ()
    counted: Collection[Way]  # those of which that is exact, whatever the seed
    epochs: Mapping[tuple[str, int, str], int]  # letter, choice, kind → epochs of its stages

    def orders(self) -> list[str]:
        return sorted({order_of(way) for way in self.ways}, key=lambda order: (len(order), order))

    def epochs_of(self, kind: str, way: Way) -> int:
        """Epochs of the last letter's stages."""
        letter, number = way[-1]
        return self.epochs[letter, number, kind]

    def strengths(self, way: Way) -> dict[str, dict[str, Any]]:
        """Letter → option → value, as results tell it."""
        return {letter: dict(self.choices[letter][number]) for letter, number in way}

    def label(self, way: Way) -> str:
        """'DPQ_d0.5_p0.45': the order, then the strengths of letters that have several."""
        tags = [self._tags[letter][number] for letter, number in way]
        return "_".join([order_of(way), *filter(None, tags)])

    @functools.cached_property
    def _tags(self) -> dict[str, list[str]]:
        """Letter → what says each of its choices; their numbers, where values would not."""
        found = {}
        for letter, choices in self.choices.items():
            told = ["-".join(map(_short, choice.values())) for choice in choices]
            if len(set(told)) < len(told) or max(map(len, told)) > LONGEST:
                told = list(map(str, range(len(choices))))
            found[letter] = [f"{letter.lower()}{each}" if len(told) > 1 else "" for each in told]
        return found


def order_of(way: Way) -> str:
    return "".join(letter for letter, _ in way)


def beginnings(way: Way) -> Iterator[Way]:
    """Every way that it goes through, itself at last."""
    return (way[:length] for length in range(1, len(way) + 1))


def _short(value: Any) -> str:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return f"{value:g}"
    return "".join(c for c in str(value) if c.isalnum() or c in "._")[:12]


# --- what there is -----------------------------------------------------------------------------


def space_of(
    choices: Mapping[str, Sequence[Mapping[str, Any]]],
    stages: Mapping[tuple[str, int, str], Stages],
    orders: Sequence[str],
    baseline: Outline,
    *,
    seed: int = 0,
) -> Space:
    """The space of these orders; `stages` has those of each letter, choice and kind."""
    fold = _Fold(stages, baseline)
    ways: list[Way] = []
    impossible: Counter[str] = Counter()
    for order in orders:
        numbers = (range(len(choices[letter])) for letter in order)
        for chosen in itertools.product(*numbers):
            way = tuple(zip(order, chosen, strict=True))
            why = fold.why_not(way)
            if why is None:
                ways.append(way)
            else:
                impossible[why] += 1
    left_out = max(0, len(ways) - MOST)
    if left_out:
        keep = np.random.default_rng(seed).permutation(len(ways))[:MOST]
        ways = [ways[i] for i in sorted(keep)]
    through = {begin for way in ways for begin in beginnings(way)}
    foreseen = {way: fold.costs(way) for way in [(), *sorted(through)]}
    counted = {way for way in foreseen if fold.is_counted(way)}
    epochs = {of: sum(spec.epochs_trained for _, spec in own) for of, own in stages.items()}
    return Space(choices, tuple(ways), impossible, left_out, foreseen, counted, epochs)


@dataclass
class _Fold:
    """Outlines of ways, each made from that of the way before."""

    stages: Mapping[tuple[str, int, str], Stages]
    baseline: Outline
    known: dict[Way, Outline | str] = field(default_factory=dict)
    alike: dict[tuple[str, int, str], Outline | str] = field(default_factory=dict)
    counted: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def outline(self, way: Way) -> Outline | str:
        """What leaves the last stage; or why there is no such network."""
        if not way:
            return self.baseline
        if way not in self.known:
            before = self.outline(way[:-1])
            if isinstance(before, str):
                self.known[way] = before
                return before
            letter, number = way[-1]
            same = letter, number, repr(before)  # what leads to it need not have been the same
            if same not in self.alike:
                self.alike[same] = self._after(before, way[-1])
            self.known[way] = self.alike[same]
        return self.known[way]

    def _after(self, outline: Outline, choice: tuple[str, int]) -> Outline | str:
        for stage, spec in self.stages[choice[0], choice[1], "full"]:
            try:
                outline = after_checks(spec, outline)
            except ValueError as error:
                return f"{choice[0]}: {stage}: {error}"
        return outline

    def why_not(self, way: Way) -> str | None:
        found = self.outline(way)
        return found if isinstance(found, str) else None

    def is_counted(self, way: Way) -> bool:
        """Not where images leave early, nor where weights say which widths go."""
        outline = self.outline(way)
        return isinstance(outline, Outline) and outline.exact and not outline.exits

    def costs(self, way: Way) -> dict[str, float]:
        """Counts of the network, as far as known: pruning by scores over layers, and exits, are
        known only afterwards."""
        outline = self.outline(way)
        assert isinstance(outline, Outline)
        key = repr(outline.model_args)
        if key not in self.counted:
            model, args = blueprint(outline.model_args), outline.model_args
            params = sum(p.numel() for p in model.parameters())
            self.counted[key] = planned_macs(args)[-1], planned_attention(args), params
        macs, between, params = self.counted[key]
        bits = 8 if outline.int8 else 16 if outline.bf16 else 32
        rest = 16 if outline.bf16 else 32  # attention itself is never int8
        exits = outline.exits_by.settings() if outline.exits_by is not None else {}
        share = 1 - (exits.get("saving") or 0.0)
        return {
            "macs": share * macs,
            "params": params,
            "bitops": share * ((macs - between) * bits**2 + between * rest**2),
            "model_size_mb": params * bits / 8e6,
        }


# --- as numbers --------------------------------------------------------------------------------


class Features:
    """Ways as rows of numbers, groups of columns beside one another."""

    def __init__(self, space: Space):
        self.space, self.letters = space, sorted(space.choices)
        self.pairs = list(itertools.combinations(self.letters, 2))
        self.places = {letter: _placed(space.choices[letter]) for letter in self.letters}
        widths = [
            len(self.letters),
            sum(places.shape[1] for places in self.places.values()),
            len(self.pairs),
            1,
            1,
        ]
        stops = list(itertools.accumulate(widths))
        self.groups = [
            (stop - width, stop) for width, stop in zip(widths, stops, strict=True) if width
        ]
        self.width = stops[-1]

    def row(self, way: Way, kind: str) -> list[float]:
        """Which letters, how strong, in which order, how many MACs are left, how short."""
        numbers, order = dict(way), [letter for letter, _ in way]
        there = [float(letter in numbers) for letter in self.letters]
        strong: list[float] = []
        for letter in self.letters:
            places = self.places[letter]
            own = places[numbers[letter]] if letter in numbers else np.zeros(places.shape[1])
            strong += own.tolist()
        before = [
            0.0 if not {a, b} <= set(order) else 1.0 if order.index(a) < order.index(b) else -1.0
            for a, b in self.pairs
        ]
        left = self.space.foreseen[way]["macs"] / self.space.foreseen[()]["macs"]
        return [*there, *strong, *before, math.log2(left) / 2, float(kind == "short")]

    def rows(self, ways: Sequence[Way], kind: str) -> Array:
        return np.array([self.row(way, kind) for way in ways]).reshape(len(ways), self.width)


def _placed(choices: Sequence[Mapping[str, Any]]) -> Array:
    """Each choice in [-1, 1] by option; of words a column each."""
    columns: list[list[float]] = []
    for option in choices[0]:
        values = [choice[option] for choice in choices]
        if all(isinstance(v, float | int) and not isinstance(v, bool) for v in values):
            low, high = min(values), max(values)
            if low < high:
                columns.append([2 * (v - low) / (high - low) - 1 for v in values])
            continue
        different = [v for i, v in enumerate(values) if v not in values[:i]]
        columns += [[float(v == one) for v in values] for one in different if len(different) > 1]
    return np.array(columns).reshape(len(columns), len(choices)).T
