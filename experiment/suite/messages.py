"""Mistakes in plain words: one line each that says where, what, allowed, remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from machine.errors import Refused

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(Refused):
    """The config or command line is wrong; `problems` has one line for each mistake."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


def stop_at(problems: list[str]) -> None:
    """Raise ConfigError where there is a problem, each named once."""
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def check(kind: type[Model], value: dict[str, Any], where: str) -> tuple[Model | None, list[str]]:
    """`value` as a `kind`, or None and one line for each key that does not fit."""
    odd = [key for key in value if not isinstance(key, str)]
    if odd:
        return None, [f"{where}: the key {odd[0]!r} is not a string"]
    try:
        return kind(**value), []
    except ValidationError as error:
        return None, explain(error, kind, where)


def explain(error: ValidationError, kind: type[BaseModel], where: str) -> list[str]:
    """One line a key; the branches of a union are joined by 'or'."""
    reasons: dict[str, tuple[Any, list[str]]] = {}
    for detail in error.errors(include_url=False):
        location = detail["loc"]
        if detail["type"] == "extra_forbidden":
            key = f"{where}.{location[-1]}"
            reasons[key] = (None, [unknown(str(location[-1]), kind.model_fields)])
            continue
        key = f"{where}.{location[0]}" if location else where
        key += "".join(f"[{part}]" for part in location[1:] if isinstance(part, int))
        if detail["type"] == "missing":
            reasons[key] = (None, ["is missing"])
            continue
        message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
        _, known = reasons.setdefault(key, (detail["input"], []))
        if message not in known:
            known.append(message)
        if detail["type"] == "value_error" and not location:
            reasons[key] = (None, known)  # the message names its keys itself
    guessed = " ".join(text for _, texts in reasons.values() for text in texts)
    for key in [key for key, (_, texts) in reasons.items() if texts == ["is missing"]]:
        if f"did you mean {key.rpartition('.')[2]!r}?" in guessed:
            del reasons[key]  # not missing, misspelt
    return [
        f"{key}: {f'{short(value)} ' if value is not None else ''}{' or '.join(messages)}"
        for key, (value, messages) in reasons.items()
    ]


def short(value: Any) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def unknown(key: str, allowed: Iterable[str], what: str = "known") -> str:
    """'prun' is not known; did you mean 'prune'?"""
    allowed = list(allowed)
    close = difflib.get_close_matches(key, allowed, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(allowed)}"
    return f"{short(key)} is not {what}; {hint}"
