"""Mistakes on the command line of a run: one clear line, exit 2, nothing run."""

from __future__ import annotations

import pytest

import main
from tests.support.suites import Suites


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "Bse"], "--only Bse: 'Bse' is not known; did you mean 'Base'?"),
        (["--set", "training_args.batch_sze=3"], "did you mean 'batch_size'?"),
        (["--set", "trainin_args.batch_size=3"], "did you mean 'training_args'?"),
        (["--set", "training_args.batch_size"], "should read section.key=value"),
        (["--set", "training_args.batch_size=x"], "'x' should be a valid integer"),
        (["--dryrun"], "did you mean --dry-run?"),
        (["--baseline", "maybe"], "invalid choice: 'maybe'"),
    ],
)
def test_command_line_mistakes(suites: Suites, arguments: list[str], said: str) -> None:
    lines = suites.refused("", *arguments)
    assert len(lines) == 1
    assert said in lines[0]


def test_a_missing_config_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--config", "configs/quickstrat.py"]) == 2
    assert "configs/quickstrat.py: there is no such file" in capsys.readouterr().err
