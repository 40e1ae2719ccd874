"""How far a run is: how long the rest may take, and one bar over the stages of all chains."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from experiment.running.store import Store
from experiment.suite.chains import Chain, Step


class Forecast:
    """Seconds that a stage will take, by what such stages took on the same data."""

    def __init__(self, records: Iterable[dict[str, Any]] = ()):
        # stage, data → seconds an epoch where it has such, and seconds of measuring
        self.taken: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for record in records:
            self.learn(record)

    def learn(self, record: dict[str, Any]) -> None:
        """`seconds` of a record contain `measuring_seconds`; older ones know of no measuring."""
        settings, measuring = record["settings"], record.get("measuring_seconds", 0.0)
        taken = (record["seconds"] - measuring) / _epochs(settings), measuring
        self.taken.setdefault((record["stage"], settings["data"]["fingerprint"]), []).append(taken)

    def seconds(self, step: Step) -> float | None:
        """None where no such stage was seen."""
        taken = self.taken.get((step.stage, step.experiment.data.fingerprint))
        if taken is None:
            return None
        epoch, measuring = map(statistics.median, zip(*taken, strict=True))
        return epoch * _epochs(step.settings) + measuring


class Progress:
    """What is left of a run's chains; on a terminal a bar shows it."""

    def __init__(self, chains: list[Chain], store: Store):
        self.chains, self.begun = chains, 0
        steps = [step for chain in chains for step in chain.steps]
        records = {record["key"]: record for record in store.records()}
        ahead = [step for chain in chains for step in chain.ahead(records.get)]
        self.open = {step.key: step for step in ahead if not store.has(step.key)}
        self.missing = set(self.open)  # as the run began
        self.forecast = Forecast(records.values())
        self.current, self.started = "", time.monotonic()
        self.at_once = 1  # stages that run at the same time
        self.bar = tqdm(
            total=len(steps),
            desc="all chains",
            bar_format="{desc} {percentage:3.0f}%|{bar:30}| {n_fmt}/{total_fmt} stages, "
            "{elapsed} gone{postfix}",
            leave=False,
            disable=None,
        )

    def begin_chain(self) -> str:
        """Where the run stands, as its next chain begins."""
        self.begun += 1
        left = self.time_left()
        return f"{self.begun} of {len(self.chains)}{f', {left}' if left else ''}"

    def lacks(self, chain: Chain) -> bool:
        """Whether some of a chain was not in the store when the run began."""
        return any(step.key in self.missing for step in chain.steps)

    def begin_stage(self, step: Step) -> None:
        self.current, self.started = step.key, time.monotonic()
        self.refresh()

    def end_stage(self, step: Step, record: dict[str, Any] | None) -> None:
        """A stage has come to its end with `record` (None: it was in the store)."""
        if record is not None:
            self.forecast.learn(record)
        self._close(step)

    def computed(self, step: Step) -> None:
        """A stage was done elsewhere, before its chain's turn."""
        self.open.pop(step.key, None)
        self.refresh()

    def give_up(self, chain: Chain, first: int = 0) -> None:
        """The chain's stages from `first` on will not run."""
        for step in chain.steps[first:]:
            self._close(step)

    def leave_out(self, stopped: Chain, first: int) -> None:
        """The same of a chain that was stopped; others may yet come to stages that it shares."""
        later = {step.key for chain in self.chains[self.begun :] for step in chain.steps}
        for step in stopped.steps[first:]:
            self.bar.update()
            if step.key not in later:
                self.open.pop(step.key, None)
        self.refresh()

    def refresh(self) -> None:
        """Bring the time that is left up to date."""
        self.bar.set_postfix_str(self.time_left())

    def close(self) -> None:
        self.bar.close()

    def time_left(self) -> str:
        """'about 3 min left'; empty where nothing is left, or nothing is known of its kind."""
        known = {key: self.forecast.seconds(step) for key, step in self.open.items()}
        if all(value is None for value in known.values()):
            return ""
        seconds = sum(value or 0.0 for value in known.values()) / self.at_once
        spent = time.monotonic() - self.started
        seconds -= min(known.get(self.current) or 0.0, spent)
        words = "at least" if None in known.values() else "about"
        return f"{words} {_duration(seconds)} left"

    def _close(self, step: Step) -> None:
        self.open.pop(step.key, None)
        self.bar.update()
        self.refresh()


def _epochs(settings: dict[str, Any]) -> int:
    """By what the settings of a record or step say, as records know no more."""
    return settings["spec"].get("epochs", 1)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
