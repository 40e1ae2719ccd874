"""Reading a config module: its names and its folders. Nothing here needs torch."""

from __future__ import annotations

import difflib
import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from experiment.suite.messages import ConfigError, Mistake, short, stop_at

HOME = Path(__file__).parents[2]
SECTIONS = {
    "dataset_args": "DEFAULT_DATASET_CONFIG",
    "model_args": "DEFAULT_MODEL_PARAMS",
    "training_args": "DEFAULT_TRAINING_PARAMS",
    "compression_args": "DEFAULT_COMPRESSION_PARAMS",
    "deployment_args": "DEFAULT_DEPLOYMENT_PARAMS",
}
# What a config.py may lack, as one that was made before there was such a name.
OPTIONAL: dict[str, Any] = {"ORDER_STUDIES": [], "SEARCHES": [], "DEFAULT_DEPLOYMENT_PARAMS": {}}
OF_EXPERIMENTS = ("ORDER_STUDIES", "SEARCHES")  # those of config.py are about its own experiments
CONFIG_NAMES = (
    *("DEVICE", "DATA_DIR", "MODEL_SAVE_DIR", "RESULTS_DIR"),
    *SECTIONS.values(),
    "EXPERIMENT_CONFIGS",
    *OF_EXPERIMENTS,
)


def config_values(path: Path) -> dict[str, Any]:
    """The config's names, completed from the `config.py` beside main.py."""
    home = HOME / "config.py"
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
        elif name in OF_EXPERIMENTS and hasattr(chosen, "EXPERIMENT_CONFIGS"):
            values[name] = []
        elif hasattr(base, name):
            values[name] = getattr(base, name)
        elif name in OPTIONAL:
            values[name] = OPTIONAL[name]
        else:
            problems.append(f"{path}: {name} is missing; config.py shows its form")
    stop_at(problems)
    return values


def _import(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError([f"{path}: there is no such file; --config takes a Python file"])
    spec = importlib.util.spec_from_file_location(f"suite_{path.stem.replace('.', '_')}", path)
    if spec is None or spec.loader is None:
        raise ConfigError([f"{path}: is not a Python file; --config takes a name ending in .py"])
    module = importlib.util.module_from_spec(spec)
    try:
        with _as_a_script(module, path.resolve().parent):
            spec.loader.exec_module(module)
    except SyntaxError as error:  # its own, or of a file that it imports
        place = _place(path, error.filename, error.lineno)
        raise ConfigError([f"{place}: {error.msg}"]) from None
    except Exception as error:  # whatever a user's module raises
        frames = [
            (frame.filename, frame.lineno)
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).resolve().parent == path.resolve().parent
        ]
        place = _place(path, *frames[-1]) if frames else str(path)
        raise ConfigError([f"{place}: {type(error).__name__}: {error}"]) from None
    return module


def _place(config: Path, file: str | None, line: int | None) -> str:
    """The file and line of a mistake; the config itself under the name that the user gave it."""
    own = file is None or Path(file).absolute() == config.absolute()
    return f"{config if own else file}:{line}"


@contextmanager
def _as_a_script(module: ModuleType, folder: Path) -> Iterator[None]:
    """Inside, `module` runs as a file that Python is given: files beside it are imported first.

    It is among sys.modules, where dataclasses look annotations up. Afterwards all is as before, so
    that a file of the same name beside another config is another module, and one that is called as
    one of the project's (utils.py) stands for that in the config alone.
    """
    names = {module.__name__}
    if folder != HOME:
        names |= {path.stem for path in folder.glob("*.py")} | _packages(folder)
        names -= set(sys.builtin_module_names)  # which Python takes from nowhere else

    def taken_out() -> dict[str, ModuleType]:
        found = [name for name in sys.modules if name.partition(".")[0] in names]
        return {name: sys.modules.pop(name) for name in found}

    search, others = sys.path.copy(), taken_out()
    sys.path.insert(0, str(folder))
    sys.modules[module.__name__] = module
    importlib.invalidate_caches()  # a file may be newer than the last look into its folder
    try:
        yield
    finally:
        sys.path[:] = search
        taken_out()
        sys.modules.update(others)


def _packages(folder: Path) -> set[str]:
    """Names of packages in a folder, which without an __init__.py come after all installed ones."""
    regular = {path.parent.name for path in folder.glob("*/__init__.py")}
    others = {path.parent.name for path in folder.glob("*/*.py")} - regular
    installed = {name: importlib.machinery.PathFinder.find_spec(name) for name in others}
    return regular | {n for n, spec in installed.items() if spec is None or spec.origin is None}


def folder_named(config: Path | str, key: str) -> Path:
    """A config's DATA_DIR, MODEL_SAVE_DIR or RESULTS_DIR, all else aside. Raises ConfigError."""
    mistakes: list[Mistake] = []
    folder = folder_of(config_values(Path(config)), key, mistakes)
    stop_at(mistakes)
    return folder


def folder_of(values: dict[str, Any], key: str, mistakes: list[Mistake]) -> Path:
    value = values[key]
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        mistakes.append(Mistake(key, f"{short(value)} is not a folder name; give a string"))
        return Path()
    path = Path(value).expanduser()
    try:
        if path.exists() and not path.is_dir():
            mistakes.append(Mistake(key, f"{path} is a file; name a folder"))
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        mistakes.append(Mistake(key, f"{path} cannot be a folder ({error.strerror})"))
    return path
