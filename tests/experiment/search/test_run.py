"""Whole searches on Digits: run, stopped and gone on with, under a larger budget, as tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import experiment.search.run as running
from experiment.suite.schema import load_suite
from machine.errors import Interrupted
from tests.support.searches import SEARCH, search
from tests.support.suites import Suites


def found(suites: Suites) -> dict[str, Any]:
    return json.loads((suites.results / "search_Tiny.json").read_text())


def course(report: dict[str, Any]) -> list[Any]:
    """What was tried and what came of it, times aside."""
    known = ("accuracy", "accuracy_drop", "bitops", "params")
    return [
        [one["name"], one["kind"], one["epochs_so_far"], one["expected"],
         *(one["figures"][name] for name in known)]
        for one in report["tried"]
    ]  # fmt: skip


def test_a_search_finds_confirms_and_hands_over(
    suites: Suites, capsys: pytest.CaptureFixture[str]
) -> None:
    path = suites.write(SEARCH)
    assert search(path, "Tiny") == 0
    report = found(suites)
    assert report["status"] == "done" and report["stopped_by"] in ("budget", "nothing_better")
    spent, winner = report["spent"], report["winner"]
    assert 0 < spent["epochs"] <= 40
    # Every epoch by hand: those of letters at the search's seed, then of finalists at two others.
    stages = {"P": 2, "Q": 1}
    tried = {(one["kind"], one["order"], str(one["strengths"])) for one in report["tried"]}
    assert len(tried) == len(report["tried"])
    by_hand = sum(stages[one["order"][-1]] for one in report["tried"])
    first = report["finalists"][0]
    by_hand += 2 * (2 + sum(stages[letter] for letter in first["order"]))
    if len(report["finalists"]) == 1:
        assert spent["epochs"] == by_hand
    assert first["confirmed"]["seeds"] == [1, 2] and first["apparent"] is not None
    low, high = first["confirmed"]["interval"]
    assert low <= first["confirmed"]["accuracy_drop"] <= high
    # The winner is judged by its fresh seeds alone, on the validation share.
    results = json.loads((suites.results / f"Tiny_{winner['name']}_results.json").read_text())
    base = json.loads((suites.results / "Base_results.json").read_text())
    assert results["seeds"] == [1, 2] and results["status"] == "done"

    def accuracy(result: dict[str, Any], split: str | None) -> float:
        ends = {stage["seed"]: stage["metrics"] for stage in result["stages"]}
        own = [
            ends[seed][split]["accuracy"] if split else ends[seed]["accuracy"] for seed in (1, 2)
        ]
        return sum(own) / 2

    chosen = next(each for each in report["finalists"] if each["name"] == winner["name"])
    lost = accuracy(base, "validation") - accuracy(results, "validation")
    assert chosen["confirmed"]["accuracy_drop"] == pytest.approx(lost)
    assert chosen["test"]["accuracy"] == pytest.approx(accuracy(results, None))
    # Its entry is an experiment, ready to run.
    path.write_text(path.read_text() + f"EXPERIMENT_CONFIGS.append({winner['config']!r})\n")
    suite = load_suite(path, only=["Tiny_found"])
    assert suite.experiments[-1].name == "Tiny_found"
    assert "Tiny" in capsys.readouterr().out
    page = (suites.results / "report.html").read_text()
    assert winner["name"] in page
    # Once more: nothing is trained, nothing changes.
    assert search(path, "Tiny") == 0
    again = found(suites)
    assert course(again) == course(report) and again["winner"] == winner
    assert again["spent"]["epochs"] == spent["epochs"]


def test_stopped_and_gone_on_with_it_is_the_same(
    suites: Suites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = suites.write(SEARCH)
    whole = running.run_chains
    calls = 0

    def stopping(*about: Any, **how: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (3, 6, 9):  # before or after the stage was done
            if calls == 6:
                whole(*about, **how)
            raise Interrupted
        return whole(*about, **how)

    monkeypatch.setattr(running, "run_chains", stopping)
    codes = []
    for _ in range(5):
        codes.append(search(path, "Tiny"))
        if codes[-1] != 130:
            break
        assert found(suites)["status"] == "interrupted"
    assert codes.count(130) >= 2 and codes[-1] == 0
    report = found(suites)
    monkeypatch.setattr(running, "run_chains", whole)
    other = Suites(tmp_path / "other", suites.capsys)
    (tmp_path / "other").mkdir()
    assert search(other.write(SEARCH), "Tiny") == 0
    assert course(report) == course(found(other))
    assert report["winner"]["config"] == found(other)["winner"]["config"]
    assert report["spent"]["epochs"] == found(other)["spent"]["epochs"]


def test_a_larger_budget_goes_on_and_another_wish_begins_anew(
    suites: Suites, capsys: pytest.CaptureFixture[str]
) -> None:
    path = suites.write(SEARCH + "ASKED['budget_epochs'] = 16\n")
    search(path, "Tiny")
    before = found(suites)
    search(suites.write(SEARCH), "Tiny")
    after = found(suites)
    assert course(after)[: len(before["tried"])] == course(before)
    assert after["spent"]["epochs"] >= before["spent"]["epochs"]
    capsys.readouterr()
    search(suites.write(SEARCH + "ASKED['wish'] = 'min bitops'\n"), "Tiny")
    told = capsys.readouterr().out
    assert "the search begins anew" in told
    assert len(list(suites.results.glob("search_Tiny.*.aside"))) == 1
    assert any(one["stored"] for one in found(suites)["tried"])


def test_a_wish_that_nothing_meets_ends_with_1(
    suites: Suites, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SEARCH + "ASKED |= {'wish': 'accuracy_drop<=-90, min bitops', 'budget_epochs': 25}\n"
    assert search(suites.write(text), "Tiny") == 1
    assert found(suites)["winner"] is None
    assert "Traceback" not in capsys.readouterr().err


def test_a_chain_beyond_stop_if_is_not_gone_on_with(suites: Suites) -> None:
    text = SEARCH + "ASKED['stop_if'] = {'accuracy_drop': -99}\n"
    search(suites.write(text), "Tiny")
    report = found(suites)
    assert all(len(one["order"]) == 1 for one in report["tried"])
    assert all("accuracy_drop" in one["stopped"] for one in report["tried"])


@pytest.mark.slow
def test_as_tasks_of_ray_it_tries_several_at_once(suites: Suites) -> None:
    pytest.importorskip("ray")
    assert search(suites.write(SEARCH), "Tiny", "--executor", "ray", "--workers", "2") == 0
    report = found(suites)
    choices = [one["choice"] for one in report["journal"]["tried"]]
    assert len(set(choices)) < len(choices)
