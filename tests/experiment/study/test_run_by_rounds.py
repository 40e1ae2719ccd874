"""Studies by rounds on Digits: when they stop, go on, and what they say, interrupted or not."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dataset import load_dataset
from experiment.outcomes.study import StudyResult
from experiment.running import run as running
from experiment.study.rounds import Rounds
from experiment.suite.schema import load_suite
from machine.errors import Interrupted
from tests.support.hurried import hurry
from tests.support.once import copy_with_links, made_once
from tests.support.studies import STUDY, study
from tests.support.suites import SUITE, Suites
from utils import load_model

# Nothing is ever settled, at that confidence and margin.
TWO = """
DEFAULT_TRAINING_PARAMS["initial_train_epochs"] = 1
STUDY.update(
    stages={"F": "finetune", "P": {"prune": {"mode": "structural", "ratio": 0.2}}}, strengths={},
    seeds={"min": 2, "max": 3}, confidence=0.9999999, margin=1e-6,
)
"""
ORDERS = ["F", "P", "FP", "PF"]
EPOCHS = 3  # of each seed: the baseline's, F's, and F's after P


def hopeful(patch: pytest.MonkeyPatch) -> None:
    """Let every open pair have a further seed, though none would settle it."""
    patch.setattr(Rounds, "_may_settle", lambda *about: True)


@pytest.fixture(scope="module")
def all_seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that went through all its rounds; for reading."""

    def make(folder: Path) -> None:
        (folder / "suite.py").write_text(SUITE.format(folder=folder) + STUDY + TWO)
        with pytest.MonkeyPatch.context() as patch:
            hurry(patch)
            hopeful(patch)
            patch.setattr("experiment.report.write.draw_pictures", lambda *about: [])
            assert study(folder / "suite.py", "Tiny") == 0

    return made_once(tmp_path_factory, "rounds", make)


@pytest.fixture
def stored(all_seeds: Path, suites: Suites) -> Suites:
    """Suites in whose folder every seed's stages are stored."""
    copy_with_links(all_seeds / "models", suites.models)
    return suites


def found(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results" / "study_Tiny.json").read_text())


def again(suites: Suites, **changes: Any) -> dict[str, Any]:
    """What the study finds with these of its keys changed."""
    assert study(suites.write(f"{STUDY}{TWO}STUDY.update({changes!r})\n"), "Tiny") == 0
    return found(suites.folder)


def lose_the_third_seed(suites: Suites) -> None:
    """As if it had never been trained."""
    lost = [path for path in suites.models.rglob("*seed2*") if path.is_file()]
    assert len(lost) >= 5
    for path in lost:
        path.unlink()


def seeds_of(report: dict[str, Any]) -> dict[str, list[int]]:
    return {chain["order"]: chain["seeds"] for chain in report["chains"]}


def test_a_round_adds_a_seed_to_what_is_open_until_all_are_used(all_seeds: Path) -> None:
    report = found(all_seeds)
    first, second = report["rounds"]
    assert [one["pairs"][0]["seeds"] for one in (first, second)] == [2, 3]
    assert (first["settled"], first["open"], second["open"]) == (0, 1, 1)
    assert (first["epochs"], second["epochs"]) == (2 * EPOCHS, 3 * EPOCHS)
    assert (first["stages"], second["stages"]) == (2 * 5, 3 * 5)  # train, F, P, FP, PF
    assert 0 < first["hours"] < second["hours"]
    assert seeds_of(report) == {order: [0, 1, 2] for order in ORDERS} and report["seeds"] == [
        0,
        1,
        2,
    ]
    spent = report["spent"]
    assert spent["stopped_by"] == "seeds" and spent["most_seeds"] == 3
    assert spent["seeds"] == {"min": 2, "max": 3}
    assert spent["stages"] == spent["stages_fixed"] == 15
    assert spent["hours"] == spent["hours_fixed"] == second["hours"]
    (pair,) = report["pairs"]
    assert pair["verdict"] == "open" and pair["lacking"] == "seeds" and pair["n"]["seeds"] == 3
    assert report["undecided"] == [report["order"]] and report["method"]["spending"]


def test_what_the_seeds_that_are_left_would_hardly_settle_gets_none(stored: Suites) -> None:
    report = again(stored)
    assert len(report["rounds"]) == 1 and seeds_of(report) == {order: [0, 1] for order in ORDERS}
    assert report["spent"]["stopped_by"] == "seeds" and report["pairs"][0]["lacking"] == "seeds"
    assert (report["spent"]["stages"], report["spent"]["stages_fixed"]) == (10, 15)
    assert report["spent"]["hours"] < report["spent"]["hours_fixed"]  # foreseen from two seeds
    said = stored.capsys.readouterr().out
    assert "with one more seed about ± " in said and "; 3 would hardly settle it" in said
    assert "no further round: the seeds that open pairs may get do not settle them" in said


def test_all_is_equal_within_a_wide_margin_and_nothing_more_is_trained(stored: Suites) -> None:
    lose_the_third_seed(stored)
    report = again(stored, margin=60.0, confidence=0.8)
    assert [one["settled"] for one in report["rounds"]] == [1]
    (pair,) = report["pairs"]
    assert pair["settled_in_round"] == 1 and pair["within_margin"] and pair["verdict"] == "equal"
    assert report["margin"] == report["method"]["margin"] == 60.0
    assert report["spent"]["stopped_by"] == "settled" and report["spent"]["stages"] == 10
    assert seeds_of(report) == {order: [0, 1] for order in ORDERS}
    assert not list(stored.models.rglob("*seed2*"))
    printed = stored.capsys.readouterr().out
    assert "round 1: 1 of 1 pairs settled; 10 stages, 6 epochs" in printed
    assert "no further round: every pair that can be compared is settled" in printed
    assert "equal within ±60 points" in printed
    assert "±60" in (stored.results / "report.html").read_text()
    assert StudyResult.model_validate(report).pairs[0].verdict == "equal"


def test_a_budget_stops_a_study_and_a_larger_one_goes_on(
    stored: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    hopeful(monkeypatch)
    short = again(stored, budget_epochs=3 * EPOCHS - 1)
    assert short["spent"]["stopped_by"] == "budget" and len(short["rounds"]) == 1
    assert "no further round: the next one would exceed" in stored.capsys.readouterr().out
    hours = short["rounds"][0]["hours"]
    by_hours = again(stored, budget_hours=hours / 10)  # less than the first round, which runs
    assert by_hours["spent"]["stopped_by"] == "budget"
    assert by_hours["rounds"] == short["rounds"] and by_hours["spent"]["budget_hours"] < hours
    longer = again(stored, budget_epochs=3 * EPOCHS, budget_hours=100 * hours)
    assert longer["spent"]["stopped_by"] == "seeds"
    assert longer["rounds"][:1] == short["rounds"] and len(longer["rounds"]) == 2


def comparable(report: dict[str, Any]) -> dict[str, Any]:
    """Without what two machines, or one at two times, would not have in common."""
    pairs = [{k: v for k, v in pair.items() if k not in ("at_equal", "hypervolume")}
             for pair in report["pairs"]]  # fmt: skip
    rounds = [{k: v for k, v in one.items() if k != "hours"} for one in report["rounds"]]
    spent = {k: v for k, v in report["spent"].items() if not k.startswith("hours")}
    scores = {chain["name"]: (chain["metrics"]["accuracy"], chain["test"]["accuracy"],
                              chain["drop_interval"]) for chain in report["chains"]}  # fmt: skip
    kept = ("order", "undecided", "literature", "third_stage", "seeds", "failed", "config")
    return {"pairs": pairs, "rounds": rounds, "spent": spent, "scores": scores,
            **{key: report[key] for key in kept}}  # fmt: skip


def test_a_study_interrupted_between_rounds_comes_to_the_same(
    all_seeds: Path, stored: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_the_third_seed(stored)
    hopeful(monkeypatch)
    calls = itertools.count(1)

    def interrupted(*about: Any, **how: Any) -> Any:
        if next(calls) == 2:
            raise Interrupted
        return running.run_chains(*about, **how)

    path = stored.write(STUDY + TWO)
    with monkeypatch.context() as patch:
        patch.setattr("experiment.study.run.run_chains", interrupted)
        assert study(path, "Tiny") not in (0, 1, 2)
    assert not (stored.results / "study_Tiny.json").exists()
    assert comparable(again(stored)) == comparable(found(all_seeds))


def test_a_dry_run_says_the_first_round_and_all_rounds(stored: Suites) -> None:
    assert study(stored.write(STUDY + TWO), "Tiny", "--dry-run") == 0
    printed = stored.capsys.readouterr().out
    assert "4 chains, 2 seeds; 10 different stages" in printed
    assert "rounds: the first 10 stages, 6 epochs, about 0.0 hours, all 3 seeds" in printed
    assert "every pair 15 stages, 9 epochs, about 0.0 hours" in printed
    whole = "STUDY.update(stages={**STUDY['stages'], 'Q': 'ptq'}, "
    path = stored.write(f"{STUDY}{TWO}{whole}verify=True)\n")
    assert study(path, "Tiny", "--dry-run") == 0
    assert "; then at most 3 orders of all stages" in stored.capsys.readouterr().out


def test_by_loss_the_better_order_has_the_smaller_one(
    stored: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses computed here, of networks loaded from their files."""
    hopeful(monkeypatch)
    report = again(stored, compare="loss")
    assert report["compare"] == "loss" and report["method"]["unit"] == "nats"
    suite = load_suite(stored.folder / "suite.py")
    dataset = load_dataset(suite.experiments[0].dataset_args, suite.data_dir)
    index = dataset.validation_index
    images = (dataset.arrays.train_images[index].float() / 255 - dataset.mean[0]) / dataset.std[0]
    labels = dataset.arrays.train_labels[index]
    losses: dict[str, list[float]] = {"FP": [], "PF": []}
    for order, own in losses.items():
        stages = json.loads((stored.results / f"Tiny_{order}_results.json").read_text())["stages"]
        last = {stage["seed"]: stage["checkpoint"] for stage in stages}
        assert len(last) == 3
        for checkpoint in last.values():
            with torch.inference_mode():
                own.append(F.cross_entropy(load_model(checkpoint)(images), labels).item())
    (pair,) = report["pairs"]
    better, worse = pair["first"] + pair["second"], pair["second"] + pair["first"]
    assert pair["method"] == "matched" and pair["difference"] > 0
    assert pair["difference"] == pytest.approx(
        np.mean(losses[worse]) - np.mean(losses[better]), abs=2e-3
    )
    told = {p["first"]: p for p in report["rounds"][-1]["pairs"]}["F"]
    assert told["difference"] == pytest.approx(
        pair["difference"] * (1 if pair["first"] == "F" else -1)
    )
    assert "nats" in stored.capsys.readouterr().out


def test_whole_orders_are_run_beside_pairs(stored: Suites) -> None:
    """With a stage more, and one seed, of which most is stored."""
    path = stored.write(
        f"{STUDY}{TWO}STUDY.update(stages={{**STUDY['stages'], 'Q': 'ptq'}}, seeds=[0], "
        "verify=True, margin=60.0)\n"
    )
    assert study(path, "Tiny") == 0
    report = found(stored.folder)
    verified = report["verification"]
    a, b, c = predicted = "".join(report["order"])
    assert verified["predicted"] == predicted and verified["confirmed"] is True
    assert {one["order"]: one["why"] for one in verified["orders"]} == {
        b + a + c: f"{a} and {b} exchanged",
        a + c + b: f"{b} and {c} exchanged",
    }
    rows = {chain["order"]: chain["metrics"]["accuracy"]["mean"] for chain in report["chains"]}
    for one in verified["orders"]:
        assert one["difference"] == pytest.approx(rows[predicted] - rows[one["order"]])
    cases = {(case["first"], case["second"], case["between"]) for case in
             report["third_stage"]["cases"]}  # fmt: skip
    assert {(frozenset(two), third) for *two, third in cases} == {
        (frozenset(a + b), c), (frozenset(b + c), a)
    }  # fmt: skip
    assert report["spent"]["stopped_by"] == "fixed" and len(report["rounds"]) == 1
    assert report["spent"]["stages"] == 1 + 3 + 6 + 3
    assert "a third stage does not turn a pair round" in {c["claim"] for c in report["literature"]}
    said = stored.capsys.readouterr().out
    assert f"orders of all stages: {predicted}, as pairs predict, and 2 others" in said
    assert f"none is better than {predicted}" in said
