"""What a search found, on the terminal."""

from __future__ import annotations

from typing import Any

import pytest

from experiment.commands.search_tables import show_search
from experiment.outcomes.search import SearchResult
from experiment.running.console import Console
from tests.support.search_samples import full_search, running_search


def shown(written: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    console = Console()
    console.rich.width = 300  # tables break no line
    show_search("Fast", SearchResult.model_validate(written), console)
    return capsys.readouterr().out.splitlines()


def cells(lines: list[str], begin: str) -> list[list[str]]:
    """Of each row that begins so."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    return [row for row in rows if row[0] == begin]


def test_what_a_search_found(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(full_search(), capsys)
    finalist, on_front = cells(lines, "D → P → Q")
    assert finalist == [
        *("D → P → Q", "D width 0.5; P keep.macs 0.45", "0.40", "0.70 ± 0.30"),
        *("0.80 (+0.30 to +1.30)", "17.4 1/85.0", "0.90", "yes"),
    ]
    assert on_front[2:] == ["0.40", "0.70 ± 0.30", "17.4 1/85.0", "yes"]
    assert cells(lines, "D → P → E → Q")[0][-1] == "no"
    assert any(line.startswith("Found: DPQ_d0.5_p0.45") for line in lines)
    entry = "\n".join(lines).split("# an entry of EXPERIMENT_CONFIGS:\n")[1]
    assert eval(entry)[0] == full_search()["winner"]["config"]


def test_one_that_runs_still_has_what_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown({**running_search(), "front": []}, capsys)
    assert not any("│" in line for line in lines)
    assert any(line.startswith("Not finished: the best so far") for line in lines)
    assert "EXPERIMENT_CONFIGS" not in "\n".join(lines)
    assert any("no chain that meets the wish yet" in line for line in shown({}, capsys))
