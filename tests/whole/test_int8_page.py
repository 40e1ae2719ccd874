"""int8 on CPUs: what is measured is what the suite measured; the page says what its files say."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from tests.support.home import HOME

RAW = sorted((HOME / "records/int8_cpus/raw").glob("*.json"))
PAGE = HOME / "docs/results/int8-on-cpus.md"
SUITE = """
DEVICE = "cpu"
DEFAULT_DATASET_CONFIG = {"name": "Digits"}
DEFAULT_TRAINING_PARAMS = {"initial_train_epochs": 3, "batch_size": 64, "precision": "fp32"}
DEFAULT_DEPLOYMENT_PARAMS = {"engines": ["onnxruntime"], "batch_sizes": [1]}
DEFAULT_MODEL_PARAMS = {
    "cnn_channels": [8], "cnn_pools": [4], "embed_dim": 8, "num_layers": 1, "num_heads": 2
}
EXPERIMENT_CONFIGS = [{"name": "Tiny", "is_fp32_baseline_generation": True}]
"""
# One engine and one peer, without compilers.
FEW = ("float, eager", "float, onnxruntime", "int8 ours, onnxruntime", "int8 ONNX Runtime's own")


@pytest.fixture(scope="module")
def pages() -> Any:
    return importlib.import_module("benchmarks.int8_page")


@pytest.fixture
def int8(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The benchmark in an empty folder with a tiny suite, few variants and short times."""
    module = importlib.import_module("benchmarks.int8")
    inference = importlib.import_module("benchmarks.inference")
    few = {name: inference.VARIANTS[name] for name in FEW}
    monkeypatch.setattr(inference, "VARIANTS", few)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suite.py").write_text(SUITE)
    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)


WORDS = ["--config", "suite.py", "--json", "found.json", "--threads", "1", "--seconds", "0.02"]


def record(**changes: Any) -> dict[str, Any]:
    """Two batch sizes of a network: at 1 ours is 1.5 times the peer, at 8 it is 0.8 times."""
    times = {
        "float, eager": (8.0, 40.0), "float, openvino": (4.0, 20.0), "bf16, openvino": (3.0, 30.0),
        "int8 ours, inductor": (5.0, 10.0), "int8 ours, openvino": (2.0, 12.5),
        "int8 NNCF": (3.5, 8.0), "int8 ONNX Runtime's own": (3.0, 9.0),
    }  # fmt: skip
    cells: list[dict[str, Any]] = []
    for variant, medians in times.items():
        for batch, median in zip((1, 8), medians, strict=True):
            cell = {"network": "net", "batch": batch, "threads": 2, "variant": variant}
            cells.append({**cell, "median": median, "p95": median + 1, "error": 0.125})
    counts = {"images": 1000, "right": 800, "lost": 0, "won": 0}
    cells[3]["accuracy"] = counts
    cells[7]["accuracy"] = {**counts, "right": 797, "lost": 5, "won": 2}
    cells[11]["accuracy"] = {**counts, "right": 780, "lost": 22, "won": 2}
    wrong = {"network": "net", "batch": 1, "threads": 2, "variant": "int8 NNCF, transformer"}
    cells.append({**wrong, "error": 1.5, "skipped": "wrong: logits are off by 150%"})
    return {
        "processor": "P", "isa": ["avx2"], "date": "2026-01-02", "commits": ["0123456789-dirty"],
        "source": "a command", "versions": {"torch": "2"}, "weights": "Trained",
        "networks": {"net": {"macs": 1_500_000, "params": 7}}, "cells": cells, **changes,
    }  # fmt: skip


def test_the_page_says_what_its_files_say(pages: Any) -> None:
    made = pages.Record.model_validate(record())
    lines = pages.page([made]).splitlines()
    assert "in 1 of 2 cells on processors with no VNNI, 1.15 (0.80–1.50) times as fast" in lines[2]
    assert "the worst is net, batch 8, 2 threads" in lines[2]
    assert "1.75 (1.50–2.00) times as fast as the fastest network without int8" in lines[2]
    row = next(line for line in lines if line.startswith("| net | 1 |"))
    assert row.startswith(
        "| net | 1 | 2 | 3 (4) openvino, bf16 | 2 (3) openvino | 3 (4) ONNX Runtime's own | 1.50 | "
        "1.50 | 0.125 / 0.125 | – | – | – |"
    )
    row = next(line for line in lines if line.startswith("| net | 8 |"))
    assert "| 20 (21) openvino | 10 (11) inductor | 8 (9) NNCF | 0.80 | 2.00 |" in row
    assert "| 80.00 (77.4–82.4) | 0.30 (" in row and "| 2.00 (" in row
    assert "The most that ours loses of a trained network's top-1 accuracy is 0.30 (" in lines[2]
    assert "(n = 1,000)." in lines[2]
    assert any("Commit 0123456-dirty; a command." in line for line in lines)
    assert any(
        "(1.5 M MACs) | 2 | int8 NNCF, transformer | wrong: logits are off by 150% | – | 1.500" in r
        for r in lines
    )


def test_what_is_outdated_is_shown_and_not_counted(pages: Any) -> None:
    old = pages.Record.model_validate(record(processor="Old", outdated="One engine"))
    new = pages.Record.model_validate(record(isa=["avx_vnni"], date="2026-01-03"))
    text = pages.page([old, new])
    assert "1 of 2 cells on processors with VNNI without AMX" in text and "no VNNI, 1" not in text
    assert text.index("## P, 2026-01-03") < text.index("## Old, 2026-01-02")
    assert "nothing can be said" in pages.page([old])


def test_without_float_a_cell_has_no_ratio_to_it(pages: Any) -> None:
    plain = record()
    plain["cells"] = [c for c in plain["cells"] if c["variant"].startswith("int8")]
    rows = pages.page([pages.Record.model_validate(plain)]).splitlines()
    assert any(row.startswith("| net | 1 | 2 | – | 2 (3) openvino |") for row in rows)


def test_the_page_is_made_of_the_files_that_lie_beside_it(tmp_path: Path, pages: Any) -> None:
    pages.main([*map(str, RAW), "--output", str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text() == PAGE.read_text()


def test_intervals_are_those_of_others(pages: Any) -> None:
    one = pages.Accuracy(images=4992, right=3790, lost=60, won=41)
    found = binomtest(3790, 4992).proportion_ci(method="wilson")
    assert one.share()[1:] == pytest.approx((100 * found.low, 100 * found.high), abs=1e-3)
    # Of drawn tables of two by two, 95 of 100 intervals have the true difference.
    draw, truth = np.random.default_rng(0), (0.012, 0.004)
    held = 0
    for lost, won, _ in draw.multinomial(1000, [*truth, 1 - sum(truth)], size=2000):
        made = pages.Accuracy(images=1000, right=0, lost=lost, won=won).points_lost()
        held += made[1] <= 100 * (truth[0] - truth[1]) <= made[2]
    assert 0.93 <= held / 2000 <= 0.98


def test_images_right_are_counted_against_floats(int8: Any) -> None:
    labels = torch.tensor([0, 1, 2, 3])
    counted = int8.accuracy(torch.tensor([0, 1, 0, 0]), torch.tensor([0, 0, 2, 0]), labels)
    assert counted.model_dump() == {"images": 4, "right": 2, "lost": 1, "won": 1}


def test_a_network_is_measured_once(
    int8: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    int8.main([*WORDS, "--batches", "1", "8"])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["cells"] == 2
    found = json.loads(Path("found.json").read_text())
    assert [(c["batch"], c["variant"]) for c in found["cells"]] == [
        (batch, variant) for batch in (1, 8) for variant in FEW
    ]
    assert all(cell["median"] > 0 for cell in found["cells"])
    (stored,) = (json.loads(path.read_text()) for path in Path("saved_models").rglob("*.json"))
    metrics = stored["record"]["metrics"]
    assert found["networks"]["Tiny"]["macs"] == metrics["macs"]
    floats = [cell["accuracy"] for cell in found["cells"] if cell["batch"] == 8][:2]
    for one in floats:  # the whole test split, as the suite evaluates it
        assert 100 * one["right"] / one["images"] == pytest.approx(metrics["accuracy"])
        assert (one["lost"], one["won"]) == (0, 0)

    monkeypatch.setattr(int8, "checked", lambda *_: pytest.fail("measured again"))
    int8.main([*WORDS, "--batches", "1", "8"])
    assert json.loads(Path("found.json").read_text()) == found


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--networks", "Tinny"], "Tinny"),
        (["--batches", "0"], "should be above 0"),
        (["--batches", "1000"], "too few: 32 and 1000, a batch, are needed"),
        (["--config", "none.py"], "none.py"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: list[str], told: str, int8: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        int8.main([*WORDS, *words])
    assert end.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
    assert not Path("found.json").exists()
    assert not any(Path().rglob("*.pth"))  # before anything is trained


def test_another_machines_file_is_left_alone(
    int8: Any, pages: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("found.json").write_text(json.dumps(record()))
    for command, words in (int8, WORDS), (pages, ["found.json", "none.json"]):
        with pytest.raises(SystemExit) as end:
            command.main(words)
        assert end.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("found.json: 'processor' was P when it was begun and is ")
    assert second == "none.json: cannot be read (No such file or directory)"
    assert json.loads(Path("found.json").read_text()) == record()
    Path("found.json").write_text(json.dumps(record(cells=[{"network": "net"}])))
    with pytest.raises(SystemExit):
        pages.main(["found.json", "--output", "page.md"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("found.json: cells.0.batch: Field required; such a file is written by")
    assert not Path("page.md").exists()
