"""One dict of SEARCHES, by itself: its keys, their ranges, and what goes together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from experiment.outcomes.wish import ACCURACIES, Wish, parse_wish
from experiment.study.config import WrittenStage, of_orders, of_stages, sequence_of
from experiment.suite.messages import ConfigError, Mistake, check, short, unknown
from experiment.suite.records import file_name
from experiment.suite.stop_if import StopIf

STEPS = 6  # a range becomes so many steps, so that chains share beginnings


class SearchConfig(BaseModel):
    """One dict of SEARCHES."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=60)
    baseline: str  # the experiment that every chain starts from
    stages: dict[str, WrittenStage | list[WrittenStage]] = Field(min_length=1)  # as in a study
    # letter → option of its first stage → a range (low, high), or a list of values;
    # dotted for one inside a dict: 'keep.macs'
    strengths: dict[str, dict[str, tuple[float | int, float | int] | list[Any]]] = {}
    # 'any': every order of every subset; or a list; or what a finished study found: {'study': NAME}
    orders: str | list[str] | dict[str, str] = "any"
    wish: str  # as --recommend takes it; several objectives give a front
    budget_hours: float | None = Field(None, gt=0)  # of stages, the finalists' included
    budget_epochs: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0, lt=2**31)  # at which chains are tried
    # fresh ones, by which finalists are judged
    seeds_final: int = Field(3, ge=1, le=20)
    finalists: int = Field(3, ge=1, le=20)  # at most so many are run again
    # share of each stage's epochs with which chains may first be tried; None: never fewer
    short: float | None = Field(None, gt=0, lt=1)
    stop_if: dict[str, Any] = {}  # as of an experiment: a chain beyond it is not gone on with

    _file_name = field_validator("name")(file_name)

    def sequence(self, letter: str) -> list[WrittenStage]:
        return sequence_of(self.stages[letter])

    @property
    def parsed_wish(self) -> Wish:
        return parse_wish(self.wish, "wish", several=True)

    @property
    def figures(self) -> list[str]:
        """Those that the wish asks for, each once."""
        wish = self.parsed_wish
        names = [*(limit.metric for limit in wish.limits), *(name for name, _ in wish.aims)]
        return list(dict.fromkeys(names))

    @property
    def stops(self) -> StopIf:
        return StopIf(**self.stop_if)

    def values(self, letter: str, option: str) -> list[Any]:
        """The values of an option that are tried: of a range STEPS + 1, both ends among them."""
        written = self.strengths[letter][option]
        if isinstance(written, list):
            return written
        low, high = written
        if isinstance(low, int) and isinstance(high, int):
            steps = min(STEPS, high - low)
            return [low + round(i * (high - low) / steps) for i in range(steps + 1)]
        return [round(low + i * (high - low) / STEPS, 6) for i in range(STEPS + 1)]

    def choices(self, letter: str) -> list[dict[str, Any]]:
        """Every combination of a letter's values, by option; one empty dict where it has none."""
        own = self.strengths.get(letter, {})
        lists = [self.values(letter, option) for option in own]
        return [dict(zip(own, values, strict=True)) for values in itertools.product(*lists)]

    def may_lack(self, letter: str, rest: list[dict[str, Any]]) -> bool:
        """Whether these choices have every value that was written one by one: others are of a
        range."""
        own = self.strengths.get(letter, {})
        listed = [(option, value) for option, written in own.items() if isinstance(written, list)
                  for value in written]  # fmt: skip
        return bool(rest) and all(
            any(choice[option] == value for choice in rest) for option, value in listed
        )

    def mistakes(self) -> Iterator[Mistake]:
        """What the fields say that does not go together; places begin after the search's name."""
        yield from of_stages(self.stages)
        for letter, options in self.strengths.items():
            if letter not in self.stages:
                yield Mistake("strengths", unknown(letter, self.stages, "one of the stages"))
            for option, written in options.items():
                yield from _of_values(f"strengths.{letter}.{option}", written)
        yield from self._of_orders()
        yield from check(StopIf, self.stop_if, "stop_if")[1]
        if self.budget_hours is None and self.budget_epochs is None:
            yield Mistake("budget_hours", "is missing; set it, or budget_epochs")
        try:
            wish = self.parsed_wish
        except ConfigError as error:
            yield from (Mistake("wish", str(m).removeprefix("wish: ")) for m in error.mistakes)
            return
        for limit in wish.limits:
            up = limit.sign.startswith(">")
            if limit.metric in ACCURACIES and up is (limit.metric == "accuracy_drop"):
                text = f"{limit} asks for a loss; turn the sign round"
                yield Mistake("wish", text)

    def _of_orders(self) -> Iterator[Mistake]:
        if isinstance(self.orders, dict):
            if set(self.orders) != {"study"}:
                text = f"{short(self.orders)} should be {{'study': NAME}}"
                yield Mistake("orders", text)
            return
        if isinstance(self.orders, str):
            if self.orders != "any":
                text = (
                    f"{short(self.orders)} should be 'any', a list of orders, or {{'study': NAME}}"
                )
                yield Mistake("orders", text)
            return
        if not self.orders:
            yield Mistake("orders", "should name at least one order, such as 'DPQ'")
        yield from of_orders(self.orders, self.stages)


def _of_values(place: str, written: Any) -> Iterator[Mistake]:
    if isinstance(written, list):
        if not written:
            yield Mistake(place, "should list at least one value, or be a range (low, high)")
        elif any(value in written[:i] for i, value in enumerate(written)):
            yield Mistake(place, "one value stands twice; name each once")
        return
    low, high = written
    if not low < high:
        text = f"{short(written)} should be a range (low, high) with low below high, or a list"
        yield Mistake(place, text)
