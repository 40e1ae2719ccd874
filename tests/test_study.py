"""Order studies: the statistics on planted answers and by hand, and whole studies on Digits."""

from __future__ import annotations

import ast
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import main
from dataset import load_dataset
from experiment.study.analysis import Analysis, Evidence, Reference
from experiment.study.plan import load_study
from experiment.study.recommend import parse_wish, recommendation
from experiment.study.statistics import Points, Resampling, compare, hypervolume, kendall, rank
from experiment.study.validation import OnValidation, with_shared_latency
from experiment.suite.messages import ConfigError
from experiment.suite.schema import load_suite
from stages import STAGES, Stage
from stages.finetuning import FinetuneSpec
from tests.conftest import SUITE, Suites
from utils import load_model

HOME = Path(__file__).parents[1]
SEEDS, IMAGES = 2, 1500


# --- planted answers ----------------------------------------------------------------------------


def planted(
    letters: str,
    effect: Callable[[str], float],
    *,
    orders: list[str] | None = None,
    cost: Callable[[str, int], float] = lambda order, strength: 1e6 / 2**strength,
    strengths: int = 2,
) -> Analysis:
    """A study whose order `o` gets a share 0.8 + effect(o) right, less at the second strength.

    Images differ in difficulty, the same for every chain, and each network errs by itself too.
    """
    random = np.random.default_rng(0)
    difficulty = random.random(IMAGES)
    orders = orders or ["".join(pair) for pair in itertools.permutations(letters, 2)]
    evidence = []
    for order in orders:
        for strength in range(strengths):
            noise = random.random((SEEDS, IMAGES))
            hard = 0.8 * difficulty + 0.2 * noise
            hard = hard.argsort(axis=1).argsort(axis=1) / IMAGES  # uniform, so shares are exact
            luck = random.normal(0, 0.002, (SEEDS, 1))
            correct = hard < 0.8 + effect(order) - 0.02 * strength + luck
            costs = np.full(SEEDS, cost(order, strength))
            at = tuple((letter, strength) for letter in sorted(order))
            evidence.append(
                Evidence(
                    f"{order}_{strength}", order, at, correct,
                    {"bitops": costs, "latency_ms": costs / 1e6},
                )
            )  # fmt: skip
    return Analysis(letters, orders, evidence, Reference(10.0, {"bitops": 2e6, "latency_ms": 2.0}))


def by_pairs(*better: str) -> Callable[[str], float]:
    """Three points for every pair that an order has as `better` says, in any distance."""

    def effect(order: str) -> float:
        return 0.03 * sum("".join(pair) in better for pair in itertools.combinations(order, 2))

    return effect


def test_a_planted_order_is_recovered() -> None:
    found = planted("QPED", by_pairs("DP", "DQ", "DE", "PQ", "PE", "QE")).findings()
    assert found["order"] == ["D", "P", "Q", "E"]
    assert found["order_is_certain"] and not found["undecided"] and not found["cycles"]
    assert len(found["pairs"]) == 6
    for pair in found["pairs"]:
        low, high = pair["interval"]
        assert pair["decided"] and 0 < low < pair["difference"] < high
        assert abs(pair["difference"] - 3) < 0.5 and pair["win_probability"] > 0.99
        assert pair["n"] == {"seeds": 2, "strengths": 2, "images": IMAGES}
        assert pair["wins"] == [4, 4] and pair["method"] == "matched"
        assert pair["at_equal"]["latency_ms"]["decided"]
        volumes = pair["hypervolume"]["bitops"]
        assert volumes["decided"] and volumes["first"] > volumes["second"]


def test_a_planted_tie_is_undecided() -> None:
    found = planted("PQ", by_pairs()).findings()
    (pair,) = found["pairs"]
    assert not pair["decided"] and pair["reason"] == "the interval contains 0"
    assert pair["interval"][0] <= 0 <= pair["interval"][1]
    assert found["undecided"] == [found["order"]] and not found["order_is_certain"]
    assert 0.5 <= pair["win_probability"] < 0.975


def test_equal_answers_are_said_to_be_equal() -> None:
    study = planted("PQ", by_pairs())
    (one, other) = [e for e in study.evidence if e.strengths[0][1] == 0]
    twin = Evidence(other.name, other.order, other.strengths, one.correct, one.costs)
    (pair,) = Analysis("PQ", ["PQ", "QP"], [one, twin], study.reference).pairs
    assert pair["difference"] == 0 and pair["interval"] == [0, 0]
    assert pair["win_probability"] == 0.5 and not pair["decided"]
    assert pair["reason"] == "both orders answer every image alike"


def test_a_planted_cycle_is_reported() -> None:
    found = planted("PQDE", by_pairs("PQ", "QD", "DP", "PE", "QE", "DE")).findings()
    assert found["cycles"] == [["D", "P", "Q"]]
    assert found["order"][-1] == "E" and not found["order_is_certain"]
    assert not found["undecided"]


def test_a_stage_between_that_turns_a_pair_is_found() -> None:
    orders = ["".join(o) for n in (2, 3) for o in itertools.permutations("PQD", n)]
    straight = by_pairs("PQ", "PD", "QD")

    def effect(order: str) -> float:
        return -straight(order) if order in ("PDQ", "QDP") else straight(order)

    third = planted("PQD", effect, orders=orders).findings()["third_stage"]
    assert third["flips"] == 1 and third["holds"] == 2 and third["open"] == 0
    (case,) = [case for case in third["cases"] if case["verdict"] == "flips"]
    assert (case["first"], case["second"], case["between"]) == ("P", "Q", "D")


def test_pairs_predict_permutations_that_are_made_of_them() -> None:
    orders = ["".join(o) for n in (2, 3, 4) for o in itertools.permutations("PQDE", n)]
    effect = by_pairs("DP", "DQ", "DE", "PQ", "PE", "QE")
    found = planted("PQDE", effect, orders=orders).findings()["permutations"]
    assert found["n"] == 24
    assert found["kendall_tau"] > 0.85 and found["p_value"] < 0.001
    assert found["predicted_best"] == found["measured_best"] == "DPQE"
    assert found["ranking"][0]["order"] == "DPQE" and found["ranking"][-1]["order"] == "EQPD"
    steps = [row["measured"] for row in found["ranking"]]
    assert steps == sorted(steps, reverse=True)


def test_without_common_costs_only_the_cheaper_and_better_leads() -> None:
    def effect(order: str) -> float:
        return 0.05 if order == "PQ" else 0.0

    def cheap(order: str, strength: int) -> float:
        return 1e6 / 2**strength * (0.1 if order == "PQ" else 1)

    (pair,) = planted("PQ", effect, cost=cheap).pairs
    assert pair["method"] == "dominance" and pair["decided"] and pair["first"] == "P"
    # the better one's accuracy at its dearest, the other's at its cheapest: 85 and 78
    assert pair["difference"] == pytest.approx(7, abs=0.6)

    def dear(order: str, strength: int) -> float:
        return 1e6 / 2**strength * (10 if order == "PQ" else 1)

    (pair,) = planted("PQ", effect, cost=dear).pairs
    assert pair["difference"] is None and not pair["decided"]
    assert pair["reason"] == "there are no common costs, and the cheaper order is less accurate"


def test_a_failed_order_leaves_its_pair_open() -> None:
    study = planted("PQ", by_pairs("PQ"))
    left = [chain for chain in study.evidence if chain.order == "PQ"]
    found = Analysis("PQ", ["PQ", "QP"], left, study.reference).findings()
    assert found["pairs"][0]["reason"] == "chains of these orders failed"
    assert found["undecided"] == [["P", "Q"]]
    nothing = Analysis("PQ", ["PQ", "QP"], [], study.reference).findings()
    assert nothing["undecided"] and not nothing["pairs"][0]["decided"]


# --- by hand ------------------------------------------------------------------------------------


def points(cost: list[float], accuracy: list[float]) -> Points:
    column = np.array(accuracy, dtype=float)[:, None]
    return Points(column, np.repeat(column[None], 3, axis=0), np.array(cost)[:, None])


def test_curves_are_compared_where_both_have_costs() -> None:
    """Two knots make a line over log cost: 80 → 90 from 1 to 100, 70 → 90 from 10 to 1000.

    Both have 10 to 100; there the first rises from 85 to 90, the second from 70 to 80.
    """
    found = compare(points([1, 100], [80, 90]), points([10, 1000], [70, 90]), 0.05)
    assert found.method == "interpolated" and found.cost_range == pytest.approx((10, 100))
    assert found.differences is not None
    assert found.differences[:, 0] == pytest.approx([87.5 - 75] * 4)


def test_curves_are_made_monotone() -> None:
    """84 then 82 fall; isotonic regression makes them 83 and 83, so the second decade is flat."""
    found = compare(points([1, 10, 100], [80, 84, 82]), points([10, 100, 1000], [70] * 3), 0.05)
    assert found.differences is not None
    assert found.differences[0, 0] == pytest.approx(83 - 70)


def test_one_point_is_compared_with_the_curve_at_its_cost() -> None:
    found = compare(points([10], [80]), points([1, 100], [70, 80]), 0.05)
    assert found.method == "interpolated" and found.differences is not None
    assert found.differences[0, 0] == pytest.approx(80 - 75)


def test_nearly_equal_costs_count_as_equal() -> None:
    one, other = points([100, 10], [90, 80]), points([104, 9.7], [89, 78])
    found = compare(one, other, 0.05)
    assert found.method == "matched" and found.differences is not None
    assert found.differences[0, 0] == pytest.approx((1 + 2) / 2)
    assert compare(one, points([110, 10], [89, 78]), 0.05).method == "interpolated"
    alone = compare(points([100], [90]), points([120], [80]), 0.05)
    assert alone.method == "dominance"


def test_hypervolume_by_hand() -> None:
    """From 10 to 100 it is 60 - 50 high, from 100 to 1000 it is 80 - 50."""
    assert hypervolume(points([100, 10], [80, 60]), 50, 1000)[0, 0] == pytest.approx(10 + 30)
    dominated = points([100, 10, 300], [80, 60, 70])
    assert hypervolume(dominated, 50, 1000)[0, 0] == pytest.approx(40)
    beyond = points([100, 10, 5000, 1], [80, 60, 99, 40])
    assert hypervolume(beyond, 50, 1000)[:, 0] == pytest.approx([40] * 4)


def test_kendalls_tau_by_hand() -> None:
    predicted, measured = [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0]
    tau, p = kendall(predicted, measured)
    pairs = list(itertools.combinations(range(4), 2))
    signs = [np.sign((predicted[i] - predicted[j]) * (measured[i] - measured[j])) for i, j in pairs]
    assert tau == pytest.approx(sum(signs) / len(pairs)) == pytest.approx(4 / 6)
    assert p == pytest.approx(8 / 24)  # 8 of the 24 rankings of 4 agree or differ at least as much


def test_undecided_pairs_are_put_by_their_estimates() -> None:
    before = {("A", "B"): 1.0, ("B", "A"): -1.0, ("B", "C"): 2.0, ("C", "B"): -2.0}
    found = rank("CBA", before, set())
    assert found.order[-1] == "C" and not found.certain
    chained = rank("CBA", before, {("A", "B"), ("B", "C")})
    assert chained.order == ["A", "B", "C"] and chained.certain


# --- intervals ----------------------------------------------------------------------------------


def test_with_one_seed_the_interval_is_that_of_paired_images() -> None:
    random = np.random.default_rng(1)
    one = random.random(2000) < 0.9
    other = np.where(random.random(2000) < 0.05, ~one, one)
    sampling = Resampling(2000, 1)
    found = sampling.accuracies(np.stack([one, other])[:, None])  # [R, 2, 1]
    differences = np.concatenate([[[100 * (one.mean() - other.mean())]], found[:, 0] - found[:, 1]])
    estimate = sampling.estimate(differences, 0.95)
    each = 100 * (one.astype(float) - other)
    half = stats.norm.ppf(0.975) * each.std() / math.sqrt(2000)
    low, high = estimate.interval
    assert (high - low) / 2 == pytest.approx(half, rel=0.07)
    assert estimate.difference == pytest.approx(each.mean())


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_count_with_their_unbiased_variance(seeds: int) -> None:
    sampling = Resampling(10, seeds, count=30_000)
    values = np.random.default_rng(2).normal(size=seeds)
    spread = (sampling.seed_weights @ values).var()
    assert spread == pytest.approx(values.var(ddof=1) / seeds, rel=0.05)
    assert sampling.seed_weights.sum(axis=1) == pytest.approx(np.ones(30_000))


@pytest.mark.parametrize(
    ("seeds", "luck", "least", "most"),
    [(3, 0.0, 0.93, 1.0), (3, 0.01, 0.93, 1.0), (2, 0.08, 0.7, 0.97)],  # README says how far
)
def test_intervals_cover_what_is_true(seeds: int, luck: float, least: float, most: float) -> None:
    """95 % intervals of no difference, over new images and new networks each time."""
    random = np.random.default_rng(3)
    covered, runs, images = 0, 100, 200
    for run in range(runs):
        difficulty = random.random(images)
        shares = 0.85 + random.normal(0, luck, (2, seeds, 1))
        correct = 0.7 * difficulty + 0.3 * random.random((2, seeds, images)) < shares
        sampling = Resampling(images, seeds, count=300, seed=run)
        found = sampling.accuracies(correct)
        measured = 100 * correct.mean(axis=2)[None]
        both = np.concatenate([measured, found])
        estimate = sampling.estimate(both[:, 0] - both[:, 1], 0.95)
        covered += estimate.interval[0] <= 0 <= estimate.interval[1]
    assert least <= covered / runs <= most


def test_equal_networks_share_their_latency() -> None:
    def run(form: str, time: float) -> OnValidation:
        times = {"batch_1": {"median": time}, "batch_64": {"median": 10 * time}}
        return OnValidation(np.ones(3, bool), {"inference_time_ms": times}, form)

    found = {"PQ": [run("a", 1.0), run("b", 2.0)], "QP": [run("a", 4.0), run("a", 2.0)]}
    shared = with_shared_latency(found)
    taken = {
        name: [r.metrics["inference_time_ms"]["batch_1"]["median"] for r in runs]
        for name, runs in shared.items()
    }
    assert taken == {"PQ": [2.0, 2.0], "QP": [2.0, 2.0]}
    assert found["PQ"][0].metrics["inference_time_ms"]["batch_1"]["median"] == 1.0


# --- whole studies ------------------------------------------------------------------------------

STUDY = """
DEFAULT_DATASET_CONFIG = {"name": "Digits", "validation_share": 0.3}
DEFAULT_COMPRESSION_PARAMS["finetune_epochs"] = 1
STUDY = {
    "name": "Tiny",
    "baseline": "Base",
    "stages": {"P": [{"prune": {"mode": "structural"}}, "finetune"], "Q": {"qat": {"epochs": 1}}},
    "strengths": {"P": [{"ratio": 0.3}, {"ratio": 0.6}]},
    "seeds": [0, 1],
}
ORDER_STUDIES = [STUDY]
"""


def study(path: Path, *arguments: str) -> int:
    return main.main(["study", *arguments, "--config", str(path)])


@pytest.fixture(scope="module")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that has been run; its config."""
    folder = tmp_path_factory.mktemp("study")
    path = folder / "suite.py"
    path.write_text(SUITE.format(folder=folder) + STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("machine.timing.LATENCY_SECONDS", 0.01)
        assert study(path, "Tiny") == 0
    return path


@pytest.fixture
def report(tiny_study: Path) -> dict[str, Any]:
    return json.loads((tiny_study.parent / "results" / "study_Tiny.json").read_text())


def test_a_study_runs_end_to_end(report: dict[str, Any]) -> None:
    names = [chain["name"] for chain in report["chains"]]
    assert names == [
        "Tiny_P_p0", "Tiny_P_p1", "Tiny_Q", "Tiny_PQ_p0", "Tiny_PQ_p1", "Tiny_QP_p0", "Tiny_QP_p1",
    ]  # fmt: skip
    assert report["status"] == "done" and not report["failed"] and not report["cycles"]
    assert sorted(report["order"]) == ["P", "Q"]
    (pair,) = report["pairs"]
    assert {pair["first"], pair["second"]} == {"P", "Q"}
    assert pair["n"] == {"seeds": 2, "strengths": 2, "images": report["splits"]["images"]}
    assert pair["decided"] is (report["undecided"] == [])
    assert pair["chains"]["PQ"] == ["Tiny_PQ_p0", "Tiny_PQ_p1"]
    epochs = {chain["order"]: chain["epochs"] for chain in report["chains"]}
    assert epochs == {"P": 1, "Q": 1, "PQ": 2, "QP": 2}
    assert report["splits"]["decisions"] == "validation"
    assert report["third_stage"] is None and report["permutations"] is None
    for chain in report["chains"]:
        figures = chain["metrics"]
        assert figures["accuracy"]["n"] == 2 and figures["bitops"]["mean"] > 0
        drop = report["baseline"]["metrics"]["accuracy"]["mean"] - figures["accuracy"]["mean"]
        assert chain["accuracy_drop"] == pytest.approx(drop)
    assert report["findings"][0]["kind"] == "order"
    assert report["findings"][0]["text"].startswith("order: ")


def test_figures_are_of_the_validation_share(report: dict[str, Any], tiny_study: Path) -> None:
    """Against a network loaded from its file, and the images by hand."""
    suite = load_suite(tiny_study)
    dataset = load_dataset(suite.experiments[0].dataset_args, suite.data_dir)
    index = dataset.validation_index
    pixels = dataset.arrays.train_images[index].float() / 255
    images = (pixels - dataset.mean[0]) / dataset.std[0]
    assert report["splits"]["images"] == len(index) == 432
    chain = next(c for c in report["chains"] if c["name"] == "Tiny_PQ_p1")
    accuracies = []
    for seed in ("", "_seed1"):
        name = f"Tiny_PQ_p1{seed}_p60_f_quantized_qat_int8.pth"
        network = load_model(tiny_study.parent / "models" / name)
        with torch.inference_mode():
            right = network(images).argmax(1) == dataset.arrays.train_labels[index]
        accuracies.append(100 * right.double().mean().item())
    assert chain["metrics"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracies), abs=0.2)
    single = json.loads((tiny_study.parent / "results" / chain["results_file"]).read_text())
    assert chain["test"]["accuracy"] == single["final"]["accuracy"]
    assert chain["metrics"]["loss"]["mean"] != single["final"]["loss"]["mean"]
    for name in ("macs", "bitops", "model_size_mb"):
        assert chain["metrics"][name] == single["final"][name]


def test_a_second_run_computes_nothing_and_finds_the_same(
    report: dict[str, Any],
    tiny_study: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("it ran again")

    monkeypatch.setattr("experiment.running.step.Context", refuse)
    monkeypatch.setattr("experiment.study.validation.deploy", refuse)
    assert study(tiny_study, "Tiny") == 0
    printed = capsys.readouterr().out
    assert "every chain is in the store" in printed and "order: " in printed
    assert "[1/" not in printed  # no stage is told again
    again = json.loads((tiny_study.parent / "results" / "study_Tiny.json").read_text())
    for changing in ("started", "written", "command"):
        report.pop(changing), again.pop(changing)
    assert report == again


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


def test_gc_keeps_what_a_study_names(tiny_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["store", "gc", "--config", str(tiny_study)]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert main.main(["store", "verify", "--config", str(tiny_study)]) == 0


def test_a_recommended_chain_is_a_ready_entry(
    tiny_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(tiny_study, "Tiny", "--recommend", "accuracy_drop<=100, min bitops") == 0
    printed = capsys.readouterr().out
    text = printed[printed.index("# Tiny_") :]
    (entry,) = ast.literal_eval("[" + "".join(text.splitlines(keepends=True)[3:]) + "]")
    assert entry["name"] in ("Tiny_PQ_p1_chosen", "Tiny_QP_p1_chosen")
    more = tiny_study.with_name("more.py")
    more.write_text(f"{tiny_study.read_text()}\nEXPERIMENT_CONFIGS += [\n{text}]\n")
    assert main.main(["--config", str(more), "--only", entry["name"], "--dry-run"]) == 0
    assert "0 resumable, 0 to run" in capsys.readouterr().out


def test_a_chain_that_fails_is_recorded_and_the_rest_go_on(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    def picky(state: Any, spec: Any, ctx: Any) -> Any:
        if state.quant is not None:
            raise RuntimeError("not after Q")
        return state

    monkeypatch.setitem(STAGES, "finetune", Stage(FinetuneSpec, picky))
    changes = "STUDY.update(strengths={}, seeds=[0])\n"
    path = suites.write(f"{STUDY}{changes}STUDY['stages'] = {{'F': 'finetune', 'Q': 'ptq'}}\n")
    assert study(path, "Tiny", "--recommend", "min bitops") == 1
    found = json.loads((suites.results / "study_Tiny.json").read_text())
    assert found["status"] == "failed" and found["failed"] == ["Tiny_QF"]
    rows = {chain["name"]: chain for chain in found["chains"]}
    assert rows["Tiny_QF"]["errors"][0]["message"] == "not after Q"
    assert "metrics" in rows["Tiny_FQ"] and "metrics" not in rows["Tiny_QF"]
    assert found["pairs"][0]["reason"] == "chains of these orders failed"
    assert found["undecided"] == [["F", "Q"]]
    said = suites.capsys.readouterr().out
    assert "failed: Tiny_QF" in said and "_chosen" in said


# --- plans --------------------------------------------------------------------------------------


def test_every_chain_spends_the_study_s_epochs(suites: Suites) -> None:
    path = suites.write(STUDY + "STUDY['epochs'] = 5\n")
    found = load_study(path, "Tiny")
    assert set(found.epochs.values()) == {5}
    sequences = {link.name: link.written[-1] for link in found.links}
    assert sequences["Tiny_Q"] == {"finetune": {"epochs": 4}}
    assert sequences["Tiny_QP_p0"] == {"finetune": {"epochs": 3}}


def test_permutations_hold_all_shorter_orders(suites: Suites) -> None:
    changes = "STUDY.update(orders='permutations', strengths={'P': [{'ratio': 0.5}]})\n"
    path = suites.write(f"{STUDY}{changes}STUDY['stages']['F'] = 'finetune'\n")
    found = load_study(path, "Tiny")
    assert [link.order for link in found.links] == [
        "P", "Q", "F", "PQ", "PF", "QP", "QF", "FP", "FQ",
        "PQF", "PFQ", "QPF", "QFP", "FPQ", "FQP",
    ]  # fmt: skip
    assert found.links[3].name == "Tiny_PQ"


def test_the_shipped_studies_are_sound() -> None:
    digits = load_study(HOME / "configs" / "order_study_digits.py", "Digits")
    assert {link.order for link in digits.links} >= {"DP", "PD", "QE", "EQ"}
    cifar = load_study(HOME / "configs" / "order_study_cifar10.py", "CIFAR10")
    assert sum(len(link.order) == 4 for link in cifar.links) == 48
    with pytest.raises(ConfigError, match="data/cifar10/train is not a folder"):
        load_study(HOME / "configs" / "order_study_folder.py", "Folder_Pairs")


# --- mistakes -----------------------------------------------------------------------------------

MISTAKES = {
    "ORDER_STUDIES = 5": "ORDER_STUDIES: 5 should be a list of dicts",
    "ORDER_STUDIES = [7]": "ORDER_STUDIES[0]: 7 is not a dict",
    "ORDER_STUDIES.append(STUDY)": "Tiny: another study has this name",
    "STUDY['name'] = 'a/b'": "a/b.name: 'a/b' should have only letters",
    "STUDY['stage'] = STUDY.pop('stages')": "Tiny.stage: 'stage' is not known; did you mean",
    "STUDY['baseline'] = 'Bas'": "Tiny.baseline: 'Bas' is not an experiment; did you mean 'Base'?",
    "EXPERIMENT_CONFIGS.append(chain('C', 'ptq')); STUDY['baseline'] = 'C'": "Tiny.baseline: 'C' "
    "is not a baseline; set its is_fp32_baseline_generation",
    "STUDY['stages'] = {'PQ': 'ptq', 'Q': 'qat'}; STUDY['strengths'] = {}": "Tiny.stages: 'PQ' "
    "should be one capital letter",
    "STUDY['stages'] = {'P': 'ptq'}; STUDY['strengths'] = {}": "Tiny.stages: P alone has no order",
    "STUDY['stages']['Q'] = []": "Tiny.stages.Q: should name a stage",
    "STUDY['stages']['Q'] = 7": "Tiny.stages: 7 should be a valid string",
    "STUDY['stages']['Q'] = {'ptq': {}, 'qat': {}}": "Tiny.stages.Q: {'ptq': {}, 'qat': {}} "
    "should be {stage: options}",
    "STUDY['stages']['Q'] = 'qta'": "Tiny.stages.Q: 'qta' is not a stage; did you mean 'qat'?",
    "STUDY['stages']['Q'] = {'qat': {'epoch': 1}}": "Tiny.stages.Q.epoch: 'epoch' is not known",
    "STUDY['strengths']['P'][1]['ratio'] = 2.0": "Tiny.stages.P[0] with strengths.P[1].ratio: 2.0 "
    "should be less than 1",
    "STUDY['strengths']['R'] = [{}]": "Tiny.strengths: 'R' is not one of the stages; allowed: P, Q",
    "STUDY['strengths']['P'] = []": "Tiny.strengths.P: should list at least one dict of options",
    "STUDY['orders'] = 'pair'": "Tiny.orders: 'pair' should be 'pairs' or 'permutations' or",
    "STUDY['orders'] = []": "Tiny.orders: should be 'pairs', 'permutations' or a list",
    "STUDY['orders'] = ['PR']": "Tiny.orders: 'PR' should be made of the letters P, Q",
    "STUDY['orders'] = ['PQP']": "Tiny.orders: 'PQP' has a letter twice",
    "STUDY['orders'] = ['PQ', 'PQ']": "Tiny.orders: one stands twice",
    "STUDY['seeds'] = [0, 0]": "Tiny.seeds: [0, 0] should be different whole numbers",
    "STUDY['epochs'] = 1": "Tiny.epochs: 1, but the stages of Tiny_PQ_p0 train 2",
    "STUDY['cost'] = 'macs'": "Tiny.cost: 'macs' should be 'bitops' or 'latency_ms'",
    "STUDY['strengths'] = {'Q': [{}, {'epochs': 3}], 'P': [{'ratio': 0.5}]}": "Tiny: Tiny_Q_q0 "
    "trains 1 epochs and Tiny_Q_q1 3, so that they cannot be compared; set 'epochs' to 4",
    "DEFAULT_DATASET_CONFIG['validation_share'] = 0.0": "validation_share: 0.0 should be greater",
    "EXPERIMENT_CONFIGS.append(chain('tiny_pq_p0', 'ptq'))": "Tiny: its chain Tiny_PQ_p0 has an "
    "experiment's name",
    "BASE['seeds'] = [0]": "Tiny: seed 1 is not among the seeds [0] of its baseline Base",
    "STUDY['stages'] = {'Q': {'ptq': {'float_layers': ['head']}}, 'P': {'prune': {'mode': "
    "'structural', 'targets': ['depth']}}}": "Tiny.stages.P with strengths.P[0]: target 'depth'",
}


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text[:60])
def test_mistakes_get_one_clear_line(suites: Suites, text: str) -> None:
    path = suites.write(f"{STUDY}\n{text}\n")
    assert study(path, "Tiny", "--dry-run") == 2
    captured = suites.capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert "Traceback" not in captured.err and not suites.models.exists()
    assert MISTAKES[text] in lines[0]
    assert len(lines) == 1 or "depth" in text, lines


def test_an_unknown_study(suites: Suites) -> None:
    assert study(suites.write(STUDY), "Tin") == 2
    assert "'Tin' is not a study; did you mean 'Tiny'?" in suites.capsys.readouterr().err


# --- wishes -------------------------------------------------------------------------------------


def row(name: str, drop: float, latency: float, bitops: float = 1.0) -> dict[str, Any]:
    figures = {
        "accuracy": 90 - drop, "latency_ms_batch_1": latency, "latency_ms_batch_64": 1.0,
        "bitops": bitops, "model_size_mb": 1.0, "macs": 1, "params": 1,
    }  # fmt: skip
    metrics = {key: {"mean": value, "std": None, "n": 1} for key, value in figures.items()}
    return {"name": name, "accuracy_drop": drop, "metrics": metrics, "config": {"name": name},
            "device": "cpu", "test": {"accuracy": {"mean": 1.0}, "accuracy_drop": 0.0}}  # fmt: skip


ROWS = {
    "study": "S",
    "splits": {"images": 9},
    "chains": [row("A", 0.1, 3.0), row("B", 0.4, 2.0, 5e6), row("C", 0.9, 1.0), {"name": "failed"}],
}


@pytest.mark.parametrize(
    ("wish", "chosen"),
    [
        ("accuracy_drop<=0.5, min latency_ms", "B"),
        ("min latency_ms", "C"),
        ("max accuracy", "A"),
        ("latency_ms < 3.0, max accuracy", "B"),
        ("bitops<=1e6,accuracy>=89.5 , min latency_ms", "A"),
        ("min params", "A"),  # all alike: the most accurate
    ],
)
def test_wishes(wish: str, chosen: str) -> None:
    met, text = recommendation(parse_wish(wish), ROWS)
    assert met and f"'{chosen}_chosen'" in text


def test_a_wish_that_nothing_meets_names_the_nearest() -> None:
    wish = parse_wish("accuracy_drop<=0.2, latency_ms<=1.9, min bitops")
    met, text = recommendation(wish, ROWS)
    assert not met and len(text.splitlines()) == 1
    # A is 1.1 / 1.9 over, B 0.2 points and 0.1 / 1.9, C 0.7 points
    assert text == (
        "no chain meets accuracy_drop<=0.2, latency_ms<=1.9; the nearest is B with accuracy_drop "
        "0.4, latency_ms 2"
    )


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
