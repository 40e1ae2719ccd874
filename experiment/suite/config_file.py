"""Reading a config module: its names, its folders and device, and what --set puts over it."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import BaseModel

from data_sets.source import DatasetArgs
from experiment.suite.messages import ConfigError, Mistake, check, short, stop_at, unknown
from networks.args import ModelArgs
from stages.stage import CompressionArgs
from training.recipe import TrainingArgs

SECTIONS = {
    "dataset_args": "DEFAULT_DATASET_CONFIG",
    "model_args": "DEFAULT_MODEL_PARAMS",
    "training_args": "DEFAULT_TRAINING_PARAMS",
    "compression_args": "DEFAULT_COMPRESSION_PARAMS",
}
SECTION_TYPES: dict[str, type[BaseModel]] = {
    "dataset_args": DatasetArgs,
    "model_args": ModelArgs,
    "training_args": TrainingArgs,
    "compression_args": CompressionArgs,
}
CONFIG_NAMES = (
    *("DEVICE", "DATA_DIR", "MODEL_SAVE_DIR", "RESULTS_DIR"),
    *SECTIONS.values(),
    *("EXPERIMENT_CONFIGS", "ORDER_STUDIES"),
)


def config_values(path: Path) -> dict[str, Any]:
    """The config's names, completed from the `config.py` beside main.py."""
    home = Path(__file__).parents[2] / "config.py"
    chosen = _import(path)
    base = chosen if path.resolve() == home.resolve() else _import(home)
    problems = []
    for name in (n for n in vars(chosen) if n.isupper() and n not in CONFIG_NAMES):
        close = difflib.get_close_matches(name, CONFIG_NAMES, 1, cutoff=0.8)
        if close:
            problems.append(f"{path}: {name} is not a name of the suite; did you mean {close[0]}?")
    stop_at(problems)
    values = {}
    for name in CONFIG_NAMES:
        if hasattr(chosen, name):
            values[name] = getattr(chosen, name)
        elif name == "ORDER_STUDIES" and hasattr(chosen, "EXPERIMENT_CONFIGS"):
            values[name] = []  # config.py's are about its own experiments
        elif hasattr(base, name):
            values[name] = getattr(base, name)
        elif name == "ORDER_STUDIES":
            values[name] = []
        else:
            problems.append(f"{path}: {name} is missing; config.py shows its form")
    stop_at(problems)
    return values


def _import(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError([f"{path}: there is no such file; --config takes a Python file"])
    spec = importlib.util.spec_from_file_location(f"suite_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError([f"{path}: is not a Python file; --config takes a name ending in .py"])
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ConfigError([f"{path}:{error.lineno}: {error.msg}"]) from None
    except Exception as error:  # whatever a user's module raises
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        where = f"{path}:{frames[-1].lineno}" if frames else str(path)
        raise ConfigError([f"{where}: {type(error).__name__}: {error}"]) from None
    return module


def device_of(value: Any, mistakes: list[Mistake]) -> torch.device:
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError, ValueError):
        text = f"{short(value)} is not a device; allowed: 'cpu', 'cuda', 'cuda:1', ..."
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


def folder_of(values: dict[str, Any], key: str, mistakes: list[Mistake]) -> Path:
    value = values[key]
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        mistakes.append(Mistake(key, f"{short(value)} is not a folder name; give a string"))
        return Path()
    path = Path(value).expanduser()
    if path.exists() and not path.is_dir():
        mistakes.append(Mistake(key, f"{path} is a file; name a folder"))
    return path


def default_section(
    value: Any, key: str, kind: type[BaseModel], mistakes: list[Mistake]
) -> dict[str, Any]:
    if not isinstance(value, dict):
        mistakes.append(Mistake(key, f"{short(value)} is not a dict"))
        return {}
    _, found = check(kind, value, key)
    # What only fails as a whole (a pooling too many, say) depends on the data set's shape.
    mistakes += [mistake for mistake in found if mistake.place != key]
    return value


def overrides_of(strings: list[str], mistakes: list[Mistake]) -> dict[str, dict[str, Any]]:
    """`section.key=value` strings → section → key → value."""
    forced: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for text in strings:
        place = f"--set {text}"
        path, equals, raw = text.partition("=")
        section, dot, key = path.strip().partition(".")
        if not (equals and dot and key):
            mistakes.append(Mistake(place, "should read section.key=value"))
        elif section not in SECTIONS:
            mistakes.append(Mistake(place, unknown(section, SECTIONS)))
        elif key not in SECTION_TYPES[section].model_fields:
            mistakes.append(Mistake(place, unknown(key, SECTION_TYPES[section].model_fields)))
        else:
            forced[section][key] = _literal(raw.strip())
    return forced


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
