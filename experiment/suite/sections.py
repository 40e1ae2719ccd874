"""What the sections of a config hold: their types, the device, and what --set puts over them."""

from __future__ import annotations

import ast
from typing import Any

import torch
from pydantic import BaseModel

from data_sets.source import DatasetArgs
from engines.deployment_args import DeploymentArgs
from experiment.suite.config_file import SECTIONS
from experiment.suite.messages import Mistake, check, short, unknown
from model import HYBRID, architecture_of
from networks.args import ModelArgs
from stages.stage import CompressionArgs
from training.recipe import TrainingArgs

SECTION_TYPES: dict[str, type[BaseModel]] = {
    "dataset_args": DatasetArgs,
    "model_args": ModelArgs,
    "training_args": TrainingArgs,
    "compression_args": CompressionArgs,
    "deployment_args": DeploymentArgs,
}


def device_of(value: Any, mistakes: list[Mistake]) -> torch.device:
    """The device that DEVICE names; 'auto' is a GPU where there is one."""
    if value == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError, ValueError):
        text = f"{short(value)} is not a device; allowed: 'cpu', 'cuda', 'cuda:1', 'auto'"
        mistakes.append(Mistake("DEVICE", text))
        return torch.device("cpu")
    if device.type not in ("cpu", "cuda"):
        text = f"{device.type!r} is not supported; allowed: 'cpu', 'cuda'"
        mistakes.append(Mistake("DEVICE", text))
    elif device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        mistakes.append(Mistake("DEVICE", f"{str(device)!r} is not on this machine; use 'cpu'"))
    return device


def default_section(
    value: Any, key: str, kind: type[BaseModel], mistakes: list[Mistake]
) -> dict[str, Any]:
    if not isinstance(value, dict):
        mistakes.append(Mistake(key, f"{short(value)} is not a dict"))
        return {}
    if kind is ModelArgs and architecture_of(value) != HYBRID:
        return value  # looked up in its constructor, with the data set's shape
    _, found = check(kind, value, key)
    # What only fails as a whole (a pooling too many, say) depends on the data set's shape.
    mistakes += [mistake for mistake in found if mistake.place != key]
    return value


def overrides_of(
    strings: list[str], mistakes: list[Mistake], *, hybrids_only: bool = True
) -> dict[str, dict[str, Any]]:
    """`section.key=value` strings → section → key → value.

    Where not all networks are hybrids, model_args are looked up with each experiment's.
    """
    free = set() if hybrids_only else {"model_args"}
    forced: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for text in strings:
        place = f"--set {text}"
        path, equals, raw = text.partition("=")
        section, dot, key = path.strip().partition(".")
        if not (equals and dot and key):
            mistakes.append(Mistake(place, "should read section.key=value"))
        elif section not in SECTIONS:
            mistakes.append(Mistake(place, unknown(section, SECTIONS)))
        elif section not in free and key not in SECTION_TYPES[section].model_fields:
            mistakes.append(Mistake(place, unknown(key, SECTION_TYPES[section].model_fields)))
        else:
            forced[section][key] = _literal(raw.strip())
    return forced


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
