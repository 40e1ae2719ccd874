"""The best chain for a wish, by hand-made rows, and as an entry ready to be pasted."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import main
from experiment.outcomes.wish import parse_wish
from experiment.study.recommend import recommendation
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


# --- how sure a recommendation is --------------------------------------------------------------


def sure(name: str, drop: float, latency: float, sd: float = 0.2) -> dict[str, Any]:
    """A row with the error of its drop: its 95 % interval is two of them to both sides."""
    interval = [drop - 2 * sd, drop + 2 * sd]
    return {**row(name, drop, latency), "drop_sd": sd, "drop_interval": interval}


def said(wish: str, *rows: dict[str, Any]) -> list[str]:
    """The comments about how sure it is, below the chain's figures."""
    met, text = recommendation(parse_wish(wish), {**ROWS, "chains": list(rows)})
    assert met
    return [line for line in text.splitlines() if line.startswith("#")][3:]


def test_it_says_how_sure_it_is() -> None:
    chains = sure("A", 0.1, 3.0), sure("B", 0.4, 2.0), sure("C", 0.6, 1.0), sure("D", 1.5, 0.5)
    # One standard error is 0.2: B stands half of one below the limit, C half of one beyond it,
    # which happens in 69 and 31 of 100 (tables of the normal distribution); D stands five beyond.
    assert said("accuracy_drop<=0.5, min latency_ms", *chains) == [
        "#   accuracy_drop is between 0.00 and 0.80 (95 % interval)",
        "#   accuracy_drop<=0.5 holds with a probability of 69 %",
        "#   better in latency_ms, and perhaps within the limits:",
        "#     C (latency_ms 1, accuracy_drop 0.6, bitops ×1.00, within the limit with 31 %)",
        "#   the best of 4 chains: by that choice it looks a little better than it is",
    ]


def test_the_most_accurate_is_told_apart_by_intervals() -> None:
    """A's goes from -0.3 to 0.5; those of B overlap with it and of C do not."""
    lines = said("max accuracy", sure("A", 0.1, 3.0), sure("B", 0.4, 2.0), sure("C", 0.95, 1.0))
    assert lines[1] == "#   not told apart from it:" and "  B (accuracy 89.6" in lines[2]
    assert not any(" C (" in line for line in lines)
    # An upper limit on the drop and a lower one on the accuracy (the baseline has 90) are the same.
    (chance,) = said("accuracy>=89.5, min latency_ms", sure("A", 0.4, 3.0))[1:]
    assert chance == "#   accuracy>=89.5 holds with a probability of 69 %"


def test_what_costs_too_much_for_sure_is_no_rival() -> None:
    rivals = sure("A", 0.1, 2.0), sure("B", 0.0, 9.0)
    lines = said("latency_ms<=3, max accuracy", *rivals)
    assert not any("told apart" in line for line in lines)


def test_a_chain_that_answers_as_the_baseline_does() -> None:
    """Its drop has no error, so that a limit that it meets holds."""
    lines = said("accuracy_drop<=0, min latency_ms", sure("A", 0.0, 3.0, sd=0.0))
    assert lines[1] == "#   accuracy_drop<=0 holds with a probability of > 99 %"


def test_a_file_without_errors_says_that_it_does_not_know() -> None:
    (line,) = said("min latency_ms", row("A", 0.1, 3.0), row("B", 0.4, 2.0))
    assert line.startswith("#   how sure that is cannot be told")


def test_the_nearest_may_yet_meet_the_wish() -> None:
    """It stands one standard error beyond the limit, which happens in 16 of 100."""
    chains = {**ROWS, "chains": [sure("A", 0.4, 1.0)]}
    assert recommendation(parse_wish("accuracy_drop<=0.2, min latency_ms"), chains) == (
        False,
        "no chain meets accuracy_drop<=0.2; the nearest is A with accuracy_drop 0.4, which may yet "
        "meet accuracy_drop<=0.2 with 16 %",
    )
