"""The best chain for a wish, by hand-made rows, and as an entry ready to be pasted."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import main
from experiment.study.recommend import parse_wish, recommendation
from tests.support.studies import study


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


def test_a_wish_for_what_was_not_measured_says_why() -> None:
    why = "S_A has no joules_per_image: this machine shows no RAPL counters"
    study_ = {**ROWS, "method": {"costs_left_out": {"joules_per_image": why}}}
    wish = parse_wish("accuracy_drop<=1, min joules_per_image")
    assert recommendation(wish, study_) == (
        False,
        "no chain meets accuracy_drop<=1: none came to its end with accuracy_drop, "
        f"joules_per_image; {why}",
    )


def test_a_wish_for_memory_names_the_engine_of_times() -> None:
    light, heavy = row("Light", 0.4, 2.0), row("Heavy", 0.1, 1.0)
    for chain, megabytes in ((light, 100.0), (heavy, 300.0)):
        chain["metrics"]["peak_memory_mb"] = {"mean": megabytes, "std": None, "n": 1}
        chain["metrics"]["latency_ms_batch_1"]["engine"] = "openvino"
    wish = parse_wish("peak_memory_mb<=200, min latency_ms")
    met, text = recommendation(wish, {**ROWS, "chains": [light, heavy]})
    assert met and "latency_ms 2 by openvino" in text and "peak_memory_mb 100" in text


def test_a_chain_whose_large_batches_were_not_timed() -> None:
    """It is chosen by what it has, and by nothing that it has not."""
    slow = row("Slow", 0.1, 9000.0)
    del slow["metrics"]["latency_ms_batch_64"]
    met, text = recommendation(parse_wish("min bitops"), {**ROWS, "chains": [slow]})
    assert met and "latency_ms 9000, model_size_mb" in text
    wish = parse_wish("min latency_ms_batch_64")
    said = "no chain meets the wish: none came to its end with latency_ms_batch_64"
    assert recommendation(wish, {**ROWS, "chains": [slow]}) == (False, said)
    met, text = recommendation(wish, {**ROWS, "chains": [slow, row("A", 0.2, 1.0)]})
    assert met and "'A_chosen'" in text
