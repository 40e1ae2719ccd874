"""What a step's key depends on, and what it does not depend on."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from experiment.suite import keys as keys_module
from experiment.suite.chains import plan
from experiment.suite.schema import load_suite
from experiment.suite.sources import Sources
from stages import STAGES, Stage
from stages.stage import Context, StageSpec
from stages.state import ModelState
from tests.support.home import HOME
from tests.support.suites import Suites
from tests.support.taught import TAUGHT, keys

FOLDERS = (
    "stages",
    "engines",
    "methods",
    "training",
    "networks",
    "data_sets",
    "machine",
    "experiment",
)
EVERYTHING = """
AGAIN = {"finetune": {"epochs": 1}}
EXPERIMENT_CONFIGS += [
    chain("F", AGAIN, {"prune": {"ratio": 0.5}}, "ptq", AGAIN),
    chain("E", {"finetune": {"epochs": 2}}, {"early_exit": {"epochs": 1}}, AGAIN),
    chain("Q", "ptq", "qat"),
    chain("C", {"cast": {"emulate": True}}, {"early_exit": {"epochs": 1}}),
    chain("T", {"finetune": {"epochs": 1, "teacher": "baseline"}}),
]
"""
SOURCES = keys_module.SOURCES
ALL = {"Base 0", "F 0", "F 1", "F 2", "F 3", "E 0", "E 1", "E 2", "Q 0", "Q 1", "C 0", "C 1", "T 0"}


class ToySpec(StageSpec):
    """Quantizes, and calls what it does otherwise than `ptq`."""

    quantizes = True

    def tags(self) -> tuple[str, str]:
        return "toy", "toyed"


class PlainSpec(StageSpec):
    """Does nothing."""

    def tags(self) -> tuple[str, str]:
        return "plain", "plain"


def toy(state: ModelState, spec: StageSpec, ctx: Context) -> ModelState:
    return state


class Tree:
    """A copy of the project that keys are taken from."""

    def __init__(self, home: Path, suites: Suites, monkeypatch: pytest.MonkeyPatch):
        self.home, self.suites, self.monkeypatch = home, suites, monkeypatch
        for folder in FOLDERS:
            shutil.copytree(HOME / folder, home / folder)
        for path in HOME.glob("*.py"):
            shutil.copy(path, home)

    def keys(self, text: str = EVERYTHING, *, here: bool = True) -> dict[str, str]:
        """Experiment and number of the stage → key, by the code `here` or by the project's own."""
        sources = Sources(self.home) if here else SOURCES
        self.monkeypatch.setattr(keys_module, "SOURCES", sources)
        chains = plan(load_suite(self.suites.write(text)))
        return {
            f"{chain.experiment.name} {number}": step.key
            for chain in chains
            for number, step in enumerate(chain.steps)
        }

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.home / path).read_text()
        assert old in text
        (self.home / path).write_text(text.replace(old, new, 1))

    def renewed(self, path: str, old: str, new: str, text: str = EVERYTHING) -> set[str]:
        before = self.keys(text, here=False)
        self.edit(path, old, new)
        after = self.keys(text)
        return {name for name in before if before[name] != after[name]}


@pytest.fixture
def tree(tmp_path: Path, suites: Suites, monkeypatch: pytest.MonkeyPatch) -> Tree:
    return Tree(tmp_path / "tree", suites, monkeypatch)


def test_the_teacher_is_in_the_key_and_its_name_is_not(suites: Suites) -> None:
    first = keys(suites, TAUGHT)
    renamed = keys(suites, TAUGHT.replace("Teacher", "Master"))
    assert renamed["Student"] == first["Student"]
    other = keys(suites, TAUGHT.replace('"teacher": "Teacher"', '"teacher": "Other"'))
    assert other["Student"] != first["Student"]
    longer = keys(
        suites,
        TAUGHT.replace(
            '"Teacher", {"finetune": {"epochs": 1}}', '"Teacher", {"finetune": {"epochs": 2}}'
        ),
    )
    assert longer["Student"] != first["Student"] and longer["Other"] == first["Other"]
    words = [
        keys(suites, TAUGHT.replace('"teacher": "Teacher"', f'"teacher": "{word}"'))["Student"]
        for word in ("baseline", "current", "Base")
    ]
    assert len(set(words)) == 1  # three names of one network


def test_a_helper_that_moves_renews_nothing_and_one_that_changes_does(tree: Tree) -> None:
    before = tree.keys(here=False)
    path = tree.home / "training" / "muon.py"
    text = path.read_text()
    body = ast.parse(text).body
    (found,) = (s for s in body if isinstance(s, ast.FunctionDef) and s.name == "orthogonalized")
    helper = "\n".join(text.splitlines()[found.lineno - 1 : found.end_lineno])
    moved = text.replace(helper, "from training.more import orthogonalized")
    path.write_text(moved)
    imports = (s for s in body if isinstance(s, ast.Import | ast.ImportFrom))
    more = "\n".join(map(ast.unparse, imports))
    more += "\nfrom training.muon import COEFFICIENTS, ITERATIONS\n\nUNUSED = 1\n\n\n"
    (tree.home / "training" / "more.py").write_text(more + helper)
    assert tree.keys() == before
    tree.edit("training/more.py", "return", "print()\n    return")
    after = tree.keys()
    assert {name for name in before if before[name] != after[name]} == ALL


def test_words_renew_nothing(tree: Tree) -> None:
    assert not tree.renewed("stages/fitting.py", '"""', '"""Anew: ')
    assert not tree.renewed("train_eval.py", "\n\n\n", "\n\n\n# A remark.\n")


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("machine/timing.py", "median", "mean"),
        ("experiment/running/measure.py", "count_macs(", "(count_macs)("),
        ("data_sets/cifar.py", "def cifar(", "def cifar10_or_100("),
        ("data_sets/source.py", "name: str =", "label: str ="),
        ("dataset.py", '"Digits": ', '"Numbers": '),
        ("stages/stage.py", "distill_epochs: int", "distil_epochs: int"),
        ("stages/distillation.py", "epochs: int = Field(20", "epochs: int = Field(21"),
    ],
)
def test_what_measures_or_reads_and_other_stages_renew_nothing(
    tree: Tree, path: str, old: str, new: str
) -> None:
    assert not tree.renewed(path, old, new)


@pytest.mark.parametrize(
    ("path", "old", "new", "renewed"),
    [
        ("data_sets/augmentation.py", "return ", "return 1 * ", ALL),
        ("dataset.py", "manual_seed(seed)", "manual_seed(seed + 1)", ALL),
        ("stages/state.py", "manual_seed(seed)", "manual_seed(seed + 1)", ALL),
        # how multiplications are counted decides thresholds, and how much a cut takes
        ("methods/costs.py", "get_total_flops() // 2", "get_total_flops() // 4",
         {"F 1", "F 2", "F 3", "E 1", "E 2", "C 1"}),
        ("methods/quantization/fx.py", "OBSERVERS =", "ALL_OBSERVERS = OBSERVERS =",
         {"F 2", "F 3", "Q 0", "Q 1"}),
        ("methods/early_exit/thresholds.py", "CANDIDATES = 101", "CANDIDATES = 11",
         {"E 1", "E 2", "C 1"}),
        ("methods/casting.py", "HEADS = (", "HEADS = 1 * (", {"C 0", "C 1"}),
        ("methods/distillation/losses.py", "return ", "return 1 * ", {"T 0"}),
        ("stages/teaching.py", "return ", "return 1 * ", {"T 0"}),
        ("stages/deployment.py", "return ", "return 1 * ",
         {"F 2", "F 3", "E 1", "E 2", "Q 0", "Q 1", "C 1", "T 0"}),
        ("networks/fused_norm.cpp", "\n", "\n\n", ALL),
    ],
)  # fmt: skip
def test_what_a_stage_uses_renews_it_and_what_follows(
    tree: Tree, path: str, old: str, new: str, renewed: set[str]
) -> None:
    assert tree.renewed(path, old, new) == renewed


@pytest.mark.parametrize(("spec", "renewed"), [(ToySpec, {"C 0", "C 1"}), (PlainSpec, set())])
def test_a_new_stage_is_known_by_what_it_declares(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, spec: type[StageSpec], renewed: set[str]
) -> None:
    monkeypatch.setitem(STAGES, "toy", Stage(spec, toy))
    text = 'EXPERIMENT_CONFIGS.append(chain("C", "toy", {"finetune": {"epochs": 1}}))'
    path, old = "methods/quantization/backends.py", "import copy\n"
    assert tree.renewed(path, old, f"{old}\nNEW = 1\n", text) == renewed


def test_what_a_stages_own_file_takes_from_methods_counts_undeclared(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tree.home / "stages" / "rounding.py"
    file.write_text(
        "from methods.quantization import record\n\n\nclass PlainSpec: ...\n\n\n"
        "def toy(state):\n    return record.quantizable_layers(state)\n"
    )
    for each in (PlainSpec, toy):
        monkeypatch.setattr(each, "__module__", "stages.rounding")
    monkeypatch.setitem(STAGES, "toy", Stage(PlainSpec, toy))
    text = 'EXPERIMENT_CONFIGS.append(chain("C", "toy"))'
    path = "methods/quantization/record.py"
    before = tree.keys(text)
    tree.edit(path, "fnmatchcase(name", "fnmatchcase('' + name")
    assert tree.keys(text) == before
    tree.edit(path, "names = [n for n", "names = [1 and n for n")
    after = tree.keys(text)
    assert {name for name in before if before[name] != after[name]} == {"C 0"}
