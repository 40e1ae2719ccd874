"""Code is followed by name: what changes it is found, what only moves or explains it is not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from experiment.suite.sources import Location, Sources

STAGE = """
from methods import tools
from methods.tools import halve

def run(x):
    return tools.double(halve(x))

def never():
    return 1
"""
TOOLS = """
import math

SHARE = 2

def double(x):
    return 2 * x

def halve(x):
    return math.floor(x / SHARE)

def other(x):
    return x
"""

numbers = itertools.count()


def digest(folder: Path, *, whole: tuple[str, ...] = (), **files: str) -> str:
    """Of `stage.run` in a project of these files, `methods_tools` being methods/tools.py."""
    home = folder / str(next(numbers))
    (home / "methods").mkdir(parents=True)
    (home / "methods" / "__init__.py").touch()
    for name, text in {"stage": STAGE, "methods_tools": TOOLS, **files}.items():
        path = name.replace("_", "/") if name != "native_h" else "methods/native.h"
        (home / path).with_suffix(".h" if name == "native_h" else ".py").write_text(text)
    return Sources(home).digest([root()], whole, lambda module, meant: True)


def root(module: str = "stage") -> Callable[..., None]:
    def run() -> None: ...

    run.__module__, run.__qualname__ = module, "run"
    return run


def test_what_says_nothing_does_not_count(tmp_path: Path) -> None:
    same = [
        digest(tmp_path),
        digest(tmp_path, stage='"""A stage."""\n' + STAGE.replace("return 1", "return 2")),
        digest(
            tmp_path, methods_tools=TOOLS.replace("return 2 * x", '"Twice."\n    return (2*x)#!')
        ),
        digest(tmp_path, methods_tools=TOOLS.replace("return x\n", "return -x\n")),
        digest(tmp_path, stage=STAGE.replace("import halve", "import halve, other")),
    ]
    assert len(set(same)) == 1


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("stage", "tools.double(halve(x))", "halve(tools.double(x))"),
        ("methods_tools", "2 * x", "3 * x"),
        ("methods_tools", "SHARE = 2", "SHARE = 3"),
        ("methods_tools", "import math", "import torch as math"),
        ("methods_tools", "SHARE = 2", "SHARE = 2\nSHARE += 1"),
        ("methods_tools", "SHARE = 2", "SHARE = 2\nprint('on import')"),
    ],
)
def test_what_is_used_counts(tmp_path: Path, file: str, old: str, new: str) -> None:
    text = {"stage": STAGE, "methods_tools": TOOLS}[file]
    assert old in text
    assert digest(tmp_path) != digest(tmp_path, **{file: text.replace(old, new)})


def test_a_helper_moves_at_no_cost(tmp_path: Path) -> None:
    """To a file with more in it, called by its module's name or its own, with what it imports."""
    double = "def double(x):\n    return 2 * x\n"
    without = TOOLS.replace(double, "")
    moved = STAGE.replace("tools.double", "more.double").replace("tools\n", "more\n", 1)
    more = f"import os\n\nSHARE = 9\n\ndef unused():\n    return os.sep\n\n{double}"
    assert digest(tmp_path) == digest(
        tmp_path, stage=moved, methods_tools=without, methods_more=more
    )
    alone = moved.replace("more.double", "double").replace(
        "methods import more", "methods.more import double"
    )
    assert digest(tmp_path) == digest(
        tmp_path, stage=alone, methods_tools=without, methods_more=more
    )
    assert digest(tmp_path) != digest(
        tmp_path, stage=alone, methods_tools=without, methods_more=more.replace("2 * x", "x + x")
    )
    again = TOOLS.replace(double, "from methods.more import double\n")
    assert digest(tmp_path) == digest(tmp_path, methods_tools=again, methods_more=more)


def test_a_name_that_comes_to_mean_another_is_seen(tmp_path: Path) -> None:
    """Although import lines do not count, and both of the name are in use."""
    stage = (
        "from methods import {0}\nfrom methods.{1} import f\n\ndef run(x):\n    return {0}.f(f(x))"
    )
    files = {"methods_a": "def f(x):\n    return 1\n", "methods_b": "def f(x):\n    return 2\n"}
    one, other = (digest(tmp_path, stage=stage.format(*ab), **files) for ab in ("ab", "ba"))
    assert one != other


def test_a_module_that_is_used_as_a_value_counts_whole(tmp_path: Path) -> None:
    stage = (
        "from methods import tools\n\nBY_NAME = {'t': tools}\n\ndef run(x):\n    return BY_NAME\n"
    )
    before = digest(tmp_path, stage=stage)
    changed = TOOLS.replace("return x\n", "return -x\n")
    assert digest(tmp_path, stage=stage, methods_tools=changed) != before


def test_folders_count_with_their_native_sources(tmp_path: Path) -> None:
    alone = "def run(x):\n    return x\n"
    texts = [{}, {"methods_new": "A = 1\n"}, {"native_h": "int a;"}, {"native_h": "int b;"}]
    assert len({digest(tmp_path, stage=alone, **files) for files in texts}) == 1
    assert len({digest(tmp_path, whole=("methods.",), stage=alone, **f) for f in texts}) == 4


def test_code_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match=r"nowhere\.run is in no file"):
        Sources(tmp_path).digest([root("nowhere")], (), lambda module, meant: True)


def test_places_are_within_parts() -> None:
    assert Location("methods.costs", "count_macs").within(("methods.",))
    assert Location("machine.files", "").within(("machine.files.",))
    assert not Location("machine.filesystem", "").within(("machine.files.",))
