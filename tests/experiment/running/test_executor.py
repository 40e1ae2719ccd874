"""A chain that fails is recorded with its cause, and the rest go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages import STAGES, Stage
from stages.finetuning import FinetuneSpec
from tests.support.suites import CHAINS, Suites, results, summary


def test_a_failing_experiment_is_recorded_and_the_rest_go_on(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*args: Any) -> None:
        raise RuntimeError("the stage exploded")

    monkeypatch.setitem(STAGES, "finetune", Stage(FinetuneSpec, explode))
    monkeypatch.setattr(explode, "__module__", "stages.finetuning")
    assert suites.run(CHAINS + 'EXPERIMENT_CONFIGS.append(chain("Q", "ptq"))') == 1
    statuses = {row["experiment"]: row["status"] for row in summary(suites)["experiments"]}
    assert statuses == {
        "Base": "done", "PFQ": "failed", "PFQat": "failed", "QatPF": "failed", "Q": "done",
    }  # fmt: skip
    error = results(suites, "PFQ")["errors"][0]
    assert error["stage"] == "finetune" and error["message"] == "the stage exploded"
    assert "explode" in Path(error["traceback_file"]).read_text()
    assert [s["stage"] for s in results(suites, "PFQ")["stages"]] == ["prune"]
    printed = suites.capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    assert "FAILED in finetune: RuntimeError: the stage exploded" in printed.out


def test_a_failed_seed_is_not_forgotten_over_the_next(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = STAGES["ptq"]

    def only_seed_one(state: Any, spec: Any, ctx: Any) -> Any:
        if ctx.seed == 0:
            raise RuntimeError("seed 0 failed")
        return real.run(state, spec, ctx)

    monkeypatch.setitem(STAGES, "ptq", Stage(real.spec, only_seed_one))
    monkeypatch.setattr(only_seed_one, "__module__", "stages.ptq")
    assert suites.run('EXPERIMENT_CONFIGS.append(chain("Q", "ptq", seeds=[0, 1]))') == 1
    result = results(suites, "Q")
    assert result["status"] == "failed"
    assert [error["seed"] for error in result["errors"]] == [0]
    assert result["final"]["accuracy"]["n"] == 1


def test_chains_of_a_failed_baseline_are_skipped_with_the_reason(suites: Suites) -> None:
    text = 'BASE["training_args"] = {"optimizer": "sgd", "learning_rate": 100.0}\n'
    assert suites.run(text + CHAINS) == 1
    statuses = {row["experiment"]: row["status"] for row in summary(suites)["experiments"]}
    assert statuses == {"Base": "failed", "PFQ": "skipped", "PFQat": "skipped", "QatPF": "skipped"}
    assert (
        "its baseline Base failed: NonFiniteLossError"
        in (results(suites, "PFQ")["errors"][0]["message"])
    )
