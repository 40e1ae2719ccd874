"""Benchmarks in a tiny form: they run, their sides are what they say, their last line is JSON."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from methods.quantization.fake_quant import quantizers

TINY = {"cnn_channels": [8], "cnn_pools": [4], "embed_dim": 8, "num_layers": 1, "num_heads": 2}


@pytest.fixture
def qat_step(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = importlib.import_module("benchmarks.qat_step")
    monkeypatch.setitem(module.ARGS, module.REFERENCE, TINY)
    return module


def test_training_accuracy_compares_both_loops(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # decoded images are kept in data/
    generator = np.random.default_rng(0)
    for split, each in ("train", 26), ("test", 2):
        for number in range(10):
            folder = tmp_path / split / str(number)
            folder.mkdir(parents=True)
            for index in range(each):
                pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    benchmark = importlib.import_module("benchmarks.training_accuracy")
    benchmark.main(["--root", str(tmp_path), "--epochs", "1", "--seeds", "1"])
    *_, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["by_seed"] == [found["ours_minus_plain"]]
    assert found["ours_minus_plain"] % 5 == 0  # of 20 test images
    with pytest.raises(SystemExit):
        benchmark.main(["--root", str(tmp_path), "--images", "100"])
    assert "needs at least 128 training images" in capsys.readouterr().err


def test_qat_step_runs(qat_step: Any, capsys: pytest.CaptureFixture[str]) -> None:
    qat_step.main([], batch=4, rounds=2)
    *_, table_end, last = capsys.readouterr().out.splitlines()
    ratios = json.loads(last)
    assert ratios.keys() == {
        "observing_vs_float", "frozen_vs_float", "torchao_vs_float", "torchao_vs_float_fp32",
    }  # fmt: skip
    assert all(ratio > 0 for ratio in ratios.values())
    assert table_end.startswith(f"| {qat_step.TORCHAO} |")


def test_qat_steps_sides_are_what_they_say(qat_step: Any) -> None:
    images = qat_step.digits(8).to(memory_format=torch.channels_last)
    labels = torch.arange(8)
    moved = {}
    for observing in (True, False):
        side = qat_step.Side(qat_step.ours(images, observing), True)
        before = {name: q.scale.clone() for name, q in quantizers(side.network)}
        side.step(3 * images, labels)
        moved[observing] = any(
            not torch.equal(before[name], q.scale) for name, q in quantizers(side.network)
        )
    assert moved == {True: True, False: False}
    peer, plain = qat_step.torchao(images), qat_step.network()
    assert [(n, p.shape) for n, p in peer.named_parameters()] == [
        (n, p.shape) for n, p in plain.named_parameters()
    ]
    graph = [str(node.target) for node in peer.graph.nodes]
    fakes = [target for target in graph if target.startswith("activation_post_process")]
    assert len(fakes) > sum(p.ndim > 1 for p in plain.parameters())  # weights, and their inputs


def test_the_inference_benchmarks_exits_are_left(tmp_path: Path) -> None:
    """Some images early and some not, in the network as it is: else its cells would be no news."""
    inference = importlib.import_module("benchmarks.inference")
    engines = importlib.import_module("benchmarks.engines")
    calibration = inference.digits(64)
    model = inference.network(inference.EXITS, calibration)
    deployed = engines.Subject(model, calibration, tmp_path, 1).ours_float
    with torch.inference_mode():
        deployed.network(calibration)
    early, end = sum(deployed.network.left[:-1]), deployed.network.left[-1]
    assert early and end and early + end == len(calibration)


def test_simulated_studies_are_judged_in_every_way(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = importlib.import_module("benchmarks.study_design")
    words = ["--studies", "4", "--resampled", "2"]
    benchmark.main([*words, "--only", "4 letters, luck small, truth mixed, 2000"])
    *_, table, _, _, lead, seconds, last = capsys.readouterr().out.splitlines()
    assert lead.startswith("least lead over today")
    assert table.split(" | ")[1] == "2-8" and seconds.startswith("verdicts on 16 chains")
    figures = json.loads(last)
    assert list(figures) == [
        *("false_decisions_per_study", "coverage", "power_vs_today", "stages_vs_fixed"),
    ]
    assert 0 < figures["stages_vs_fixed"] <= 1
    benchmark.main([*words, "--only", "truth none, 2000, "])  # losses and curves
    assert "curves | 3 |" in capsys.readouterr().out


def test_planted_differences_of_simulated_studies_are_there() -> None:
    """Large samples of each kind of score have the truth that they were drawn with."""
    benchmark = importlib.import_module("benchmarks.simulated_studies")
    random = np.random.default_rng(0)
    truth, luck = np.array([3.0, 0.0, -1.0]), np.zeros(3)
    for scores, unit in ("answers", 1.0), ("losses", benchmark.NATS):
        scenario = benchmark.Scenario(3, "none", "none", 40_000, scores)
        found = benchmark.drawn(scenario, random, truth, luck).mean(axis=(1, 2))
        assert found == pytest.approx(unit * truth, abs=0.35 * unit)
    curves = benchmark.Scenario(3, "none", "none", 40_000, "curves")
    samples = benchmark.curves(curves, random, truth, luck).samples()
    assert [s.difference for s in samples] == pytest.approx(list(truth), abs=0.35)
    pairs = [("D", "P"), ("D", "Q"), ("P", "Q")]
    stages = importlib.import_module("benchmarks.study_design").stages
    assert stages(pairs, [2, 2, 2]) == 2 * (1 + 3 + 6)
    assert stages(pairs, [2, 1, 1]) == (1 + 3 + 6) + (1 + 2 + 2)
