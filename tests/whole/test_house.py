"""The house keeps its own rules: layers, doors, six files at the root, empty inits, short files."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2]
FACE = {"config", "dataset", "main", "model", "train_eval", "utils"}
PACKAGES = (
    *("data_sets", "engines", "experiment", "machine"),
    *("methods", "networks", "stages", "training"),
)
BREACHES = {  # file → a line that points up, or sideways
    "training/losses.py": "from train_eval import evaluate",
    "networks/args.py": "import model",
    "data_sets/source.py": "from dataset import DATASET_REGISTRY",
    "experiment/study/plan.py": "from experiment.report.write import write_report",
    "experiment/running/run.py": "from experiment.report.write import write_report",
    "experiment/running/step.py": "from experiment.outcomes.study import StudyResult",
    "experiment/outcomes/study.py": "from experiment.study.plan import load_study",
    "experiment/suite/keys.py": "from experiment.running.store import Store",
    "methods/costs.py": "from stages.state import build",
    "methods/exported.py": "from engines.program import Program",
    "engines/eager.py": "from stages.state import build",
    "machine/files.py": "import data_sets.source",
}


def python_files() -> list[Path]:
    return [
        *(HOME / f"{name}.py" for name in FACE),
        *(path for package in PACKAGES for path in (HOME / package).rglob("*.py")),
    ]


def tach(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tach", "check"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    for path in [*python_files(), HOME / "tach.toml"]:
        target = folder / path.relative_to(HOME)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


def test_arrows_run_down(copy: Path) -> None:
    done = tach(copy)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", BREACHES)
def test_an_arrow_up_is_found(copy: Path, file: str) -> None:
    before = (copy / file).read_text()
    (copy / file).write_text(f"{before}\n{BREACHES[file]}\n")
    try:
        done = tach(copy)
    finally:
        (copy / file).write_text(before)
    assert done.returncode == 1 and file in done.stdout + done.stderr


def test_the_root_has_the_face_alone() -> None:
    assert {path.stem for path in HOME.glob("*.py")} == FACE
    for package in PACKAGES:
        for folder in [HOME / package, *(p for p in (HOME / package).rglob("*") if p.is_dir())]:
            if folder.name == "__pycache__":
                continue
            assert len(folder.relative_to(HOME).parts) <= 2, folder
            modules = [p for p in folder.glob("*.py") if p.name != "__init__.py"]
            assert len(modules) <= 20, folder


def test_files_are_short_and_say_what_lives_there() -> None:
    for path in python_files():
        text = path.read_text()
        if path.name == "__init__.py":
            assert not text or path.parent.name in ("engines", "stages"), path
            continue
        assert text.count("\n") <= 400, path
        assert ast.get_docstring(ast.parse(text)), path
