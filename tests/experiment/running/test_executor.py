"""A chain that fails is recorded with its cause, and the rest go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiment.running.store import Store
from stages import STAGES, Stage
from stages.finetuning import FinetuneSpec
from tests.support.suites import CHAINS, Suites, cached, results, summary


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


# Of the networks of `Base`, pruning leaves nearly nothing, so that the first is stopped after it.
STOPPED = """
WHOLE = ({"prune": {"ratio": 0.9}}, {"finetune": {"epochs": 1}}, "ptq")
EXPERIMENT_CONFIGS += [
    chain("Stopped", *WHOLE, stop_if={"accuracy_drop": 5}),
    chain("Late", "ptq", WHOLE[0], stop_if={"accuracy_drop": 5}),
]
"""
SHARES = STOPPED + 'EXPERIMENT_CONFIGS.append(chain("Whole", *WHOLE))'


def stages(suites: Suites, name: str) -> list[str]:
    return [stage["stage"] for stage in results(suites, name)["stages"]]


def test_a_chain_beyond_its_bound_is_stopped_and_those_that_share_its_beginning_go_on(
    suites: Suites,
) -> None:
    assert suites.run(STOPPED) == 0
    result, (row, *_) = results(suites, "Stopped"), summary(suites)["experiments"][1:]
    before, after = (
        results(suites, name)["stages"][0]["metrics"]["validation"]["accuracy"]
        for name in ("Base", "Stopped")
    )
    assert before - after > 5
    stop = {"seed": 0, "stage": "prune", "why": f"accuracy_drop {before - after:.4g} > 5"}
    assert result["status"] == row["status"] == "stopped"
    assert result["stopped"] == row["stopped"] == [stop]
    assert result["final"] == row["final"] == {} and result["errors"] == []
    assert stages(suites, "Stopped") == ["prune"]
    # After the last stage nothing is left to be stopped.
    assert results(suites, "Late")["status"] == "done" and not results(suites, "Late")["stopped"]
    assert len(Store(suites.models).keys()) == 4  # train, prune; ptq, prune
    printed = suites.capsys.readouterr().out
    assert "prune → finetune → ptq, stopped if accuracy_drop > 5" in printed
    assert f"   stopped after prune: {stop['why']}" in printed
    assert f"\nStopped: stopped after prune: {stop['why']}" in printed

    assert suites.run(SHARES) == 0
    assert results(suites, "Stopped")["stopped"] == [stop] and cached(suites, "Stopped") == [True]
    assert stages(suites, "Whole") == ["prune", "finetune", "ptq"]
    assert cached(suites, "Whole") == [True, False, False]
    assert results(suites, "Whole")["status"] == "done"
    # What another chain has made since changes nothing.
    assert suites.run(SHARES) == 0
    assert results(suites, "Stopped")["stopped"] == [stop] and stages(suites, "Stopped") == [
        "prune"
    ]
    loosened = SHARES.replace('{"accuracy_drop": 5}', '{"accuracy_drop": 100}')
    assert suites.run(loosened) == 0
    assert (
        results(suites, "Stopped")["status"] == "done" and not results(suites, "Stopped")["stopped"]
    )
    assert cached(suites, "Stopped") == [True, True, True]


def test_each_seed_is_stopped_by_itself(suites: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    real = STAGES["finetune"]

    def wrecked_at_seed_zero(state: Any, spec: Any, ctx: Any) -> Any:
        made = real.run(state, spec, ctx)
        if ctx.seed:
            return made
        return made.changed({name: value * 0 for name, value in made.weights.items()})

    monkeypatch.setitem(STAGES, "finetune", Stage(real.spec, wrecked_at_seed_zero))
    monkeypatch.setattr(wrecked_at_seed_zero, "__module__", "stages.finetuning")
    text = """EXPERIMENT_CONFIGS.append(
        chain("F", {"finetune": {"epochs": 1}}, "ptq", seeds=[0, 1], stop_if={"accuracy": 20}))"""
    assert suites.run(text) == 0
    result, base = results(suites, "F"), results(suites, "Base")
    assert result["status"] == "stopped"
    assert [(stop["seed"], stop["stage"]) for stop in result["stopped"]] == [(0, "finetune")]
    assert [(s["seed"], s["stage"]) for s in result["stages"]] == [
        (0, "finetune"), (1, "finetune"), (1, "ptq"),
    ]  # fmt: skip
    last = result["stages"][-1]["metrics"]["accuracy"]
    assert result["final"]["accuracy"] == {"mean": last, "std": None, "n": 1}
    # Against the baseline of that seed alone.
    its = next(s["metrics"]["accuracy"] for s in base["stages"] if s["seed"] == 1)
    row = next(row for row in summary(suites)["experiments"] if row["experiment"] == "F")
    assert row["against_baseline"]["accuracy_points"] == pytest.approx(last - its)
    assert "F: seed 0 stopped after finetune: accuracy " in suites.capsys.readouterr().out


def test_a_stopped_chain_asks_for_no_data_again(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert suites.run(STOPPED) == 0

    def refuse(*about: Any) -> None:
        raise AssertionError("nothing is left to be trained")

    monkeypatch.setattr("experiment.running.executor.load_dataset", refuse)
    assert suites.run(STOPPED) == 0
    assert suites.run(STOPPED, "--dry-run") == 0
    printed = suites.capsys.readouterr().out
    assert "= Stopped, stopped after prune: accuracy_drop " in printed
    assert "4 cached, 0 resumable, 0 to run" in printed
