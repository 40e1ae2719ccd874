"""Whole runs through the command line: what is written, shared, reused, failed and interrupted."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import main
from experiment.running.store import Store
from stages import STAGES, Stage
from stages.finetuning import FinetuneSpec
from tests.conftest import Suites

CHAINS = """
EXPERIMENT_CONFIGS += [
    chain("PFQ", {"prune": {"ratio": 0.4}}, {"finetune": {"epochs": 1}}, "ptq"),
    chain("PFQat", {"prune": {"ratio": 0.4}}, {"finetune": {"epochs": 1}}, "qat"),
    chain("QatPF", "qat", {"prune": {"ratio": 0.4}}, {"finetune": {"epochs": 1}}),
]
"""


def results(suites: Suites, name: str) -> dict[str, Any]:
    return json.loads((suites.results / f"{name}_results.json").read_text())


def summary(suites: Suites) -> dict[str, Any]:
    return json.loads((suites.results / "_all_experiments_summary.json").read_text())


def cached(suites: Suites, name: str) -> list[bool]:
    return [stage["cached"] for stage in results(suites, name)["stages"]]


# --- what a run writes --------------------------------------------------------------------------


def test_a_suite_runs_end_to_end(suites: Suites) -> None:
    assert suites.run(CHAINS) == 0
    names = {path.name for path in suites.models.glob("*.pth")}
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
    for path in suites.models.glob("*.pth"):
        torch.load(path, weights_only=True)
    result = results(suites, "PFQ")
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
    rows = {row["experiment"]: row for row in summary(suites)["experiments"]}
    assert all(row["status"] == "done" for row in rows.values())
    last = result["stages"][-1]["metrics"]
    base = results(suites, "Base")["stages"][-1]["metrics"]
    change = rows["PFQ"]["against_baseline"]
    assert change["accuracy_points"] == pytest.approx(last["accuracy"] - base["accuracy"])
    assert change["bitops_ratio"] == pytest.approx(last["bitops"] / base["bitops"])
    printed = suites.capsys.readouterr().out
    for part in ("Results (change against the baseline)", "PFQat", "prune → finetune → qat"):
        assert part in printed


def test_chains_share_their_beginning(suites: Suites) -> None:
    assert suites.run(CHAINS) == 0
    assert cached(suites, "PFQ") == [False, False, False]
    assert cached(suites, "PFQat") == [True, True, False]
    one, other = results(suites, "PFQ")["stages"], results(suites, "PFQat")["stages"]
    assert one[1]["metrics"] == other[1]["metrics"]
    assert one[1]["key"] == other[1]["key"] != one[2]["key"]
    assert Path(one[1]["checkpoint"]).samefile(other[1]["checkpoint"])


def test_a_second_run_computes_nothing_and_says_the_same(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert suites.run(CHAINS) == 0
    first = {name: results(suites, name) for name in ("Base", "PFQ", "QatPF")}

    def refuse(*args: Any) -> None:
        raise AssertionError("a cached stage ran")

    monkeypatch.setattr("experiment.running.step.Context", refuse)
    assert suites.run(CHAINS) == 0
    for name, before in first.items():
        after = results(suites, name)
        assert all(cached(suites, name))
        for old, new in zip(before["stages"], after["stages"], strict=True):
            assert {**old, "cached": True} == new


def test_a_changed_setting_recomputes_that_stage_and_what_follows(suites: Suites) -> None:
    assert suites.run(CHAINS) == 0
    changed = CHAINS.replace(
        '{"finetune": {"epochs": 1}}, "ptq"', '{"finetune": {"epochs": 2}}, "ptq"'
    )
    assert suites.run(changed) == 0
    assert cached(suites, "PFQ") == [True, False, False]
    assert all(cached(suites, "PFQat")) and all(cached(suites, "Base"))
    said = suites.capsys.readouterr().out
    assert re.search(r"PFQ_pruned_40_finetuned.pth held other settings' result; that stays", said)


def test_only_and_set(suites: Suites) -> None:
    arguments = ["--only", "PFQ", "--set", "training_args.initial_train_epochs=1"]
    assert suites.run(CHAINS, *arguments) == 0
    assert {row["experiment"] for row in summary(suites)["experiments"]} == {"Base", "PFQ"}
    assert results(suites, "Base")["config"]["sequence"][0]["train"]["epochs"] == 1


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


def test_seeds_run_each_and_are_summed_up(suites: Suites) -> None:
    assert suites.run('EXPERIMENT_CONFIGS.append(chain("Q", "ptq", seeds=[0, 3]))') == 0
    result, base = results(suites, "Q"), results(suites, "Base")
    assert [stage["seed"] for stage in result["stages"]] == [0, 3] == base["seeds"]
    values = [stage["metrics"]["accuracy"] for stage in result["stages"]]
    final = result["final"]["accuracy"]
    assert final["n"] == 2
    assert final["mean"] == pytest.approx(sum(values) / 2)
    assert final["std"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert (suites.models / "Q_seed3_quantized_ptq_int8.pth").exists()
    assert base["stages"][0]["metrics"]["loss"] != base["stages"][1]["metrics"]["loss"]


def test_run_experiment_is_a_function_too(suites: Suites) -> None:
    path = suites.write(CHAINS)
    result = main.run_experiment("QatPF", path)
    assert result["status"] == "done"
    assert result["final"]["accuracy"]["n"] == 1


def test_remeasuring_keeps_weights_and_keys(suites: Suites) -> None:
    assert suites.run() == 0
    before = results(suites, "Base")["stages"][0]
    assert suites.run("", "--remeasure") == 0
    after = results(suites, "Base")["stages"][0]
    assert after["cached"] and after["key"] == before["key"]
    assert after["metrics"]["accuracy"] == before["metrics"]["accuracy"]
    assert after["metrics"]["inference_time_ms"] != before["metrics"]["inference_time_ms"]


# --- baselines ----------------------------------------------------------------------------------


def test_retrain_recomputes_and_keeps_the_old_file(suites: Suites) -> None:
    assert suites.run() == 0
    assert suites.run("", "--baseline", "retrain") == 0
    assert cached(suites, "Base") == [False]
    assert list((suites.models / "store").glob("*.aside1"))


@pytest.mark.parametrize(("answer", "expected"), [("", True), ("n", False)])
def test_a_terminal_is_asked(
    suites: Suites, monkeypatch: pytest.MonkeyPatch, answer: str, expected: bool
) -> None:
    assert suites.run() == 0
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or answer)
    assert suites.run() == 0
    assert cached(suites, "Base") == [expected]
    assert len(asked) == 1 and "Base is trained" in asked[0]


def test_a_stale_baseline_is_told_with_what_differs(suites: Suites) -> None:
    assert suites.run() == 0
    suites.capsys.readouterr()
    assert suites.run("", "--set", "training_args.learning_rate=0.01") == 0
    printed = suites.capsys.readouterr().out
    assert "Base: stale, it was trained with other settings" in printed
    assert "spec.learning_rate: 0.005 → 0.01" in printed
    assert cached(suites, "Base") == [False]


def test_what_follows_other_weights_is_computed_anew(suites: Suites) -> None:
    """As after retraining where arithmetic differs: same key, other content."""
    assert suites.run(CHAINS, "--only", "PFQ") == 0
    store = Store(suites.models)
    (key,) = {stage["key"] for stage in results(suites, "Base")["stages"]}
    found = store.load(key)
    assert found is not None
    state, record = found
    weights = {name: value.clone() for name, value in state.weights.items()}
    weights["head.bias"] += 1
    store.put(key, state.changed(weights), record)
    assert suites.run(CHAINS, "--only", "PFQ") == 0
    assert cached(suites, "Base") == [True]
    assert cached(suites, "PFQ") == [False, False, False]
    assert "made from other weights" in suites.capsys.readouterr().out


def test_the_summary_keeps_what_other_runs_left(suites: Suites) -> None:
    assert suites.run(CHAINS, "--only", "PFQ") == 0
    assert suites.run(CHAINS, "--only", "PFQat") == 0
    rows = {row["experiment"]: row for row in summary(suites)["experiments"]}
    assert rows.keys() == {"Base", "PFQ", "PFQat"}
    assert "against_baseline" in rows["PFQ"]
    (suites.results / "odd_results.json").write_text("[1, 2")
    assert suites.run(CHAINS, "--only", "PFQ") == 0


# --- what goes wrong ----------------------------------------------------------------------------


class Malice:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_a_malicious_pickle_is_refused_by_name(suites: Suites, tmp_path: Path) -> None:
    suites.models.mkdir()
    mine = suites.models / "Base_fp32_baseline.pth"
    for protocol in (2, 4):
        mine.write_bytes(pickle.dumps(Malice(tmp_path / "harm"), protocol))
        before = mine.read_bytes()
        assert suites.run() == 2
        error = suites.capsys.readouterr().err
        assert "Base_fp32_baseline.pth: " in error and "Traceback" not in error
        assert mine.read_bytes() == before
    torch.save({"format": 1, "x": Malice(tmp_path / "harm")}, mine)
    assert suites.run() == 2
    assert "refused, it holds more than tensors" in suites.capsys.readouterr().err
    assert not (tmp_path / "harm").exists()


def test_every_flipped_byte_is_found(suites: Suites) -> None:
    """One byte of each file of the store in turn: told, set aside, computed again, same result."""
    assert suites.run(CHAINS, "--only", "PFQ") == 0
    before = {s["stage"]: s["metrics"]["accuracy"] for s in results(suites, "PFQ")["stages"]}
    files = [
        p for p in sorted((suites.models / "store").iterdir()) if p.suffix in (".pth", ".json")
    ]
    assert len(files) == 8
    for number, path in enumerate(files):
        content = bytearray(path.read_bytes())
        content[len(content) * (number + 1) // 10] ^= 1
        path.write_bytes(content)
        suites.capsys.readouterr()
        assert suites.run(CHAINS, "--only", "PFQ") == 0
        assert "set aside as" in suites.capsys.readouterr().out, path
        stages = results(suites, "PFQ")["stages"] + results(suites, "Base")["stages"]
        assert [stage["cached"] for stage in stages].count(False) == 1
        assert {
            s["stage"]: s["metrics"]["accuracy"] for s in stages if s["stage"] != "train"
        } == before


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


def test_spoilt_data_stops_before_anything_starts(suites: Suites, tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "pics" / split / name).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (8, 8)).save(tmp_path / "pics" / split / name / f"{i}.png")
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
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert suites.run(CHAINS, "--only", "PFQ") == 0
    before = {p: p.read_bytes() for p in suites.models.rglob("*.pth")}
    real = os.fsync

    def full(descriptor: int) -> None:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if ".pth." in name:
            raise OSError(28, "No space left on device", name)
        real(descriptor)

    monkeypatch.setattr("os.fsync", full)
    suites.capsys.readouterr()
    assert suites.run(CHAINS) == 1
    captured = suites.capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "No space left on device" in captured.err and "are intact" in captured.err
    monkeypatch.setattr("os.fsync", real)
    for path, content in before.items():
        assert path.read_bytes() == content
    assert not list(suites.models.rglob("*.tmp"))
    assert suites.run(CHAINS) == 0


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


def test_interrupt_saves_says_how_to_go_on_and_resumes(suites: Suites) -> None:
    """A real SIGINT in the middle of training."""
    slow = 'BASE["training_args"] = {"initial_train_epochs": 12}\n'

    def press() -> None:
        while not list((suites.models / "store").glob("*.snapshot")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    code = suites.run(slow)
    thread.join()
    assert code == 130
    printed = suites.capsys.readouterr().out
    assert "stopping after the current step" in printed
    assert "To go on: python main.py --config" in printed
    assert summary(suites)["experiments"][0]["status"] == "interrupted"
    assert suites.run(slow, "--dry-run") == 0
    assert "0 cached, 1 resumable, 0 to run" in suites.capsys.readouterr().out
    assert suites.run(slow) == 0
    stage = results(suites, "Base")["stages"][0]
    assert stage["resumed"] and not stage["cached"]
    assert len(stage["details"]["history"]) == 12
    assert "resumed at epoch" in suites.capsys.readouterr().out


def test_sensitivity_writes_curves_and_a_picture(suites: Suites) -> None:
    path = str(suites.write(CHAINS))
    arguments = ["PFQ", "--config", path, "--ratios", "0", "0.5"]
    assert main.main(["sensitivity", *arguments]) == 0
    written = json.loads((suites.results / "PFQ_sensitivity.json").read_text())
    assert written["scanned"] == "Base"
    curve = written["curves"]["cnn.blocks.0"]
    assert [point["ratio"] for point in curve] == [0.0, 0.5]
    assert (suites.results / "PFQ_sensitivity.png").read_bytes()[:4] == b"\x89PNG"
    assert suites.run(CHAINS, "--only", "Base") == 0  # the same baseline, from the store
    assert cached(suites, "Base") == [True]
    assert main.main(["sensitivity", "PQ", "--config", path]) == 2
    assert "did you mean 'PFQ'?" in suites.capsys.readouterr().err
    assert main.main(["sensitivity", *arguments, "--criterion", "bn_scale"]) == 2


def test_snapshots_are_verified_and_belong_to_their_parents_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    store.snapshot("k", "a" * 64).save({"epoch": 3})
    assert store.snapshot("k", "a" * 64).load() == {"epoch": 3}
    assert store.snapshot("k", "b" * 64).load() is None
    assert "began from other weights" in capsys.readouterr().out
    snapshot = store.snapshot("k")
    snapshot.save({"epoch": 4})
    content = bytearray(snapshot.path.read_bytes())
    for position in (0, 70, len(content) - 1):
        content[position] ^= 1
        snapshot.path.write_bytes(content)
        assert snapshot.load() is None
        assert "the snapshot is damaged; set aside" in capsys.readouterr().out
        content[position] ^= 1


# --- the store's commands -----------------------------------------------------------------------


def test_store_ls_verify_and_gc(suites: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    assert suites.run(CHAINS) == 0
    path = str(suites.write(CHAINS.replace("0.4", "0.3")))  # now names other stages
    suites.capsys.readouterr()
    assert main.main(["store", "ls", "--config", path]) == 0
    printed = suites.capsys.readouterr().out
    assert "Base_fp32_baseline" in printed and "named by none" in printed
    assert "8 stages" in printed
    assert main.main(["store", "verify", "--config", path]) == 0
    assert main.main(["store", "gc", "--config", path]) == 2  # no terminal to ask on
    assert "add --yes" in suites.capsys.readouterr().err
    package = Store(suites.models).compiled / "0123.pt2"
    package.parent.mkdir(exist_ok=True)
    package.touch()
    assert main.main(["store", "gc", "--config", path, "--yes"]) == 0
    assert not package.exists()
    left = {p.name for p in suites.models.glob("*.pth")}
    assert left == {"Base_fp32_baseline.pth", "QatPF_quantized_qat_int8.pth"}
    assert len(Store(suites.models).keys()) == 2
    assert main.main(["store", "gc", "--config", path]) == 0
    assert "nothing to remove" in suites.capsys.readouterr().out
    victim = next((suites.models / "store").glob("*.pth"))
    victim.write_bytes(victim.read_bytes()[:-1])
    assert main.main(["store", "verify", "--config", path]) == 1
    assert f"{victim}: its sha256 is not the recorded one; set aside" in (
        suites.capsys.readouterr().out
    )
    assert main.main(["store", "sl"]) == 2
