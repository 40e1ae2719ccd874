"""One dict of ORDER_STUDIES, by itself: its keys, their ranges, and what goes together."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from experiment.suite.messages import Mistake, short, unknown
from experiment.suite.records import distinct_seeds, file_name

MARGINS = {"accuracy": 0.5, "loss": 0.02}  # points; nats
KINDS = {"distill": "D", "prune": "P", "ptq": "Q", "qat": "Q", "early_exit": "E"}

WrittenStage = str | dict[str, dict[str, Any]]  # a stage as a sequence names it


class SeedsByRounds(BaseModel):
    """So many seeds for every pair, then one more a round for those that are still open."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    min: int = Field(2, ge=2, le=100)
    max: int = Field(8, ge=2, le=100)


class StudyConfig(BaseModel):
    """One dict of ORDER_STUDIES."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=60)
    baseline: str  # the experiment that every chain starts from
    stages: dict[str, WrittenStage | list[WrittenStage]] = Field(
        min_length=1
    )  # letter → stage or stages
    # 'pairs': each stage alone and every order of two; 'permutations': of two or more;
    # or a list, e.g. ['PQ', 'QP', 'DPQ']
    orders: Literal["pairs", "permutations"] | list[str] = "pairs"
    # letter → options over its first stage, one dict a strength; chains take every combination
    strengths: dict[str, list[dict[str, Any]]] = {}
    # the same for every chain, or by rounds: {'min': 2, 'max': 8}, seeds 0 to max - 1
    seeds: list[int] | SeedsByRounds | None = None
    budget_hours: float | None = Field(None, gt=0)  # of stages, after which no round begins
    budget_epochs: int | None = Field(None, ge=1)
    epochs: int | None = Field(None, ge=1)  # that every chain spends; shorter ones finetune at last
    # at which orders are compared
    cost: Literal["bitops", "latency_ms", "peak_memory_mb", "joules_per_image"] = "bitops"
    confidence: float = Field(0.95, ge=0.5, lt=1)  # of intervals, and of all verdicts together
    compare: Literal["accuracy", "loss"] = "accuracy"  # by which orders are better
    # difference up to which orders count as equal; None: 0.5 points, or 0.02 nats of loss
    margin: float | None = Field(None, gt=0)
    # whether the order found is run as a whole, beside its neighbours and the papers' order
    verify: bool = False

    _file_name = field_validator("name")(file_name)

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: Any) -> Any:
        if isinstance(seeds, list):
            if not seeds:
                raise ValueError("should name at least one seed")
            return distinct_seeds(seeds)
        return seeds

    @property
    def by_rounds(self) -> SeedsByRounds | None:
        return self.seeds if isinstance(self.seeds, SeedsByRounds) else None

    @property
    def all_seeds(self) -> list[int] | None:
        """Every seed that a chain may get; None: those of its training_args."""
        return list(range(self.by_rounds.max)) if self.by_rounds else self.seeds  # type: ignore[return-value]

    @property
    def equal_within(self) -> float:
        """The margin, filled in."""
        return self.margin or MARGINS[self.compare]

    def sequence(self, letter: str) -> list[WrittenStage]:
        return sequence_of(self.stages[letter])

    def all_orders(self) -> list[str]:
        """Every order that the study runs, shorter ones first."""
        if isinstance(self.orders, list):
            return self.orders
        longest = 2 if self.orders == "pairs" else len(self.stages)
        return [
            "".join(order)
            for length in range(1, longest + 1)
            for order in itertools.permutations(self.stages, length)
        ]

    def papers_order(self) -> str | None:
        """Distil, prune, quantize, leave early (arXiv:2403.17447), in this study's letters."""
        found: dict[str, list[str]] = {}
        for letter in self.stages:
            item = self.sequence(letter)[0]
            stage = item if isinstance(item, str) else next(iter(item))
            found.setdefault(KINDS.get(stage, ""), []).append(letter)
        known = [found.get(kind, []) for kind in "DPQE"]
        if "" in found or not all(len(letters) <= 1 for letters in known):
            return None
        return "".join(itertools.chain.from_iterable(known))

    def mistakes(self) -> Iterator[Mistake]:
        """What the fields say that does not go together; places begin after the study's name."""
        yield from self._mistakes_of_rounds()
        letters = ", ".join(self.stages)
        yield from of_stages(self.stages)
        for letter, options in self.strengths.items():
            if letter not in self.stages:
                yield Mistake("strengths", unknown(letter, self.stages, "one of the stages"))
            elif not options:
                text = "should list at least one dict of options"
                yield Mistake(f"strengths.{letter}", text)
        if not isinstance(self.orders, list):
            if len(self.stages) < 2:
                yield Mistake("stages", f"{letters} alone has no order; name at least two")
            return
        if not self.orders:
            text = "should be 'pairs', 'permutations' or a list such as ['PQ', 'QP']"
            yield Mistake("orders", text)
        yield from of_orders(self.orders, self.stages)

    def _mistakes_of_rounds(self) -> Iterator[Mistake]:
        plan = self.by_rounds
        if plan is not None and plan.min > plan.max:
            yield Mistake("seeds", f"min {plan.min} is above max {plan.max}; exchange them")
        for budget in ("budget_hours", "budget_epochs"):
            if plan is None and getattr(self, budget) is not None:
                text = "is of seeds by rounds; set seeds to {'min': 2, 'max': 8}, or remove it"
                yield Mistake(budget, text)
        if self.verify and len(self.stages) < 3:
            text = f"is of three letters or more, and there are {len(self.stages)}; remove it"
            yield Mistake("verify", text)


def sequence_of(written: WrittenStage | list[WrittenStage]) -> list[WrittenStage]:
    """A letter's stages, of which one may stand by itself."""
    return written if isinstance(written, list) else [written]


def of_stages(stages: Mapping[str, WrittenStage | list[WrittenStage]]) -> Iterator[Mistake]:
    """What is wrong with the stages of letters."""
    for letter, written in stages.items():
        sequence = sequence_of(written)
        if not re.fullmatch("[A-Z]", letter):
            yield Mistake("stages", f"{short(letter)} should be one capital letter")
        elif not sequence:
            yield Mistake(f"stages.{letter}", "should name a stage, or a list of stages")
        for item in sequence:
            if isinstance(item, dict) and len(item) != 1:
                text = f"{short(item)} should be {{stage: options}}"
                yield Mistake(f"stages.{letter}", text)


def of_orders(orders: Sequence[str], letters: Collection[str]) -> Iterator[Mistake]:
    """What is wrong with orders that are written out."""
    for order in orders:
        if not order or any(letter not in letters for letter in order):
            text = f"{short(order)} should be made of the letters {', '.join(letters)}"
            yield Mistake("orders", text)
        elif len(set(order)) < len(order):
            text = f"{order!r} has a letter twice; give the second a letter of its own"
            yield Mistake("orders", text)
    if len(set(orders)) < len(orders):
        yield Mistake("orders", "one stands twice; name each once")
