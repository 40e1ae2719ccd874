"""`model_args` of any architecture: merged, checked against its constructor, tried on no data."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any

from experiment.suite.messages import Mistake, check
from machine.files import canonical_json
from methods.exported import exportable
from model import HYBRID, ModelArgs, architecture_of, blueprint, resolved_args
from networks.foreign import NetworkError, check_runs
from networks.pretrained import Start, start_of


def layered(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Later arguments over earlier ones; of another architecture, instead of them."""
    merged: dict[str, Any] = {}
    for layer in layers:
        if "architecture" in layer and layer["architecture"] != architecture_of(merged):
            merged = {}
        merged |= layer
    return merged


def checked_args(
    value: Mapping[str, Any], shape: Mapping[str, Any], where: str
) -> tuple[dict[str, Any] | None, list[Mistake]]:
    """`value` resolved for data of some `shape`, or None and what is wrong with it."""
    args = {key: each for key, each in value.items() if key != "weights"} | dict(shape)
    if architecture_of(args) == HYBRID:
        checked, found = check(ModelArgs, args, where)
        return (checked.resolved() if checked is not None else None), found
    try:
        if not isinstance(args["architecture"], str):
            raise NetworkError("should be text: a name or 'FILE.py:CLASS'", "architecture")
        for key in ("shapes", "exits"):
            if key in args:
                raise NetworkError("comes from pruning and early exits; remove the key", key)
        resolved = resolved_args(args)
        _check(canonical_json(resolved))
    except NetworkError as error:
        return None, [Mistake(f"{where}.{error.key}" if error.key else where, error.text)]
    return resolved, []


def check_student(entering: Mapping[str, Any], leaving: Mapping[str, Any]) -> None:
    """Raise NetworkError where a stage replaces a network by one that does not run or export."""
    if architecture_of(leaving) == HYBRID:
        return
    before, after = (
        {key: value for key, value in args.items() if key not in ("shapes", "exits")}
        for args in (entering, leaving)
    )
    if before != after:
        _check(canonical_json({**after, "exits": []}))


def checked_start(
    value: Mapping[str, Any], args: dict[str, Any], where: str
) -> tuple[Start | None, list[Mistake]]:
    """The weights that training starts from, where `value` names some, and what is wrong."""
    if (named := value.get("weights")) is None:
        return None, []
    try:
        if not isinstance(named, str):
            raise NetworkError("should be a file of weights, or the name of torchvision's")
        return start_of(named, args), []
    except NetworkError as error:
        return None, [Mistake(f"{where}.weights", error.text)]


@functools.lru_cache(maxsize=1024)
def _check(about: bytes) -> None:
    args = json.loads(about)
    check_runs(blueprint(args))
    exportable(args)
