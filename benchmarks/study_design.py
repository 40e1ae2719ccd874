"""How often a study's verdicts are wrong, and what they cost: simulated studies of known truth.

Run: python -m benchmarks.study_design [--quick] [--studies 1000] [--resampled 200] [--only WORD]
Studies are drawn as `simulated_studies.py` says. Their first 2, 3, 5 and 8 seeds are judged at one
look each, and by rounds from 2 to 8, by the code that judges real studies (`Rounds`); of some the
scores are losses, and some go through `Comparisons`, as curves over costs (2 and 3 seeds). Beside
them stands the bootstrap by which studies were judged before, each pair by its own 95 % interval:
as it was ("today"), and stretched by the one factor at which at most 5 % of the studies have a
false decision in its worst cell without any difference ("equal error"). It is run on the first
`--resampled` studies of a cell.

A line a cell: studies with a false decision (an order called better that is not, or 'equal' where
the difference is beyond the margin); pairs whose nominal 95 % interval has the truth inside; pairs
decided, and found equal, all pairs and looks together; pairs decided by their own 95 % interval
("alone"); those that the bootstrap decides; of rounds the share of the stages that 8 seeds for all
take (singles and baselines are shared) and of pairs with the same verdict as there. The last line
has the worst false decisions, the worst coverage (of one look: after rounds, whose end depends on
what was seen, only verdicts are promised), "alone" over "today" at 3 seeds where a seed's
difference has a standard deviation of at most a point, and the share of stages in mixed studies.
About 35 min on one core; `--quick` draws 40 studies a cell (2 min).
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from benchmarks.bootstrap import Array, Bootstrap
from benchmarks.simulated_studies import (
    LEAST,
    LETTERS,
    LUCKS,
    MARGIN,
    MOST,
    Scenario,
    Study,
    analysis,
    at_seeds,
    latent,
    studies,
)
from experiment.study.comparison import Evidence
from experiment.study.luck import Certainty
from experiment.study.rounds import Rounds
from machine.processor import cpu_model

LEVEL = 0.95
FIXED, ROUNDS = (2, 3, 5, 8), (LEAST, MOST)
RESAMPLES = 1000
COLUMNS = (
    *("studies", "seeds", "false", "coverage", "decided", "equal"),
    *("alone", "today", "equal error", "stages", "same"),
)
SCENARIOS = [  # those without any difference first: they say what an equal error is
    *(Scenario(4, luck, "none") for luck in LUCKS),
    *(Scenario(5, luck, "none") for luck in ("small", "lognormal", "halves")),
    Scenario(4, "lognormal", "none", scores="losses"),
    Scenario(4, "small", "none", scores="curves"),
    *(Scenario(4, luck, truth) for truth in ("apart", "mixed") for luck in LUCKS),
    *(Scenario(4, luck, "close") for luck in ("none", "small")),
    Scenario(4, "small", "ties"),
    Scenario(4, "lognormal", "cycle"),
    Scenario(5, "small", "apart"),
    Scenario(5, "lognormal", "mixed"),
    Scenario(4, "none", "margin", 10_000),
    Scenario(4, "small", "mixed", 10_000),
    Scenario(4, "lognormal", "margin", scores="losses"),
    Scenario(4, "small", "apart", scores="curves"),
]


def stages(pairs: list[tuple[str, str]], seeds: list[int]) -> int:
    """A seed's baseline and single stages are shared by the pairs that have the seed."""
    total = 0
    for seed in range(max(seeds)):
        there = [pair for pair, own in zip(pairs, seeds, strict=True) if own > seed]
        total += 1 + len({letter for pair in there for letter in pair}) + 2 * len(there)
    return total


def judged(scenario: Scenario, study: Study, least: int, most: int) -> Rounds:
    """A study's looks, to its end."""
    letters, pairs = LETTERS[: scenario.letters], scenario.pairs
    rounds = Rounds(pairs, least, most, 1 - LEVEL, MARGIN * scenario.unit)
    while True:
        samples = [study.samples[n][index] for index, n in enumerate(rounds.seeds)]
        rounds.look(samples)
        lead = dict.fromkeys(letters, 0.0)  # the present order: by sums of differences, as `rank`
        for (a, b), known in zip(pairs, samples, strict=True):
            lead[a] += known.difference
            lead[b] -= known.difference
        chosen = rounds.following(sorted(letters, key=lambda letter: -lead[letter]))
        if not chosen:
            return rounds
        rounds.add_seeds(chosen)


def false(name: str, truth: float, margin: float) -> bool:
    """Whether a verdict is wrong."""
    wrong = {"first": truth <= 0, "second": truth >= 0, "equal": abs(truth) > margin}
    return wrong.get(name, False)


@dataclass
class Cell:
    """What a design did over the studies of a scenario; lists have an entry a study."""

    scenario: Scenario
    design: tuple[int, int]  # least and most seeds
    wrong: list[bool] = field(default_factory=list)
    covered: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)  # decided by their own 95 % intervals
    decided: list[float] = field(default_factory=list)
    equal: list[float] = field(default_factory=list)
    stages: list[float] = field(default_factory=list)  # over those of 8 seeds for all
    same: list[float] = field(default_factory=list)  # verdicts as with 8 seeds for all
    reach: list[Array] = field(default_factory=list)  # [pairs], stretch that leaves 0 outside

    def add(self, study: Study, rounds: Rounds, whole: Rounds | None) -> None:
        look, margin = rounds.looks[-1], rounds.margin
        names = [verdict.name for verdict in look.verdicts if verdict is not None]
        certainty = Certainty([s for s in look.samples if s is not None])
        own, pairs = range(len(names)), self.scenario.pairs
        above = [certainty.above(index, study.truth[index]) for index in own]
        self.wrong.append(any(false(names[index], study.truth[index], margin) for index in own))
        self.covered.append(fmean(2 * min(up, 1 - up) >= 1 - LEVEL for up in above))
        self.alone.append(fmean(certainty.p_different(index) < 1 - LEVEL for index in own))
        self.decided.append(fmean(name in ("first", "second") for name in names))
        self.equal.append(fmean(name == "equal" for name in names))
        if whole is not None:
            others = [verdict.name for verdict in whole.looks[-1].verdicts if verdict is not None]
            self.same.append(fmean(a == b for a, b in zip(names, others, strict=True)))
            self.stages.append(stages(pairs, rounds.seeds) / stages(pairs, whole.seeds))

    @property
    def is_rounds(self) -> bool:
        return self.design[0] < self.design[1]

    def today(self, stretch: float = 1.0) -> float:
        """Share of pairs that the bootstrap decides."""
        return float(np.mean([reach > stretch for reach in self.reach]))

    def line(self, stretch: float) -> str:
        seeds = "-".join(str(n) for n in dict.fromkeys(self.design))
        text = f"| {self.scenario} | {seeds} | {np.mean(self.wrong):.3f} | "
        text += f"{np.mean(self.covered):.3f} | {np.mean(self.decided):.2f} | "
        text += f"{np.mean(self.equal):.2f} | {np.mean(self.alone):.2f} | "
        text += f"{self.today():.2f} | {self.today(stretch):.2f} |" if self.reach else "| |"
        return text + (
            f" {np.mean(self.stages):.2f} | {np.mean(self.same):.2f} |" if self.stages else " | |"
        )


def cells_of(scenario: Scenario, count: int, resampled: int, seed: int) -> list[Cell]:
    """All designs on the same studies."""
    random = np.random.default_rng(seed)
    curve = scenario.scores == "curves"
    designs = [(n, n) for n in FIXED] + [ROUNDS]
    cells = {design: Cell(scenario, design) for design in (designs[:2] if curve else designs)}
    bootstrap = Bootstrap(scenario.images, RESAMPLES, seed)
    for number, study in enumerate(itertools.islice(studies(scenario, random), count)):
        whole = None if curve else judged(scenario, study, MOST, MOST)
        for design, cell in cells.items():
            rounds = whole if design == (MOST, MOST) else judged(scenario, study, *design)
            assert rounds is not None
            cell.add(study, rounds, whole if cell.is_rounds else None)
        if number < resampled and study.values is not None:
            means = bootstrap.means(study.values)
            for n in FIXED:
                low, high = bootstrap.interval(means[..., :n], LEVEL)
                middle = study.values[:, :n].mean(axis=(1, 2))
                side = np.where(middle > 0, middle - low, high - middle)
                cells[n, n].reach.append(np.abs(middle) / np.maximum(side, 1e-9))
    return list(cells.values())


def verdict_seconds() -> float:
    """Samples, all looks and findings of 16 chains × 8 seeds × 10,000 images."""
    random, letters, seeds = np.random.default_rng(0), LETTERS[:4], MOST
    orders = ["".join(pair) for pair in itertools.permutations(letters, 2)]
    orders += [letters, "PDQE", "DQPE", "DPEQ"]
    right = latent(random, (len(orders), 1, seeds), 10_000)[:, 0] > -0.8
    evidence = [
        Evidence(order, order, (("", 0),), tuple(range(seeds)), 100 * own.astype(np.float32),
                 {"bitops": np.full(seeds, 1e6)})
        for order, own in zip(orders, right, strict=True)
    ]  # fmt: skip
    started = time.perf_counter()
    whole = analysis(letters, evidence)
    rounds = Rounds(whole.pairs, *ROUNDS, 1 - LEVEL, MARGIN)
    for n in range(rounds.least, rounds.most + 1):
        rounds.look(at_seeds(whole, n).samples())
        rounds.add_seeds(range(len(rounds.pairs)) if n < rounds.most else [])
    whole.findings(rounds, orders, (letters, dict.fromkeys(orders[13:], "exchanged")))
    return time.perf_counter() - started


# --- figures --------------------------------------------------------------------------------------


def equalising(cells: list[Cell]) -> float:
    """The stretch at which the bootstrap's worst cell without a difference has 5 % of studies."""
    worst = [
        np.quantile(np.max(cell.reach, axis=1), LEVEL)
        for cell in cells
        if cell.reach and cell.scenario.truth == "none"
    ]
    return float(max(worst, default=1.0))


def quiet(cells: list[Cell], truth: str) -> list[Cell]:
    """Three seeds, whose differences have a standard deviation of at most a point."""
    return [
        cell
        for cell in cells
        if cell.design == (3, 3)
        and cell.reach
        and (cell.scenario.truth, cell.scenario.images) == (truth, 2000)
        and cell.scenario.luck in ("none", "small")
    ]


def powers(cells: list[Cell], stretch: float) -> list[str]:
    """Shares of decided pairs beside the bootstrap's, like with like."""
    lines = []
    for truth, points in ("apart", 1.5), ("close", 1.0):
        if three := quiet(cells, truth):
            alone, together = np.mean([c.alone for c in three]), np.mean([c.decided for c in three])
            today, equal_error = (np.mean([c.today(by) for c in three]) for by in (1.0, stretch))
            lines.append(
                f"{points} points at 3 quiet seeds: decided by own 95 % intervals {alone:.3f}, "
                f"today {today:.3f}; all pairs together {together:.3f}, today at equal error "
                f"{equal_error:.3f}"
            )
    leads = [
        (np.mean(c.decided) - c.today(stretch), f"{c.scenario}, {c.design[0]} seeds")
        for c in cells
        if c.reach and c.scenario.truth != "none"
    ]
    if leads:
        lead, where = min(leads)
        lines.append(f"least lead over today at equal error: {lead:+.3f} ({where})")
    return lines


def summary(cells: list[Cell]) -> dict[str, float]:
    """The last line; NaN where the scenarios chosen have no such cell."""
    three = quiet(cells, "apart")
    today = sum(cell.today() for cell in three)
    alone = sum(float(np.mean(cell.alone)) for cell in three)
    looks = [c.stages for c in cells if c.is_rounds and c.scenario.truth == "mixed"]
    return {
        "false_decisions_per_study": round(max(float(np.mean(c.wrong)) for c in cells), 3),
        "coverage": round(min(float(np.mean(c.covered)) for c in cells if not c.is_rounds), 3),
        "power_vs_today": round(alone / today, 2) if today else float("nan"),
        "stages_vs_fixed": round(float(np.mean(looks)), 3) if looks else float("nan"),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--studies", type=int, default=1000, help="of each cell")
    parser.add_argument("--resampled", type=int, default=200, help="of these, by the bootstrap too")
    parser.add_argument("--only", default="", help="scenarios with this word in their name")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    count = 40 if options.quick else options.studies
    chosen = [scenario for scenario in SCENARIOS if options.only in str(scenario)]
    if not chosen:
        parser.error(f"--only: no scenario has {options.only!r} in its name")
    print(f"{cpu_model()}; {count} studies a cell, seed {options.seed}")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    cells: list[Cell] = []
    stretch = 1.0
    for number, scenario in enumerate(chosen):
        own = cells_of(scenario, count, options.resampled, options.seed + number)
        cells += own
        if scenario.truth == "none":
            stretch = equalising(cells)
        for cell in own:
            print(cell.line(stretch), flush=True)
    print(f"\nequal error: today's intervals stretched by {stretch:.2f}")
    print(*powers(cells, stretch), sep="\n")
    print(f"verdicts on 16 chains × 8 seeds × 10,000 images: {verdict_seconds():.2f} s")
    print(json.dumps(summary(cells)))


if __name__ == "__main__":
    main()
