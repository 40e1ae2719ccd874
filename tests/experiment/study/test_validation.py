"""A study's figures are those of the validation share, recomputed here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataset import load_dataset
from experiment.study.validation import OnValidation, with_shared_latency
from experiment.suite.schema import load_suite
from utils import load_model


def test_equal_networks_share_their_latency() -> None:
    def run(form: str, time: float, busy: float = 1.0) -> OnValidation:
        times = {
            "batch_1": {
                "median": busy * time,
                "baseline_median": busy * 3.0,
                "speedup_over_baseline": 3.0 / time,
            }
        }
        return OnValidation(np.ones(3, bool), None, {"inference_time_ms": times}, form)

    def taken(runs: dict[int, OnValidation]) -> list[float]:
        return [run.metrics["inference_time_ms"]["batch_1"]["median"] for run in runs.values()]

    alone = {"inference_time_ms": {"batch_1": {"median": 3.0}}}
    base = OnValidation(np.ones(3, bool), None, alone, "f")
    assert with_shared_latency({"B": {0: base}})["B"][0].metrics == base.metrics
    hurried = {"B": {0: base}, "PQ": {0: run("a", 1.0), 4: run("b", 2.0, busy=5.0)}}
    assert taken(with_shared_latency(hurried)["PQ"])[1] == pytest.approx(2.0)
    found = {"PQ": {0: run("a", 1.0), 1: run("b", 2.0)}, "QP": {2: run("a", 4.0), 1: run("a", 2.0)}}
    shared = with_shared_latency(found)
    assert {name: list(runs) for name, runs in shared.items()} == {"PQ": [0, 1], "QP": [2, 1]}
    assert taken(shared["PQ"]) == pytest.approx([2.0, 2.0])
    assert taken(shared["QP"]) == pytest.approx([2.0, 2.0])
    assert taken(found["PQ"])[0] == 1.0


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
