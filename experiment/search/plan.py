"""A search as a plan: one dict of SEARCHES, its space, and the suites that run parts of it."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiment.running.store import Store
from experiment.search.config import SearchConfig
from experiment.search.space import KINDS, Space, Stages, Way, beginnings, space_of
from experiment.study.config import WrittenStage
from experiment.study.plan import BASELINE_KEY
from experiment.suite.chains import plan
from experiment.suite.config_file import config_values, folder_of
from experiment.suite.messages import ConfigError, Mistake, entries, members, short, unknown
from experiment.suite.records import Experiment, Outline, Suite
from experiment.suite.schema import suite_of

Asked = tuple[str, Way]  # kind, way


@dataclass(frozen=True)
class Search:
    """A checked search."""

    config: SearchConfig
    space: Space
    stages: Mapping[tuple[str, int, str], Stages]  # of each letter, choice and kind
    keys: Mapping[str, str]  # of a letter's choice alone → digest of all that it comes to
    baseline: Experiment
    results_dir: Path
    values: Mapping[str, Any]  # of the config module
    source: str
    overrides: list[str] | None

    @property
    def fresh_seeds(self) -> list[int]:
        return list(range(self.config.seed + 1, self.config.seed + 1 + self.config.seeds_final))

    @property
    def baseline_epochs(self) -> int:
        return sum(spec.epochs_trained for _, spec in self.baseline.sequence)

    def name(self, kind: str, way: Way) -> str:
        tail = "" if kind == "full" else "_short"
        return f"{self.config.name}_{self.space.label(way)}{tail}"

    def entry(self, kind: str, way: Way, seeds: Sequence[int]) -> dict[str, Any]:
        """A chain as an entry of EXPERIMENT_CONFIGS."""
        written = [
            item for letter, number in way for item, _ in self._written(letter, number, kind)
        ]
        return {
            "name": self.name(kind, way),
            BASELINE_KEY: self.config.baseline,
            "compression_args": {"sequence": written},
            "seeds": list(seeds),
        }

    def _written(self, letter: str, number: int, kind: str) -> list[tuple[WrittenStage, str]]:
        short = self.config.short if kind == "short" else None
        full = self.stages[letter, number, "full"]
        return _written(self.config, letter, self.space.choices[letter][number], short, full)

    def suite(self, chains: Collection[Asked], seeds: Sequence[int]) -> Suite:
        """The suite of some chains, each at these seeds, with what they start and learn from.

        Raises ConfigError where one cannot be.
        """
        entries = [self.entry(kind, way, seeds) for kind, way in chains]
        return _suite(self.values, self.source, self.overrides, entries, self.config.baseline)

    def stored(self, store: Store) -> list[Asked]:
        """The beginnings of chains whose networks at the search's seed are in the store."""
        kinds = KINDS if self.config.short is not None else KINDS[:1]
        through = {begin for way in self.space.ways for begin in beginnings(way)}
        found: list[Asked] = []
        roots: list[Asked] = [(kind, ()) for kind in kinds]
        while roots:
            known = set(roots)
            asked = [(k, w) for k in kinds for w in sorted(through) if (k, w[:-1]) in known]
            if not asked:
                break
            chains = plan(self.suite(asked, [self.config.seed]))
            keys = {c.experiment.name: c.steps[-1].key for c in chains}
            roots = [each for each in asked if store.has(keys[self.name(*each)])]
            found += roots
        return found


def load_searches(config: Path | str) -> list[SearchConfig]:
    """The searches of a config module, each by itself sound. Raises ConfigError."""
    return entries(SearchConfig, config_values(Path(config)), "SEARCHES", "search")


def named_searches(config: Path | str, name: str) -> list[str]:
    """The searches that a name stands for: where `baseline` is a list, one of each baseline."""
    return members(config_values(Path(config)), "SEARCHES", name)


def load_search(config: Path | str, name: str, *, overrides: list[str] | None = None) -> Search:
    """Read, complete and check one search of a config module: every choice of every letter, every
    order that there may be. Raises ConfigError with all that is wrong."""
    values = config_values(Path(config))
    searches = {own.name: own for own in entries(SearchConfig, values, "SEARCHES", "search")}
    if name not in searches:
        hint = unknown(name, searches, "a search") if searches else "its SEARCHES is empty"
        raise ConfigError([Mistake(str(config), hint)])
    search = searches[name]
    known = values["EXPERIMENT_CONFIGS"]
    known = list(known) if isinstance(known, list | tuple) else []
    names = [c["name"] for c in known if isinstance(c, dict) and isinstance(c.get("name"), str)]
    if search.baseline not in names:
        text = unknown(search.baseline, names, "an experiment")
        raise ConfigError([Mistake(f"{search.name}.baseline", text)])
    choices = {letter: search.choices(letter) for letter in search.stages}
    unfit: list[Mistake] = []
    try:
        suite, stages = _letters(search, choices, values, str(config), overrides)
    except _Unfit as error:  # of a range, values that cannot be are left out
        choices, unfit = error.rest, error.said
        suite, stages = _letters(search, choices, values, str(config), overrides)
    if search.short is not None:
        stages |= _letters(search, choices, values, str(config), overrides, stages)[1]
    keys = {c.experiment.name: c.steps[-1].key for c in plan(suite) if c.baseline is not None}
    baseline = next(e for e in suite.experiments if e.name == search.baseline)
    orders = _orders(search, values)
    outline = Outline(baseline.model_args, exits=bool(baseline.model_args["exits"]))
    space = space_of(choices, stages, orders, outline, seed=search.seed)
    space = replace(space, impossible={**dict.fromkeys(map(str, unfit), 1), **space.impossible})
    if not space.ways:
        whys = "; ".join(list(space.impossible)[:3])
        raise ConfigError([Mistake(search.name, f"none of its chains can be: {whys}")])
    about = values, str(config), overrides
    found = Search(search, space, stages, keys, baseline, suite.results_dir, *about)
    _check_wish(search, baseline)
    _check_names(found, names)
    found.suite([("full", space.ways[0])], [search.seed, *found.fresh_seeds])  # of seeds, names
    return found


# --- letters -----------------------------------------------------------------------------------


def _written(
    search: SearchConfig,
    letter: str,
    choice: Mapping[str, Any],
    short: float | None = None,
    full: Stages = (),
) -> list[tuple[WrittenStage, str]]:
    """A letter's stages with one choice of its strengths, as a sequence says them, and the place
    of each in the search; `short`: with this share of the epochs that they have in `full`."""
    found: list[tuple[WrittenStage, str]] = []
    for index, item in enumerate(search.sequence(letter)):
        place = f"stages.{letter}" + (
            f"[{index}]" if isinstance(search.stages[letter], list) else ""
        )
        stage, own = (item, {}) if isinstance(item, str) else next(iter(item.items()))
        options: dict[str, Any] = copy.deepcopy(own)
        if index == 0:
            for option, value in choice.items():
                _put(options, option.split("."), value)
        if short is not None and (epochs := full[index][1].settings().get("epochs")) is not None:
            options["epochs"] = max(1, round(short * epochs))
        found.append(({stage: options} if options else stage, place))
    return found


def _put(options: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *outer, last = path
    for part in outer:
        inner = options.get(part)
        options[part] = inner if isinstance(inner, dict) else {}
        options = options[part]
    options[last] = value


def _letters(
    search: SearchConfig,
    choices: dict[str, list[dict[str, Any]]],
    values: dict[str, Any],
    source: str,
    overrides: list[str] | None,
    full: Mapping[tuple[str, int, str], Stages] | None = None,
) -> tuple[Suite, dict[tuple[str, int, str], Stages]]:
    """A suite in which every choice of every letter stands alone, and the stages of each; their
    short form, where there are those in `full`."""
    entries, names, places = [], {}, {}
    kind = "full" if full is None else "short"
    for letter, own in choices.items():
        for number, choice in enumerate(own):
            name = names[letter, number] = f"{search.name}_{letter}{number}_{kind}"
            shorter = (search.short, full[letter, number, "full"]) if full is not None else ()
            written = _written(search, letter, choice, *shorter)
            entries.append({
                "name": name,
                BASELINE_KEY: search.baseline,
                "compression_args": {"sequence": [item for item, _ in written]},
                "seeds": [search.seed],
            })  # fmt: skip
            told = ", ".join(f"{option} {short(value)}" for option, value in choice.items())
            places[name] = search.name
            places[f"{name}.{BASELINE_KEY}"] = f"{search.name}.baseline"
            for index, (_, place) in enumerate(written):
                where = f"{search.name}.{place}" + (f" with {told}" if told and not index else "")
                places[f"{name}.compression_args.sequence[{index}]"] = where
    try:
        suite = _suite(values, source, overrides, entries, search.baseline)
    except ConfigError as error:
        said = list(dict.fromkeys(_told(mistake, places) for mistake in error.mistakes))
        wrong = {of for of, name in names.items() for mistake in error.mistakes
                 if f"{mistake.place}.".startswith(f"{name}.")}  # fmt: skip
        rest = {
            letter: [each for number, each in enumerate(own) if (letter, number) not in wrong]
            for letter, own in choices.items()
        }
        if wrong and all(search.may_lack(letter, rest[letter]) for letter, _ in wrong):
            raise _Unfit(rest, said) from None
        raise ConfigError(said) from None
    by_name = {experiment.name: experiment for experiment in suite.experiments}
    return suite, {(*of, kind): by_name[name].sequence for of, name in names.items()}


class _Unfit(ConfigError):
    """Some values of a range cannot be; `rest` are the choices without them."""

    def __init__(self, rest: dict[str, list[dict[str, Any]]], said: list[Mistake]):
        super().__init__(said)
        self.rest, self.said = rest, said


def _told(mistake: Mistake, places: Mapping[str, str]) -> Mistake:
    """A mistake of a chain, told of the search."""
    begins = [p for p in places if f"{mistake.place}.".startswith((f"{p}.", f"{p}["))]
    if not begins:
        return mistake
    start = max(begins, key=len)
    return mistake._replace(place=places[start] + mistake.place.removeprefix(start))


def _suite(
    values: Mapping[str, Any],
    source: str,
    overrides: list[str] | None,
    entries: list[dict[str, Any]],
    baseline: str,
) -> Suite:
    known = list(values["EXPERIMENT_CONFIGS"])
    return suite_of(
        {**values, "EXPERIMENT_CONFIGS": [*known, *entries]},
        source,
        overrides=overrides,
        only=[baseline, *(entry["name"] for entry in entries)],
    )


# --- orders ------------------------------------------------------------------------------------


def _orders(search: SearchConfig, values: dict[str, Any]) -> list[str]:
    """Every order that may be, shorter ones first."""
    if isinstance(search.orders, list):
        return search.orders
    letters = list(search.stages)
    everything = [
        "".join(order)
        for length in range(1, len(letters) + 1)
        for order in itertools.permutations(letters, length)
    ]
    if isinstance(search.orders, str):
        return everything
    worse = _settled(search, values)
    return [
        order
        for order in everything
        if not any(a + b in worse for a, b in itertools.combinations(order, 2))
    ]


def _settled(search: SearchConfig, values: dict[str, Any]) -> set[str]:
    """The orders of two that a finished study has found worse. Raises ConfigError."""
    assert isinstance(search.orders, dict)
    study, mistakes = search.orders["study"], list[Mistake]()
    folder = folder_of(values, "RESULTS_DIR", mistakes)
    path, where = folder / f"study_{study}.json", f"{search.name}.orders"
    try:
        found = json.loads(path.read_text())
        pairs = [(p["first"], p["second"], p["verdict"]) for p in found["pairs"]]
    except FileNotFoundError:
        text = f"there is no {path}; run python main.py study {study} first"
        raise ConfigError([Mistake(where, text)]) from None
    except (OSError, ValueError, KeyError, TypeError):
        text = f"{path} cannot be read as a study's results; run the study again"
        raise ConfigError([Mistake(where, text)]) from None
    letters = {letter for a, b, _ in pairs for letter in (a, b)}
    if strange := set(search.stages) - letters:
        text = f"study {study} has no pairs of {', '.join(sorted(strange))}; its letters: "
        raise ConfigError([Mistake(where, text + ", ".join(sorted(letters)))])
    worse = {"first": lambda a, b: b + a, "second": lambda a, b: a + b}
    return {worse[verdict](a, b) for a, b, verdict in pairs if verdict in worse}


def _check_names(search: Search, names: Sequence[str]) -> None:
    """No chain may be called as an experiment is."""
    own = {search.name(kind, way).lower() for way in search.space.ways for kind in KINDS}
    for name in names:
        if name.lower() in own:
            text = f"one of its chains is called {name}, as an experiment is; rename that"
            raise ConfigError([Mistake(search.config.name, text)])


def _check_wish(search: SearchConfig, baseline: Experiment) -> None:
    """What is asked for must be measured."""
    sizes = baseline.deployment.batch_sizes
    for name in search.figures:
        size = 1 if name == "latency_ms" else int(name.rpartition("_")[2]) if "batch" in name else 0
        if size and size not in sizes:
            text = (
                f"{name} is that of batches of {size}, and deployment_args.batch_sizes of "
                f"{baseline.name} is {list(sizes)}; add {size} to it"
            )
            raise ConfigError([Mistake(f"{search.name}.wish", text)])
