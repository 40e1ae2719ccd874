"""The report's figures by hand: fronts, best chains, and what each stage brought."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from experiment.report.page import page, times
from experiment.report.reader import read_folder
from experiment.report.rows import best, effects, front, pareto, signed
from experiment.running.metrics import FIGURES, not_its_baseline
from tests.support.report_rows import rows
from tests.support.report_samples import metrics, write


def test_a_pareto_front_by_hand() -> None:
    points = [
        ("cheap", 1, 80.0),
        ("beaten", 2, 79.0),
        ("middle", 2, 85.0),
        ("twin", 2, 85.0),  # equal to middle: neither beats the other
        ("dear", 5, 85.0),  # no more accurate than middle
        ("best", 6, 90.0),
    ]
    assert pareto(points) == ["cheap", "middle", "twin", "best"]
    assert pareto([]) == []


def test_a_pareto_front_is_what_nothing_beats() -> None:
    random.seed(3)
    points = [(str(i), random.randint(0, 9), float(random.randint(0, 9))) for i in range(60)]
    unbeaten = {
        name
        for name, cost, accuracy in points
        if not any(c <= cost and a >= accuracy and (c < cost or a > accuracy) for _, c, a in points)
    }
    assert set(pareto(points)) == unbeaten


def test_the_best_chain_under_each_drop_by_hand(small: Path) -> None:
    by_name = rows(small)
    found = {
        (limit, cost): chain.name if (chain := best(by_name.values(), limit, cost)) else None
        for limit in (0.05, 0.5, 1.0, 2.0)
        for cost in ("bitops", "model_size_mb", "latency_ms_batch_1")
    }
    # drops: E 0.1, Q 0.5, PF 0.8, PFQ 1.4, Slow 3
    assert found == {
        (0.05, "bitops"): None, (0.05, "model_size_mb"): None, (0.05, "latency_ms_batch_1"): None,
        (0.5, "bitops"): "Q", (0.5, "model_size_mb"): "Q", (0.5, "latency_ms_batch_1"): "E",
        (1.0, "bitops"): "Q", (1.0, "model_size_mb"): "Q", (1.0, "latency_ms_batch_1"): "E",
        (2.0, "bitops"): "PFQ", (2.0, "model_size_mb"): "PFQ", (2.0, "latency_ms_batch_1"): "E",
    }  # fmt: skip


def test_of_equal_chains_the_shorter_is_the_best(tmp_path: Path) -> None:
    write(tmp_path, "Base", [("train", metrics(90.0))], baseline=None)
    write(tmp_path, "A_long", [("prune", metrics(50.0)), ("qat", metrics(90.0, bitops=1))])
    write(tmp_path, "Q", [("ptq", metrics(90.0, bitops=1))])
    chosen = best(rows(tmp_path).values(), 1.0, "bitops")
    assert chosen is not None and chosen.name == "Q"


def test_a_chain_no_cheaper_or_not_done_is_never_the_best(tmp_path: Path) -> None:
    write(tmp_path, "Base", [("train", metrics(90.0))], baseline=None)
    write(tmp_path, "Same", [("ptq", metrics(90.0))])
    write(tmp_path, "Failed", [("ptq", metrics(90.0, bitops=1))], status="failed")
    found = list(rows(tmp_path).values())
    assert best(found, 2.0, "bitops") is None
    assert front(found, "bitops") == ["Base", "Same"]


def test_what_each_stage_brought_by_hand(small: Path) -> None:
    found = {effect.kind: effect for effect in effects(rows(small).values())}
    pruning = found["pruning (structural) + finetune"]
    assert pruning.uses == 1  # PF and PFQ share it
    assert pruning.points == pytest.approx((-0.8, -0.8, -0.8))
    assert pruning.ratios["macs"] == pytest.approx((0.5, 0.5, 0.5))
    int8 = found["int8 (ptq)"]
    assert int8.uses == 3  # Q: -0.5, PFQ: -0.6 after PF, Slow: -3
    assert int8.points == pytest.approx((-0.6, -3.0, -0.5))
    assert int8.ratios["model_size_mb"] == pytest.approx((0.25, 0.25, 0.25))
    assert int8.ratios["latency_ms_batch_1"] == pytest.approx((0.5 / 0.6, 0.8, 3.0))


def test_a_prune_without_training_after_it_says_so(tmp_path: Path) -> None:
    write(tmp_path, "Base", [("train", metrics(90.0))], baseline=None)
    write(tmp_path, "P", [("prune", metrics(50.0)), ("ptq", metrics(49.0))])
    assert [e.kind for e in effects(rows(tmp_path).values())] == [
        "int8 (ptq)",
        "pruning (structural), nothing after",
    ]


def test_changes_are_against_the_same_seeds(tmp_path: Path) -> None:
    write(tmp_path, "Base", [("train", metrics(90.0))], baseline=None, seeds=(0, 1, 2), spread=1.0)
    write(tmp_path, "Q", [("ptq", metrics(89.0))], seeds=(1, 2), spread=2.0)
    chain = rows(tmp_path)["Q"]
    # baseline at seeds 1 and 2: 91 and 92; the chain: 91 and 93
    assert chain.drop == pytest.approx(91.5 - 92)
    assert chain.final["accuracy"].std == pytest.approx(2**0.5)
    cells = page(read_folder(tmp_path))["rows"][1]["cells"]
    assert cells["accuracy"][:2] == ("92.00", "± 1.41 (2) +0.50")


def test_the_validation_share_chooses_and_the_test_split_does_not(tmp_path: Path) -> None:
    write(tmp_path, "Base", [("train", metrics(90.0, validation=91.0))], baseline=None)
    flattered = metrics(90.0, validation=88.0, bitops=10**6)  # best by the test split alone
    write(tmp_path, "Flattered", [("ptq", flattered)])
    write(tmp_path, "Sound", [("ptq", metrics(88.0, validation=90.5, bitops=10**7))])
    by_name = rows(tmp_path)
    chosen = best(by_name.values(), 1.0, "bitops")
    assert chosen is not None and chosen.name == "Sound"
    assert (chosen.drop, chosen.test_change) == pytest.approx((0.5, -2.0))
    assert front(by_name.values(), "bitops") == ["Flattered", "Sound", "Base"]
    said = page(read_folder(tmp_path))
    assert said["headlines"][0].endswith(
        "validation 90.50\N{NO-BREAK SPACE}% (−0.50), test 88.00\N{NO-BREAK SPACE}% (−2.00)."
    )


def test_nothing_is_chosen_without_validation_figures(tmp_path: Path) -> None:
    for name, bitops, baseline in (("Base", 10**9, None), ("Q", 10**6, "Base")):
        old = metrics(90.0, bitops=bitops)
        del old["validation"]
        write(tmp_path, name, [("ptq" if baseline else "train", old)], baseline=baseline)
    found = list(rows(tmp_path).values())
    assert best(found, 2.0, "bitops") is None and front(found, "bitops") == []
    assert any(
        "without validation figures" in line for line in page(read_folder(tmp_path))["problems"]
    )


def test_a_chain_is_compared_with_the_network_it_began_from_alone(tmp_path: Path) -> None:
    write(tmp_path, "Base", [("train", metrics(23.0))], baseline=None, keys={"train": "new"})
    for name, parent in (("Own", "new"), ("Other", "old")):
        write(tmp_path, name, [("ptq", metrics(87.0, bitops=10**6))], parent=parent)
    write(tmp_path, "Seeds", [("ptq", metrics(87.0))], seeds=(0, 1), parent="new")
    by_name = rows(tmp_path)
    weights = by_name["Own"].result.plain()
    weights["stages"][0]["parent_sha256"] = "other weights under the same key"
    assert by_name["Own"].baseline is not None
    said_of_weights = not_its_baseline(weights, by_name["Own"].baseline.plain())
    assert "(sha256 other weight, not None)" in str(said_of_weights)
    assert by_name["Own"].drop == pytest.approx(23 - 87)
    assert by_name["Other"].drop is None and by_name["Other"].ratio("bitops") is None
    assert "another Base than the one whose results are here" in str(by_name["Other"].not_compared)
    assert "have no seed 1" in str(by_name["Seeds"].not_compared)
    said = page(read_folder(tmp_path))
    assert "Other" not in " ".join(said["headlines"])
    assert any(line.startswith("Other: no change shown") for line in said["problems"])


def test_times_of_unlike_conditions_are_not_compared(tmp_path: Path) -> None:
    """A baseline of a busy machine: 168 ms by itself, 1 ms in turn with its int8 form."""
    write(tmp_path, "Base", [("train", metrics(90.0, ms_1=168.0))], baseline=None)
    write(tmp_path, "Q", [("ptq", metrics(90.0, ms_1=0.5))])
    (warned,) = page(read_folder(tmp_path))["warnings"]
    assert rows(tmp_path)["Q"].ratio("latency_ms_batch_1") == pytest.approx(0.5)
    assert (
        "1 ms by openvino at batch_1 beside this network, 168 by openvino when stored"
        in warned["text"]
    )
    other = metrics(90.0, ms_1=0.5)
    for time in other["inference_time_ms"].values():
        time["threads"] = 77
    write(tmp_path, "Q77", [("ptq", other)])
    assert front(rows(tmp_path).values(), "latency_ms_batch_1") == []
    assert front(rows(tmp_path).values(), "bitops")
    del other["inference_time_ms"]["batch_1"]["speedup"]  # as the earliest versions wrote
    write(tmp_path, "Q77", [("ptq", other)])
    assert rows(tmp_path)["Q77"].ratio("latency_ms_batch_1") is None
    assert any("Q77: not timed in turn" in line for line in page(read_folder(tmp_path))["problems"])


def test_ratios_in_words() -> None:
    size, latency = FIGURES["model_size_mb"], FIGURES["latency_ms_batch_1"]
    assert times(0.25, size) == "4.0× smaller"
    assert times(1.5, latency) == "1.50× slower"
    assert times(1 / 859, FIGURES["bitops"]) == "859× fewer BitOps"
    assert times(1.001, size) == "the same"
    assert [signed(-0.004), signed(-0.5), signed(2)] == ["+0.00", "−0.50", "+2.00"]
