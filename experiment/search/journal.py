"""What a search has done so far: `results/search_NAME.json`, from which it goes on.

Nothing is chosen twice: chains that were tried are taken from the file in the order in which they
were, the networks from the store. So a search that was stopped, or gets a larger budget, goes on as
if it had not been.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from experiment.running.store import Store
from experiment.search.plan import Search
from experiment.search.space import Way
from experiment.suite.messages import ConfigError, Mistake

GOES_ON = ("budget_hours", "budget_epochs", "finalists")  # what may differ when a search goes on


@dataclass
class Tried:
    """One run of a beginning of a chain at the search's seed."""

    kind: str
    way: Way
    choice: int  # number of the choice that it was run for; equal ones were run at once
    key: str  # of its last stage
    checkpoint_sha256: str | None
    seconds: float
    measuring: float  # seconds of these
    epochs: int
    stored: bool  # whether it was there before the search: it cost nothing
    figures: dict[str, float] | None
    failed: str | None
    stopped: str | None
    expected: dict[str, float] | None


@dataclass
class Final:
    """A finalist, run again at fresh seeds."""

    way: Way
    choice: int  # number of choices before it
    seconds: float
    epochs: int
    stages: int
    figures: list[dict[str, float]]  # of every fresh seed that came to its end
    confirmed: dict[str, Any] | None
    test: dict[str, Any] | None
    meets: bool
    expected: dict[str, float]  # before it was run again
    failed: str | None = None


@dataclass
class Journal:
    """All that was done, in its order."""

    baseline_seconds: float = 0.0
    tried: list[Tried] = field(default_factory=list)
    finals: list[Final] = field(default_factory=list)
    stored: list[tuple[str, Way]] = field(default_factory=list)  # there before the search
    running: list[tuple[str, Way]] = field(default_factory=list)  # chosen, and not done yet
    # a finalist that is run again, and the stages of that which it lacked
    confirming: tuple[Way, list[str]] | None = None
    started: str = field(default_factory=lambda: _now())

    @property
    def seconds(self) -> float:
        own = sum(one.seconds for one in self.tried if not one.stored)
        return self.baseline_seconds + own + self.seconds_final

    @property
    def seconds_final(self) -> float:
        return sum(final.seconds for final in self.finals)

    @property
    def epochs(self) -> int:
        own = sum(one.epochs for one in self.tried if not one.stored)
        return own + sum(final.epochs for final in self.finals)

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def read(
    search: Search,
    baseline: dict[str, Any],
    store: Store,
    say: Callable[[str], None],
    *,
    peek: bool = False,
) -> Journal:
    """The journal that an earlier run left; a new one where there is none, or where it is of
    another search, its file then being kept beside (not if `peek`)."""
    path = search_path(search)
    if not path.exists():
        return Journal()
    try:
        found = json.loads(path.read_text())
        if found["identity"] != identity(search, baseline):
            why = "is of another search or baseline"
        else:
            journal = _journal(found["journal"])
            keys = [one.key for one in journal.tried if one.failed is None]
            if all(store.has(key) for key in keys):
                return journal
            why = "has chains that the store has no longer"
    except (ValueError, KeyError, TypeError) as error:
        why = f"cannot be read ({type(error).__name__})"
    if peek:
        return Journal()
    aside = path.with_name(f"{path.stem}.{_now().replace(':', '')}.aside")
    path.rename(aside)
    say(f"{path} {why}: it is kept as {aside.name}, and the search begins anew; what is in the "
        "store is taken from there")  # fmt: skip
    return Journal()


def search_path(search: Search) -> Path:
    return search.results_dir / f"search_{search.config.name}.json"


@contextmanager
def alone(search: Search) -> Iterator[None]:
    """Inside, no other process runs this search. Raises ConfigError where one does."""
    path = search_path(search)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f".{path.stem}.lock"), timeout=0):
            yield
    except Timeout:
        text = "another process runs this search; wait for it, or give this one another name"
        raise ConfigError([Mistake(search.config.name, text)]) from None


def identity(search: Search, baseline: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for a search to go on; `baseline` is the record of its network."""
    asked = search.config.model_dump(exclude=set(GOES_ON), exclude_defaults=True)
    means = {
        "orders": search.space.orders(),
        "stages": sorted(search.keys.values()),
        "deployment": search.baseline.deployment.model_dump(),
        "trained": baseline["checkpoint_sha256"],
    }
    found: dict[str, Any] = json.loads(json.dumps({**asked, **means}))
    return found


def _journal(plain: dict[str, Any]) -> Journal:
    tried = [Tried(**{**one, "way": _way(one["way"])}) for one in plain["tried"]]
    finals = [Final(**{**one, "way": _way(one["way"])}) for one in plain["finals"]]
    stored, running = (
        [(kind, _way(way)) for kind, way in plain[name]] for name in ("stored", "running")
    )
    asked = plain["confirming"]
    confirming = (_way(asked[0]), list(asked[1])) if asked else None
    return Journal(
        plain["baseline_seconds"], tried, finals, stored, running, confirming, plain["started"]
    )


def _way(written: list[list[Any]]) -> Way:
    return tuple((letter, number) for letter, number in written)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
