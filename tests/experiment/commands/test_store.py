"""`store` lists, verifies and removes what no suite names, after asking."""

from __future__ import annotations

from pathlib import Path

import pytest

import main
from experiment.running.store import Store
from tests.support.suites import CHAINS, Suites


def test_store_ls_verify_and_gc(run_before: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(run_before.write(CHAINS.replace("0.4", "0.3")))  # now names other stages
    run_before.capsys.readouterr()
    assert main.main(["store", "ls", "--config", path]) == 0
    printed = run_before.capsys.readouterr().out
    assert "Base_fp32_baseline" in printed and "no name is left" not in printed
    assert "PFQ_pruned_40_finetuned" in printed and "PFQat_pruned_40_finetuned" in printed
    assert "8 stages" in printed
    assert main.main(["store", "verify", "--config", path]) == 0
    assert main.main(["store", "gc", "--config", path]) == 2  # no terminal to ask on
    assert "add --yes" in run_before.capsys.readouterr().err
    package = run_before.models / "compiled" / "0123.pt2"  # as earlier versions kept them
    package.parent.mkdir()
    package.touch()
    assert main.main(["store", "gc", "--config", path, "--yes"]) == 0
    said = run_before.capsys.readouterr().out.replace("\n", " ")
    assert f"{package.parent} holds machine code of an earlier version" in said
    assert not package.exists()
    left = {p.name for p in run_before.models.glob("*.pth")}
    assert left == {"Base_fp32_baseline.pth", "QatPF_quantized_qat_int8.pth"}
    assert len(Store(run_before.models).keys()) == 2
    assert main.main(["store", "gc", "--config", path]) == 0
    assert "nothing to remove" in run_before.capsys.readouterr().out
    victim = next((run_before.models / "store").glob("*.pth"))
    victim.write_bytes(victim.read_bytes()[:-1])
    assert main.main(["store", "verify", "--config", path]) == 1
    assert f"{victim}: its sha256 is not the recorded one; set aside" in (
        run_before.capsys.readouterr().out
    )
    assert main.main(["store", "sl"]) == 2


def test_gc_keeps_what_a_study_names(tiny_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["store", "gc", "--config", str(tiny_study)]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert main.main(["store", "verify", "--config", str(tiny_study)]) == 0
