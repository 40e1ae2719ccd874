"""`study` through the command line: lists, dry runs, and wishes that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiment.commands.study import show
from experiment.outcomes.study import StudyResult
from experiment.running.console import Console
from tests.support.studies import STUDY, study
from tests.support.study_samples import full_study, older_study
from tests.support.suites import Suites


def test_a_dry_run_shows_what_is_shared(
    tiny_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(tiny_study, "Tiny", "--dry-run") == 0
    printed = capsys.readouterr().out
    # a seed has train; P: 2 × (prune, finetune); Q; PQ: 2 × qat; QP: 2 × (prune, finetune)
    assert "7 chains, 2 seeds; 24 different stages (each chain by itself: 48)" in printed
    assert "24 cached, 0 resumable, 0 to run" in printed


def test_studies_are_listed(tiny_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study(tiny_study) == 0
    assert "Tiny " in (said := capsys.readouterr().out) and "P = prune → finetune" in said


def test_an_unknown_study(suites: Suites) -> None:
    assert study(suites.write(STUDY), "Tin") == 2
    assert "'Tin' is not a study; did you mean 'Tiny'?" in suites.capsys.readouterr().err


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ("accuracy_drop<=0.5", "has 0 objectives; give one"),
        ("min latency_ms, max accuracy", "has 2 objectives"),
        ("min latensy_ms", "'latensy_ms' is not a metric; did you mean 'latency_ms'?"),
        ("accuracy_drop<=half, min bitops", "'half' is not a number"),
        ("accuracy_drop=0.5, min bitops", "'accuracy_drop=0.5' should read like"),
        ("", "'' should read like accuracy_drop<=0.5 or min latency_ms"),
    ],
)
def test_a_bad_wish_is_one_line_and_nothing_runs(suites: Suites, wish: str, said: str) -> None:
    assert study(suites.write(STUDY), "Tiny", "--recommend", wish) == 2
    error = suites.capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
    assert not suites.models.exists()


def wide(console: Console) -> Console:
    """One whose tables break no line."""
    console.rich.width = 300
    return console


def test_what_was_found_by_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    show("Study", StudyResult.model_validate(full_study()), wide(Console()))
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if "Q → E" in line)
    cells = [cell.strip() for cell in row.split("│")]
    assert cells[4:6] == ["-0.50 to +0.90", "3"]  # the sure interval, and seeds
    assert cells[-2].startswith("open: seeds are lacking")
    assert "P first, by less than 0.5" in printed and "equal within ±0.5 points" in printed
    assert "0.30 (-0.10 to +0.70)" in printed  # a chain's drop
    lines = printed.splitlines()
    assert any(line.startswith("Order found: D → P ≈ Q → E;") for line in lines)


def test_what_was_found_by_a_version_of_before(capsys: pytest.CaptureFixture[str]) -> None:
    show("Study", StudyResult.model_validate(older_study()), wide(Console()))
    printed = capsys.readouterr().out
    assert "sure of all together" not in printed
    row = next(line for line in printed.splitlines() if "D → P " in line)
    assert [cell.strip() for cell in row.split("│")][-2] == "D first"
    show("Nothing", StudyResult.model_validate({}), wide(Console()))
    assert "No order found" in capsys.readouterr().out
