"""Whole runs: what is written, shared, reused and planned, and what stops one before it starts."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import main
from tests.support.hurried import hurry
from tests.support.suites import CHAINS, Ran, Suites, cached, results, summary


def test_measuring_again_leaves_checkpoints_as_they_are(suites: Suites) -> None:
    chains = 'EXPERIMENT_CONFIGS.append(chain("Q", "ptq"))'
    assert suites.run(chains) == 0
    before = {p: p.read_bytes() for p in (suites.models / "store").glob("*.pth")}
    assert suites.run(chains, "--remeasure") == 0
    assert before == {p: p.read_bytes() for p in (suites.models / "store").glob("*.pth")}
    results = json.loads((suites.results / "Q_results.json").read_text())
    assert [stage["cached"] for stage in results["stages"]] == [True]


def test_a_suite_runs_end_to_end(finished: Ran) -> None:
    names = {path.name for path in finished.models.glob("*.pth")}
    assert names == {
        "Base_fp32_baseline.pth",
        "PFQ_pruned_40.pth",
        "PFQ_pruned_40_finetuned.pth",
        "PFQ_p40_f_quantized_ptq_int8.pth",
        "PFQat_pruned_40.pth",
        "PFQat_pruned_40_finetuned.pth",
        "PFQat_p40_f_quantized_qat_int8.pth",
        "QatPF_quantized_qat_int8.pth",
        "QatPF_quantized_qat_int8_pruned_40.pth",
        "QatPF_quantized_qat_int8_pruned_40_finetuned.pth",
    }
    for path in finished.models.glob("*.pth"):
        torch.load(path, weights_only=True)
    result = results(finished, "PFQ")
    assert result["status"] == "done"
    assert [stage["stage"] for stage in result["stages"]] == ["prune", "finetune", "ptq"]
    assert result["config"]["sequence"][0] == {"prune": {"ratio": 0.4, "mode": "mask"}}
    for key in ("environment", "git_commit", "seeds", "command"):
        assert key in result
    for stage in result["stages"]:
        assert {"stage", "key", "cached", "seconds", "checkpoint", "metrics"} <= stage.keys()
        assert Path(stage["checkpoint"]).exists()
        assert {
            "accuracy", "loss", "params", "nonzero_params", "model_size_mb", "macs", "flops",
            "bitops", "inference_time_ms",
        } <= stage["metrics"].keys()  # fmt: skip
    sizes = [stage["metrics"]["model_size_mb"] for stage in result["stages"]]
    assert sizes[2] != sizes[1] == sizes[0]
    rows = {row["experiment"]: row for row in summary(finished)["experiments"]}
    assert all(row["status"] == "done" for row in rows.values())
    last = result["stages"][-1]["metrics"]
    base = results(finished, "Base")["stages"][-1]["metrics"]
    change = rows["PFQ"]["against_baseline"]
    assert change["accuracy_points"] == pytest.approx(last["accuracy"] - base["accuracy"])
    assert change["bitops_ratio"] == pytest.approx(last["bitops"] / base["bitops"])
    printed = finished.printed()
    for part in ("Results (change against the float baseline;", "PFQat", "prune → finetune → qat"):
        assert part in printed


def test_chains_share_their_beginning(finished: Ran) -> None:
    assert cached(finished, "PFQ") == [False, False, False]
    assert cached(finished, "PFQat") == [True, True, False]
    one, other = results(finished, "PFQ")["stages"], results(finished, "PFQat")["stages"]
    assert one[1]["metrics"] == other[1]["metrics"]
    assert one[1]["key"] == other[1]["key"] != one[2]["key"]
    assert Path(one[1]["checkpoint"]).samefile(other[1]["checkpoint"])


def test_a_second_run_computes_nothing_and_says_the_same(
    run_before: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {name: results(run_before, name) for name in ("Base", "PFQ", "QatPF")}

    def refuse(*args: Any) -> None:
        raise AssertionError("a cached stage ran")

    monkeypatch.setattr("experiment.running.step.Context", refuse)
    assert run_before.run(CHAINS) == 0
    for name, before in first.items():
        after = results(run_before, name)
        assert all(cached(run_before, name))
        for old, new in zip(before["stages"], after["stages"], strict=True):
            assert {**old, "cached": True} == new


def test_a_changed_setting_recomputes_that_stage_and_what_follows(run_before: Suites) -> None:
    changed = CHAINS.replace(
        '{"finetune": {"epochs": 1}}, "ptq"', '{"finetune": {"epochs": 2}}, "ptq"'
    )
    assert run_before.run(changed) == 0
    assert cached(run_before, "PFQ") == [True, False, False]
    assert all(cached(run_before, "PFQat")) and all(cached(run_before, "Base"))
    said = run_before.capsys.readouterr().out
    assert re.search(r"PFQ_pruned_40_finetuned.pth held other settings' result; that stays", said)


def test_only_and_set(suites: Suites) -> None:
    arguments = ["--only", "PFQ", "--set", "training_args.initial_train_epochs=1"]
    assert suites.run(CHAINS, *arguments) == 0
    assert {row["experiment"] for row in summary(suites)["experiments"]} == {"Base", "PFQ"}
    assert results(suites, "Base")["config"]["sequence"][0]["train"]["epochs"] == 1
    suites.capsys.readouterr()
    assert suites.run(CHAINS, "--only", "Base") == 0  # two epochs: not the one PFQ began from
    said = suites.capsys.readouterr().out
    assert "PFQ: no change shown: it began from another Base than the one whose" in said
    by_name = {row["experiment"]: row for row in summary(suites)["experiments"]}
    assert by_name["PFQ"]["not_compared"] in said and "against_baseline" not in by_name["PFQ"]


def test_dry_run_shows_the_plan_and_runs_nothing(suites: Suites) -> None:
    assert suites.run(CHAINS, "--dry-run") == 0
    printed = suites.capsys.readouterr().out
    assert "0 cached, 0 resumable, 8 to run" in printed
    assert printed.count("prune ratio=0.4") == 2  # shared by two chains, once after qat
    assert not suites.models.exists() and not suites.results.exists()
    assert suites.run(CHAINS, "--only", "PFQ") == 0
    suites.capsys.readouterr()
    assert suites.run(CHAINS, "--dry-run") == 0
    printed = suites.capsys.readouterr().out
    assert "4 cached, 0 resumable, 4 to run; about" in printed


def test_remeasuring_keeps_weights_and_keys(suites: Suites) -> None:
    assert suites.run() == 0
    before = results(suites, "Base")["stages"][0]
    assert suites.run("", "--remeasure") == 0
    after = results(suites, "Base")["stages"][0]
    assert after["cached"] and after["key"] == before["key"]
    assert after["metrics"]["accuracy"] == before["metrics"]["accuracy"]
    assert after["metrics"]["inference_time_ms"] != before["metrics"]["inference_time_ms"]


def pictures(root: Path, classes: list[str], count: int = 6) -> None:
    """PNG files of noise in train/ and test/."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")


def test_names_that_are_not_utf_8_go_through_to_the_report(
    suites: Suites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an old archive unpacks them: the folder, a class and a file, by --set and predict."""
    hurry(monkeypatch)
    root = tmp_path / os.fsdecode(b"t\xeate")
    pictures(root, [os.fsdecode(b"caf\xe9"), "b"])
    image = root / "test" / "b" / os.fsdecode(b"\xff.png")
    (root / "test" / "b" / "0.png").rename(image)
    (root / "train" / "b" / "notes.txt").write_text("as they came")
    odd = f"dataset_args.root={root}", "dataset_args.validation_share=0.2"
    arguments = "--set", odd[0], "--set", odd[1], "--set", "training_args.initial_train_epochs=1"
    more = "--set", "training_args.batch_size=4", "--set", "dataset_args.name=ImageFolder"
    monkeypatch.setattr("sys.argv", ["main.py", *arguments])  # which results repeat
    config = str(suites.write())
    assert main.main(["--config", config, *arguments, *more, "--tensorboard"]) == 0
    line = (
        r"12 training images in 2 classes (b, caf\xe9), 12 test images; 1 file passed over (.txt 1)"
    )
    assert f"data        ImageFolder: {line}" in suites.capsys.readouterr().out
    result = results(suites, "Base")
    assert result["config"]["dataset_args"]["root"] == str(root)
    assert result["data"]["train_images"] == {"b": 6, r"caf\xe9": 6}
    assert result["data"]["passed_over"] == {".txt": 1}
    assert r"\udceate" in (suites.results / "report.html").read_text()  # of the command
    assert r"ImageFolder t\xeate" in (suites.results / "summary.csv").read_text()
    checkpoint = result["stages"][-1]["checkpoint"]
    assert main.main(["predict", "--config", config, checkpoint, str(image)]) == 0
    told = suites.capsys.readouterr().out
    assert r"\xff.png" in told and r"caf\xe9" in told


def test_what_is_lost_of_images_is_warned_of_everywhere(
    suites: Suites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    pictures(tmp_path / "pics", ["a", "b"])
    for path in (tmp_path / "pics").rglob("*.png"):
        path.with_suffix(".ppm").write_bytes(b"P6 8 8 65535 " + b"\1\2" * 8 * 8 * 3)
        path.unlink()
    root = tmp_path / "pics"
    text = f"""
    BASE["dataset_args"] = {{"name": "ImageFolder", "root": "{root}", "validation_share": 0.2}}
    BASE["training_args"] = {{"initial_train_epochs": 1, "batch_size": 4}}
    """
    assert suites.run(text, "--quiet") == 0
    said = "24 images have 16-bit colours, of which Pillow reads the upper 8 bits: of theirs 2 of"
    assert f"ImageFolder: warning: {said}" in suites.capsys.readouterr().out
    assert results(suites, "Base")["data"]["warnings"][0].startswith(said)
    assert (suites.results / "report.html").read_text().count(f"ImageFolder: {said}") == 1
    assert suites.run(text, "--dry-run") == 0
    assert said in suites.capsys.readouterr().out


def test_spoilt_data_stops_before_anything_starts(suites: Suites, tmp_path: Path) -> None:
    pictures(tmp_path / "pics", ["a", "b"], 4)
    (tmp_path / "pics" / "test" / "b" / "2.png").write_bytes(b"\x89PNG broken")
    root = tmp_path / "pics"
    text = f'BASE["dataset_args"] = {{"name": "ImageFolder", "root": "{root}"}}'
    lines = suites.refused(text)
    assert len(lines) == 1 and "2.png is not a readable image" in lines[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_told_before_the_start(suites: Suites) -> None:
    suites.models.mkdir()
    suites.models.chmod(0o500)
    assert suites.run() == 2
    assert "MODEL_SAVE_DIR" in suites.capsys.readouterr().err


def test_a_folder_that_is_a_file_is_told_before_the_start(suites: Suites) -> None:
    suites.results.write_text("mine")
    assert suites.run() == 2
    assert "RESULTS_DIR: " in suites.capsys.readouterr().err
    assert suites.results.read_text() == "mine"


def test_a_full_disk_is_one_line_and_harms_nothing(
    run_before: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = CHAINS + 'EXPERIMENT_CONFIGS.append(chain("Q", "ptq"))'
    before = {p: p.read_bytes() for p in run_before.models.rglob("*.pth")}
    real = os.fsync

    def full(descriptor: int) -> None:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if ".pth." in name:
            raise OSError(28, "No space left on device", name)
        real(descriptor)

    monkeypatch.setattr("os.fsync", full)
    run_before.capsys.readouterr()
    assert run_before.run(more) == 1
    captured = run_before.capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "No space left on device" in captured.err and "are intact" in captured.err
    monkeypatch.setattr("os.fsync", real)
    for path, content in before.items():
        assert path.read_bytes() == content
    assert not list(run_before.models.rglob("*.tmp"))
    assert run_before.run(more) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_really_full_disk(suites: Suites) -> None:
    """Checkpoints on a tmpfs that fills up half way; given more room, the run goes on."""
    suites.models.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(suites.models)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        assert suites.run(CHAINS) == 1
        captured = suites.capsys.readouterr()
        assert "No space left on device" in captured.err and captured.err.count("\n") == 1
        assert "Traceback" not in captured.out
        there = list(suites.models.glob("*.pth"))
        assert there
        for path in there:
            torch.load(path, weights_only=True)
        subprocess.run(["mount", "-o", "remount,size=50m", str(suites.models)], check=True)
        assert suites.run(CHAINS) == 0
        assert cached(suites, "Base") == [True]
    finally:
        subprocess.run(["umount", str(suites.models)], check=True)
