"""Mistakes in plain words: one line each that says where, what, allowed, remedy."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from machine.errors import Refused

Model = TypeVar("Model", bound=BaseModel)
Named = TypeVar("Named", bound="Entry")

OTHER_BRANCH = {"list_type", "model_type"}  # of a union, where the value is none of these


class Mistake(NamedTuple):
    """One thing that is wrong, a record until it is printed."""

    place: str  # e.g. 'Serial_P40.compression_args.sequence[1]'; empty where the text names it
    text: str  # what is wrong, what is allowed, the remedy

    def __str__(self) -> str:
        return f"{self.place}: {self.text}" if self.place else self.text


class ConfigError(Refused):
    """The config or command line is wrong; `problems` has one line for each of its `mistakes`."""

    def __init__(self, mistakes: Sequence[Mistake | str]):
        self.mistakes = [m if isinstance(m, Mistake) else Mistake("", m) for m in mistakes]
        self.problems = [str(mistake) for mistake in self.mistakes]
        super().__init__("\n".join(self.problems))


def stop_at(mistakes: Sequence[Mistake | str]) -> None:
    """Raise ConfigError where there is a mistake, each named once."""
    if mistakes:
        raise ConfigError(list(dict.fromkeys(mistakes)))


def check(
    kind: type[Model], value: dict[str, Any], where: str
) -> tuple[Model | None, list[Mistake]]:
    """`value` as a `kind`, or None and a mistake for each key that does not fit."""
    odd = [key for key in value if not isinstance(key, str)]
    if odd:
        return None, [Mistake(where, f"the key {odd[0]!r} is not a string")]
    try:
        return kind(**value), []
    except ValidationError as error:
        return None, explain(error, kind, where)


class Entry(Protocol):
    """One dict of a list in the config that has a name and says what in it does not go together."""

    @property
    def name(self) -> str: ...

    def mistakes(self) -> Iterable[Mistake]: ...


def entries(kind: type[Named], values: Mapping[str, Any], section: str, what: str) -> list[Named]:
    """The dicts of a config's `section`, each by itself sound; `what` is one called. Raises
    ConfigError."""
    written = values[section]
    if not isinstance(written, list | tuple):
        raise ConfigError([Mistake(section, f"{short(written)} should be a list of dicts")])
    mistakes: list[Mistake] = []
    found: dict[str, Named] = {}
    for index, item in enumerate(itertools.chain.from_iterable(map(of_each_baseline, written))):
        if not isinstance(item, dict):
            mistakes.append(Mistake(f"{section}[{index}]", f"{short(item)} is not a dict"))
            continue
        named = isinstance(item.get("name"), str)
        where = item["name"] if named else f"{section}[{index}]"
        one, wrong = check(kind, item, where)  # type: ignore[type-var]
        mistakes += wrong
        if one is None:
            continue
        mistakes += [m._replace(place=f"{where}.{m.place}") for m in one.mistakes()]
        if one.name.lower() in (name.lower() for name in found):
            mistakes.append(Mistake(where, f"another {what} has this name; names must be unique"))
        found[one.name] = one
    stop_at(mistakes)
    return list(found.values())


def of_each_baseline(written: Any) -> list[Any]:
    """A dict whose `baseline` is a list, as one of each baseline: 'NAME_BASELINE'."""
    baselines = written.get("baseline") if isinstance(written, dict) else None
    if not (isinstance(baselines, list | tuple) and baselines):
        return [written]
    return [{**written, "name": f"{written.get('name')}_{b}", "baseline": b} for b in baselines]


def members(values: Mapping[str, Any], section: str, name: str) -> list[str]:
    """The names of what a name in a config's `section` stands for: itself, or one a baseline."""
    for written in values[section] if isinstance(values[section], list | tuple) else []:
        if isinstance(written, dict) and written.get("name") == name:
            return [str(each.get("name")) for each in of_each_baseline(written)]
    return [name]


def explain(error: ValidationError, kind: type[BaseModel], where: str) -> list[Mistake]:
    """One mistake a key, also of a model that a key takes; branches of a union joined by 'or'."""
    details = error.errors(include_url=False)
    models = _models_of_unions(kind)
    inside = {
        d["loc"][0] for d in details if len(d["loc"]) > 2
    }  # values of which a branch is meant
    extra = [str(d["loc"][-1]) for d in details if d["type"] == "extra_forbidden"]
    misspelt = {closest(key, kind.model_fields) for key in extra}
    reasons: dict[str, tuple[Any, list[str]]] = {}
    for detail in details:
        location = detail["loc"]
        if location and location[0] in inside and detail["type"] in OTHER_BRANCH:
            continue
        own, place = kind, where
        if len(location) > 2 and location[1] in models:
            own, place = models[location[1]], f"{where}.{location[0]}"
            location = location[2:]
        if detail["type"] == "extra_forbidden":
            key = f"{place}.{location[-1]}"
            reasons[key] = (None, [unknown(str(location[-1]), own.model_fields)])
            continue
        key = f"{place}.{location[0]}" if location else place
        key += "".join(f"[{part}]" for part in location[1:] if isinstance(part, int))
        if detail["type"] == "missing":
            if location[-1] not in misspelt:
                reasons[key] = (None, ["is missing"])
            continue
        message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
        message = message.split(" or instance of ")[0]  # which only our own code has
        _, known = reasons.setdefault(key, (detail["input"], []))
        if message not in known:
            known.append(message)
        if detail["type"] == "value_error" and not location:
            reasons[key] = (None, known)  # the message names its keys itself
    return [
        Mistake(key, f"{f'{short(value)} ' if value is not None else ''}{' or '.join(messages)}")
        for key, (value, messages) in reasons.items()
    ]


def _models_of_unions(kind: type[BaseModel]) -> dict[int | str, type[BaseModel]]:
    """By name, as a place has them."""
    branches = [b for field in kind.model_fields.values() for b in get_args(field.annotation)]
    return {b.__name__: b for b in branches if isinstance(b, type) and issubclass(b, BaseModel)}


def short(value: Any) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def unknown(key: str, allowed: Iterable[str], what: str = "known") -> str:
    """'prun' is not known; did you mean 'prune'?"""
    allowed = list(allowed)
    close = closest(key, allowed)
    hint = f"did you mean {close!r}?" if close else f"allowed: {', '.join(allowed)}"
    return f"{short(key)} is not {what}; {hint}"


def closest(key: str, allowed: Iterable[str]) -> str | None:
    """What was probably meant."""
    return next(iter(difflib.get_close_matches(key, allowed, 1)), None)
