"""A config module runs as a script does, and where it does not run, that is one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import main
from experiment.suite.config_file import config_values
from experiment.suite.messages import ConfigError
from tests.support.home import HOME


def test_a_stale_keyword_in_plain_python_is_no_traceback(tmp_path: Path) -> None:
    """The whole program, as a user starts it."""
    bad = tmp_path / "bad.py"
    bad.write_text("EXPERIMENT_CONFIGS = [{'name': 'A', 'sequence': ['ptq']}]\n")
    done = subprocess.run(
        [sys.executable, str(HOME / "main.py"), "--config", str(bad)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("A.sequence: 'sequence' is not known")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


DATACLASS = """
from __future__ import annotations
from dataclasses import asdict, dataclass, field

@dataclass(frozen=True)
class Chain:
    name: str
    seeds: list[int] = field(default_factory=lambda: [0])

EXPERIMENT_CONFIGS = [asdict(Chain("A"))]
"""


@pytest.mark.parametrize("name", ["suite.py", "my.suite.py", "config.py"])
def test_a_dataclass_with_annotations_as_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(DATACLASS)
    assert config_values(path)["EXPERIMENT_CONFIGS"] == [{"name": "A", "seeds": [0]}]


def written(folder: Path, value: str) -> Path:
    """A config that takes names of files beside it, one called as a file of this project is."""
    (folder / "parts").mkdir(parents=True)
    (folder / "shared.py").write_text(f"from utils import name\nRESULTS_DIR = '{value}' + name\n")
    (folder / "utils.py").write_text("name = '-utils'\n")
    (folder / "parts" / "one.py").write_text(f"DATA_DIR = '{value}-part'\n")
    path = folder / "suite.py"
    path.write_text("from parts.one import DATA_DIR\nfrom shared import *\n")
    return path


def test_files_beside_a_config_are_its_own(tmp_path: Path) -> None:
    """Two configs whose neighbours have the same names, in one process, in turn, and read anew."""
    import utils

    one, other = written(tmp_path / "one", "1"), written(tmp_path / "other", "2")
    before, search = dict(sys.modules), list(sys.path)
    for path, value in ((one, "1"), (other, "2"), (one, "1")):
        values = config_values(path)
        assert (values["RESULTS_DIR"], values["DATA_DIR"]) == (f"{value}-utils", f"{value}-part")
    (tmp_path / "one" / "utils.py").write_text("name = '-corrected'\n")
    assert config_values(one)["RESULTS_DIR"] == "1-corrected"
    assert dict(sys.modules) == before and sys.path == search
    assert sys.modules["utils"] is utils and Path(str(utils.__file__)).parent == HOME


def test_what_is_wrong_beside_a_config_is_one_line(tmp_path: Path) -> None:
    path = written(tmp_path / "one", "1")
    (tmp_path / "one" / "utils.py").write_text("name = (\n")
    with pytest.raises(ConfigError, match=r"^\S*utils\.py:1: '\(' was never closed$"):
        config_values(path)
    (tmp_path / "one" / "utils.py").write_text("name = 1 / 0\n")
    with pytest.raises(ConfigError, match=r"^\S*suite\.py:2: ZeroDivisionError: division by zero$"):
        config_values(path)
    (tmp_path / "one" / "utils.py").unlink()
    assert "utils" in sys.modules  # the project's


def test_a_name_too_long_for_a_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--config", f"{'x' * 300}.py"]) == 2
    assert capsys.readouterr().err == f"{'x' * 300}.py: is too long for a file's name\n"
