"""What stages cost, and whether a search may still begin one."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from experiment.search.journal import Journal
from experiment.search.plan import Search
from experiment.search.policy import Proposal
from experiment.search.space import Way, beginnings

NEXT_TO_NOTHING = 1e-3  # seconds, or epochs, that a stored stage takes


@dataclass
class Prices:
    """Seconds that a letter's stages take, by what they took so far, at first by the baseline's
    epochs; or epochs, should these be the budget."""

    search: Search
    # letter, or None for the baseline → seconds an epoch, and seconds beside
    taken: dict[str | None, list[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    free: set[tuple[str, Way]] = field(default_factory=set)  # in the store before the search

    def learn(self, letter: str | None, epochs: int, seconds: float, measuring: float) -> None:
        self.taken[letter].append(((seconds - measuring) / max(1, epochs), measuring))

    def __call__(self, kind: str, way: Way) -> float:
        if (kind, way) in self.free:
            return NEXT_TO_NOTHING
        letter, epochs = way[-1][0], max(1, self.search.space.epochs_of(kind, way))
        known = self.taken.get(letter) or self.taken.get(None)
        if self.search.config.budget_hours is None or known is None:
            return float(epochs)
        epoch, beside = (statistics.median(each) for each in zip(*known, strict=True))
        return epochs * epoch + beside


@dataclass
class Budget:
    """Hours, epochs or both, of which the last part is kept for running the best again."""

    search: Search
    journal: Journal
    prices: Prices
    baseline: dict[str, Any]  # its record

    def allowed(self, proposals: Sequence[Proposal], best: Way | None) -> list[Proposal]:
        """Those whose last letters together leave enough to run the `best` so far again."""
        found: list[Proposal] = []
        seconds, epochs = self.again(best)
        for each in proposals:
            more = self.prices(each.kind, each.way)
            free = (each.kind, each.way) in self.prices.free
            trained = 0 if free else self.search.space.epochs_of(each.kind, each.way)
            if self._within(seconds + more, epochs + trained):
                seconds, epochs = seconds + more, epochs + trained
                found.append(each)
        return found

    def allows_again(self, way: Way) -> bool:
        """Whether a way may be run again at fresh seeds."""
        return self._within(*self.again(way))

    def again(self, way: Way | None) -> tuple[float, int]:
        """Seconds and epochs of running a way at fresh seeds, with their baselines; nothing where
        that was done. None: of a chain with every letter."""
        if any(final.way == way for final in self.journal.finals):
            return 0.0, 0
        chain = list(beginnings(way or max(self.search.space.ways, key=len)))
        epochs = sum(self.search.space.epochs_of("full", begin) for begin in chain)
        seconds = sum(self.prices("full", begin) for begin in chain)
        if not self.journal.finals:
            epochs += self.search.baseline_epochs
            seconds += self.baseline["seconds"]
        count = self.search.config.seeds_final
        return count * seconds, count * epochs

    def _within(self, seconds: float, epochs: int) -> bool:
        hours, most = self.search.config.budget_hours, self.search.config.budget_epochs
        return (hours is None or self.journal.seconds + seconds <= 3600 * hours) and (
            most is None or self.journal.epochs + epochs <= most
        )
