"""Results over seeds are summed up, and the summary keeps what other runs left."""

from __future__ import annotations

import shutil

import pytest

from tests.support.suites import CHAINS, Suites, results, summary


def test_seeds_run_each_and_are_summed_up(suites: Suites) -> None:
    assert suites.run('EXPERIMENT_CONFIGS.append(chain("Q", "ptq", seeds=[0, 3]))') == 0
    result, base = results(suites, "Q"), results(suites, "Base")
    assert [stage["seed"] for stage in result["stages"]] == [0, 3] == base["seeds"]
    values = [stage["metrics"]["accuracy"] for stage in result["stages"]]
    final = result["final"]["accuracy"]
    assert final["n"] == 2
    assert final["mean"] == pytest.approx(sum(values) / 2)
    assert final["std"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert (suites.models / "Q_seed3_quantized_ptq_int8.pth").exists()
    assert base["stages"][0]["metrics"]["loss"] != base["stages"][1]["metrics"]["loss"]


def test_the_summary_keeps_what_other_runs_left(run_before: Suites) -> None:
    shutil.rmtree(run_before.results)
    assert run_before.run(CHAINS, "--only", "PFQ") == 0
    assert run_before.run(CHAINS, "--only", "PFQat") == 0
    rows = {row["experiment"]: row for row in summary(run_before)["experiments"]}
    assert rows.keys() == {"Base", "PFQ", "PFQat"}
    assert "against_baseline" in rows["PFQ"]
    (run_before.results / "odd_results.json").write_text("[1, 2")
    assert run_before.run(CHAINS, "--only", "PFQ") == 0
