"""A config module that does not even run is one line as well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
