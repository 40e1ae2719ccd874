"""Exported files, read by their own runtimes, against the networks that they were made from."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from dataset import Dataset
from engines.openvino import core
from experiment.export.bundle import SCRIPT
from experiment.export.compare import export, reference
from experiment.export.formats import FORMATS
from methods.quantization.record import quantizable_layers
from stages.stage import Context
from stages.state import build
from tests.support.exporting import ABOUT, subject
from tests.support.home import HOME
from tests.support.tiny import FUSIONS


def pixels(digits: Dataset, count: int) -> np.ndarray:
    return digits.arrays.test_images[:count].numpy().astype(np.float32) / 255


@pytest.mark.parametrize("fusion", FUSIONS)
def test_float_onnx(fusion: str, ctx: Context, digits: Dataset, tmp_path: Path) -> None:
    made = subject(ctx, fusion=fusion, pooling="class_token")
    path, expected = tmp_path / "network.onnx", reference(made)
    found = export(made, FORMATS["onnx"], path, None, expected)
    assert found.accuracy == found.network_accuracy and found.other_class == 0
    assert [p.name for p in tmp_path.iterdir()] == ["network.onnx"]
    session = onnxruntime.InferenceSession(path)
    for count in (1, 3, 64):
        (logits,) = session.run(["logits"], {"images": pixels(digits, count)})
        np.testing.assert_allclose(logits, expected.logits[:count].numpy(), rtol=1e-3, atol=1e-4)
    assert session.get_modelmeta().custom_metadata_map == ABOUT
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert str(HOME).encode() not in path.read_bytes()


@pytest.mark.parametrize("pooling", ["mean", "sequence"])
def test_nncf_quantizes_the_float_file_as_a_transformer(
    pooling: str, ctx: Context, digits: Dataset, tmp_path: Path
) -> None:
    """OpenVINO gives wrong values where a reduction that drops its axis comes before a factor."""
    import nncf

    made, path = subject(ctx, pooling=pooling), tmp_path / "network.xml"
    export(made, FORMATS["openvino"], path, None, reference(made))
    model = core().read_model(path)
    kept = [op.get_keep_dims() for op in model.get_ops() if "Reduce" in op.get_type_name()]
    assert kept == [True]
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    expected = core().compile_model(model, "CPU", settings)([pixels(digits, 360)])[0]
    nncf.set_log_level(logging.ERROR)
    quantized = nncf.quantize(
        model,
        nncf.Dataset([pixels(digits, 64)]),
        subset_size=1,
        model_type=nncf.ModelType.TRANSFORMER,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.quantization.advanced_parameters.OverflowFix.ENABLE
        ),
    )
    found = core().compile_model(quantized, "CPU", settings)([pixels(digits, 360)])[0]
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


@pytest.mark.parametrize("backend", ["inductor", "x86"])
def test_int8_onnx(backend: str, ctx: Context, digits: Dataset, tmp_path: Path) -> None:
    """QDQ with our ranges and int8 weights: the file's own numbers, and its classes."""
    made = subject(ctx, backend, fusion="parallel")
    path, expected = tmp_path / "network.onnx", reference(made)
    found = export(made, FORMATS["onnx-int8"], path, None, expected)
    assert found.other_class < 0.02
    graph = onnx.load(path).graph
    stored = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    weights = sum(a.size for a in stored.values() if a.dtype == np.int8 and a.ndim > 1)
    model = build(made.deployed.state)
    layers = quantizable_layers(model)
    assert weights == sum(made.deployed.state.weights[f"{name}.weight"].numel() for name in layers)
    assert made.deployed.state.quant is not None and made.deployed.state.quant.ranges is not None
    ours = {round(float(scale), 7) for scale, _ in made.deployed.state.quant.ranges.values()}
    scales = [stored[n.input[1]] for n in graph.node if n.op_type == "QuantizeLinear"]
    assert len(scales) >= len(layers)
    assert {round(float(scale), 7) for scale in scales} <= ours
    session = onnxruntime.InferenceSession(path)
    (logits,) = session.run(None, {"images": pixels(digits, 360)})
    assert (logits.argmax(1) == expected.logits.argmax(1).numpy()).mean() > 0.98


@pytest.mark.parametrize("backend", [None, "inductor"])
def test_openvino(backend: str | None, ctx: Context, digits: Dataset, tmp_path: Path) -> None:
    made = subject(ctx, backend)
    path, expected = tmp_path / "network.xml", reference(made)
    export(made, FORMATS["openvino"], path, None, expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["network.bin", "network.xml"]
    model = core().read_model(path)
    for key, value in ABOUT.items():
        assert model.get_rt_info(["model_info", key]).astype(str) == value
    network = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    logits = network([pixels(digits, 360)])[0]
    assert (logits.argmax(1) == expected.logits.argmax(1).numpy()).mean() > 0.98
    assert FORMATS["openvino"].read(path).about == ABOUT
    weights = path.with_suffix(".bin").stat().st_size
    parameters = sum(p.numel() for p in build(made.deployed.state).parameters())
    assert weights < 4.5 * parameters if backend is None else weights < 2.5 * parameters


@pytest.mark.parametrize("backend", [pytest.param(None, marks=pytest.mark.slow), "inductor"])
def test_aoti_packages_run_without_this_project(
    backend: str | None,
    ctx: Context,
    digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the script of a bundle, in a process that cannot import the project."""
    made = subject(ctx, backend, cnn_channels=[8], cnn_pools=[2])
    classes = [f"digit {i}" for i in range(10)]
    about = {
        **ABOUT,
        "classes": json.dumps(classes),
        "image_size": "[8, 8]",
        "channels": "grey",
        "fit": "crop",
        "bits": "16",
        "needs_vnni": "false",
    }
    made, path, expected = replace(made, about=about), tmp_path / "network.pt2", reference(made)
    export(made, FORMATS["aoti"], path, 1, expected)
    assert FORMATS["aoti"].read(path).about["batch"] == "1"
    (tmp_path / "classify.py").write_bytes(SCRIPT.read_bytes())
    (tmp_path / "labels.txt").write_text("\n".join(classes))
    image = Image.fromarray(digits.arrays.test_images[7, 0].numpy())
    image.save(tmp_path / "image.png")
    command = [sys.executable, "-I", "classify.py", "image.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\t")[1] == classes[int(expected.logits[7].argmax())]
    monkeypatch.setenv("AOTI_RUNTIME_CHECK_INPUTS", "1")  # as the script does
    with pytest.raises(RuntimeError, match="expected: 1, but got: 2"):
        FORMATS["aoti"].read(path).run(torch.zeros(2, 1, 8, 8))
