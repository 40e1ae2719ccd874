"""What is wrong with a search is told before anything runs, in its own words."""

from __future__ import annotations

import json

import pytest

from experiment.search.plan import load_search, load_searches
from experiment.suite.messages import ConfigError
from tests.support.searches import SEARCH, search
from tests.support.suites import Suites

WRONG = {
    "ASKED['wish'] = 'min bitop'": "Tiny.wish: 'bitop' is not a metric; did you mean 'bitops'?",
    "ASKED['wish'] = 'accuracy_drop<=1'": "has 0 objectives",
    "ASKED['wish'] = 'accuracy_drop>=1, min bitops'": "asks for a loss; turn the sign round",
    "ASKED['wish'] = 'min latency_ms_batch_8'": "add 8 to it",
    "del ASKED['budget_epochs']": "Tiny.budget_hours: is missing; set it, or budget_epochs",
    "ASKED['strengths'] = {'X': {'width': [1]}}": "'X' is not one of the stages",
    "ASKED['strengths']['P']['keep.macs'] = (0.9, 0.3)": "with low below high",
    "ASKED['strengths']['P']['keep.macs'] = [0.5, 0.5]": "one value stands twice",
    "ASKED['strengths']['P'] = {'kep': [0.5]}": "Tiny.stages.P[0] with kep 0.5.kep: 'kep'",
    "ASKED['strengths']['P']['keep.macs'] = [0.6, 7.0]": "stages.P[0] with keep.macs 7.0",
    "ASKED['strengths']['P']['keep.macs'] = (3, 7)": "stages.P[0] with keep.macs 3",
    "ASKED['orders'] = ['PQ', 'QX']": "'QX' should be made of the letters P, Q",
    "ASKED['orders'] = {'study': 'None'}": "run python main.py study None first",
    "ASKED['baseline'] = 'Bas'": "Tiny.baseline: 'Bas' is not an experiment; did you mean 'Base'?",
    "ASKED['stop_if'] = {'acuracy': 3}": "did you mean 'accuracy'",
    "ASKED['short'] = 1.5": "Tiny.short",
    "ASKED['seedsfinal'] = 3": "did you mean 'seeds_final'",
    "SEARCHES.append(ASKED)": "another search has this name",
    "EXPERIMENT_CONFIGS.append({**chain('x', 'ptq'), 'name': 'Tiny_PQ_p0.6'})": "rename that",
    "BASE['seeds'] = [0]": "is not among the seeds",
}


@pytest.mark.parametrize("change", WRONG)
def test_mistakes(change: str, suites: Suites, capsys: pytest.CaptureFixture[str]) -> None:
    path = suites.write(f"{SEARCH}{change}\n")
    assert search(path, "Tiny") == 2
    told = capsys.readouterr().err
    assert WRONG[change] in told and "Traceback" not in told
    assert not suites.results.exists()


def test_they_are_listed_and_a_name_is_corrected(
    suites: Suites, capsys: pytest.CaptureFixture[str]
) -> None:
    path = suites.write(SEARCH)
    assert search(path) == 0
    assert "accuracy_drop<=60, min bitops; P, Q from Base, 40 epochs" in capsys.readouterr().out
    assert search(path, "Tinny") == 2
    assert "did you mean 'Tiny'?" in capsys.readouterr().err


def test_a_study_says_which_orders_are_left(suites: Suites) -> None:
    path = suites.write(SEARCH + "ASKED['orders'] = {'study': 'Pairs'}\n")
    suites.results.mkdir(parents=True)
    pair = {"first": "P", "second": "Q", "verdict": "first"}
    (suites.results / "study_Pairs.json").write_text(json.dumps({"pairs": [pair]}))
    assert load_search(path, "Tiny").space.orders() == ["P", "Q", "PQ"]
    (suites.results / "study_Pairs.json").write_text(
        json.dumps({"pairs": [{**pair, "verdict": "open"}]})
    )
    assert load_search(path, "Tiny").space.orders() == ["P", "Q", "PQ", "QP"]
    (suites.results / "study_Pairs.json").write_text(
        json.dumps({"pairs": [{**pair, "second": "R"}]})
    )
    with pytest.raises(ConfigError, match="has no pairs of Q"):
        load_search(path, "Tiny")


def test_config_pys_own_are_sound() -> None:
    assert [type(each.parsed_wish).__name__ for each in load_searches("config.py")]


def test_a_dry_run_says_what_is_known(suites: Suites, capsys: pytest.CaptureFixture[str]) -> None:
    assert search(suites.write(SEARCH), "Tiny", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "8 chains in 4 orders" not in told  # P has two strengths: 3 alone, 4 of two
    assert "7 chains in 4 orders" in told and "seeds 1, 2" in told
    assert "first" in told and "nothing was trained" in told
    assert not suites.results.exists()
