"""`compare` pairs the stages of two chains by hand-made sequences, and shows what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiment.commands.compare import paired
from tests.support.ran import rows
from tests.support.suites import Ran


def test_stages_are_paired_where_sequences_agree() -> None:
    assert paired(["p", "f", "q"], ["p", "f", "q"]) == [("p", 0, 0), ("f", 1, 1), ("q", 2, 2)]
    assert paired(["p", "f", "q"], ["q", "p", "f"]) == [
        ("q", None, 0), ("p", 0, 1), ("f", 1, 2), ("q", 2, None)
    ]  # fmt: skip
    assert paired(["p"], []) == [("p", 0, None)]


def test_compare_gives_stages_and_differing_settings(ran: Ran, command: Any) -> None:
    code, out, _ = command("compare", "PFQat", "QatPF")
    assert code == 0
    first, second = (ran.result(n)["stages"][-1]["metrics"] for n in ("PFQat", "QatPF"))
    a, b = first["accuracy"], second["accuracy"]
    assert rows(out)["end"][0] == f"{a:.2f} → {b:.2f} ({b - a:+.2f})"
    assert rows(out)["qat (B only)"][0] == (
        f"{ran.result('QatPF')['stages'][0]['metrics']['accuracy']:.2f}"
    )
    assert rows(out)["sequence"] == ["prune → finetune → qat", "qat → prune → finetune"]
    assert "qat" not in rows(out)  # with the same options on both sides
    _, out, _ = command("compare", "PF", "PFQat")
    assert rows(out)["finetune.epochs"] == ["2", "1"]
    assert rows(out)["seeds"] == ["[0, 1]", "[0]"]
    assert rows(out)["qat"][0] == "–" and "backend=x86" in rows(out)["qat"][1]
    assert "the configurations are the same" in command("compare", "PF", "PF")[1]


def test_a_file_made_before_differs_in_nothing_that_has_only_another_name(
    ran: Ran, command: Any, tmp_path: Path
) -> None:
    """Its backend was called otherwise; that it was measured otherwise is told."""
    paths = []
    for name in ("inductor", "pt2e"):
        result = ran.result("PFQat")
        result["config"]["sequence"][-1]["qat"]["backend"] = name
        if name == "inductor":
            del result["config"]["deployment_args"]
        paths.append(tmp_path / name / "PFQat_results.json")
        paths[-1].parent.mkdir()
        paths[-1].write_text(json.dumps(result))
    told = rows(command("compare", *map(str, paths))[1])
    assert "qat.backend" not in told and told["deployment_args.batch_sizes"] == ["–", "[1, 64]"]


def test_compare_says_that_machines_differ(ran: Ran, command: Any, tmp_path: Path) -> None:
    other = ran.result("PF")
    other["environment"]["threads"] = 77
    path = tmp_path / "PF_results.json"
    path.write_text(json.dumps(other))
    _, out, _ = command("compare", "PF", str(path))
    assert "compare no latencies" in out and rows(out)["environment.threads"] == ["1", "77"]
