"""Commands that only read JSON start without torch, and without what else takes long to import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.home import HOME
from tests.support.report_samples import metrics, sensitivities, small_suite, study, write
from tests.support.store_samples import stored

HEAVY = ("torch", "torchvision", "sklearn", "scipy", "matplotlib", "numpy")
WITHOUT = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy!r}:
            raise AssertionError(f"{{name}} is imported")

sys.meta_path.insert(0, Refusing())
import main
sys.exit(main.main(sys.argv[1:]))
"""


def without(heavy: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command line in a process of its own, in which an import of `heavy` is an error."""
    script = WITHOUT.format(heavy=heavy)
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=HOME, capture_output=True, text=True)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite with results, complete enough for `show`, and a store of one stage."""
    folder = tmp_path_factory.mktemp("startup")
    path, results = folder / "suite.py", folder / "results"
    path.write_text(f"RESULTS_DIR, MODEL_SAVE_DIR = '{results}', '{folder / 'models'}'\n")
    stored(folder / "models", "5" * 64)
    small_suite(results)
    sensitivities(results)
    study(results)
    sections = {key: {} for key in ("dataset_args", "model_args", "training_args")}
    for name in ("A", "B"):
        write(results, name, [("ptq", metrics(89.0))], baseline=None,
              config={**sections, "sequence": [{"ptq": {}}]})  # fmt: skip
        file = results / f"{name}_results.json"
        result = json.loads(file.read_text())
        for stage in result["stages"]:
            stage["quant"] = None
        file.write_text(json.dumps(result))
    return path


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("show", "A"), ("compare", "A", "B"), ("store", "ls"), ("show", "--help")],
)
def test_a_command_that_reads_json_needs_nothing_heavy(
    config: Path, arguments: tuple[str, ...]
) -> None:
    done = without(HEAVY, *arguments, "--config", str(config))
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_report_needs_torch_never_and_matplotlib_only_to_draw(config: Path) -> None:
    arguments = "--report", "--config", str(config)
    done = without(tuple(name for name in HEAVY if name not in ("matplotlib", "numpy")), *arguments)
    assert done.returncode == 0, done.stderr
    page = config.parent / "results" / "report.html"
    before = page.read_bytes()
    page.unlink()
    done = without(HEAVY, *arguments)
    assert done.returncode == 0, done.stderr
    assert page.read_bytes() == before


def test_an_import_of_torch_would_be_found(config: Path) -> None:
    done = without(HEAVY, "predict", "--help")
    assert done.returncode != 0 and "torch is imported" in done.stderr
