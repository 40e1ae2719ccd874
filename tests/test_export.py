"""Exported files, read by their own runtimes, against the networks that they were made from."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

import main
from dataset import Dataset
from experiment.export import formats
from experiment.export.compare import ExportError, Runtime, Subject, export, reference
from experiment.export.formats import FORMATS
from methods.quantization import backends, compiled
from methods.quantization.record import Quant, quantizable_layers
from stages.deployment import deploy
from stages.stage import Context
from stages.state import build, state_of
from tests.conftest import FUSIONS, Suites, tiny

ABOUT = {"experiment": "Tiny", "classes": '["0", "猫"]', "mean": "[0.5]"}
HOME = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without autotuning, which takes most of the compiling."""
    monkeypatch.setattr(compiled, "SMALL_SETTINGS", {})


def subject(ctx: Context, backend: str | None = None, **model_args: Any) -> Subject:
    """A tiny network, with ranges observed on digits where it is quantized.

    A compiled network runs as its graph here, which takes no compiling.
    """
    loaders = ctx.loaders(batch_size=64)
    state = state_of(tiny(**{"num_layers": 1, **model_args}))
    if backend is not None:
        quant = Quant("ptq", backend, calibration_batches=2)
        quant = backends.with_calibrated_ranges(build(state), quant, loaders.calibration)
        state = state.changed(state.weights, quant=quant)
    network = deploy(state)
    if isinstance(network, compiled.CompiledNetwork):
        network.forward = network.graph.forward  # type: ignore[method-assign]
    return Subject(state, network, loaders.test, ABOUT)


def pixels(digits: Dataset, count: int) -> np.ndarray:
    return digits.arrays.test_images[:count].numpy().astype(np.float32) / 255


# --- formats ------------------------------------------------------------------------------------


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
    model = build(made.state)
    layers = quantizable_layers(model)
    assert weights == sum(made.state.weights[f"{name}.weight"].numel() for name in layers)
    assert made.state.quant is not None and made.state.quant.ranges is not None
    ours = {round(float(scale), 7) for scale, _ in made.state.quant.ranges.values()}
    scales = [stored[n.input[1]] for n in graph.node if n.op_type == "QuantizeLinear"]
    assert len(scales) >= len(layers)
    assert {round(float(scale), 7) for scale in scales} <= ours
    session = onnxruntime.InferenceSession(path)
    (logits,) = session.run(None, {"images": pixels(digits, 360)})
    assert (logits.argmax(1) == expected.logits.argmax(1).numpy()).mean() > 0.98


@pytest.mark.parametrize("scheme", ["ptq", "qat"])
@pytest.mark.parametrize(
    "args",
    [
        {"fusion": "parallel"},
        {"pooling": "sequence", "cnn_separable": True, "cnn_norm": "group"},
        {"fusion": "parallel_attention", "cnn_norm": "none", "ffn_activation": "relu"},
    ],
    ids=["parallel", "separable", "patches"],
)
def test_fx_networks_written_out_give_the_same_logits(scheme: str, args: dict[str, Any]) -> None:
    """A value between two levels may go to the other one: seen for 2 of 64 without AVX512."""
    model, images = tiny(**args), torch.randn(64, 1, 8, 8)
    quant = backends.with_calibrated_ranges(model, Quant(scheme, "x86"), [(images, images)])
    network = backends.to_int8(model, quant)
    written_out = backends.exportable(network, "x86")
    with torch.inference_mode():
        off = (written_out(images) - network(images)).abs().amax(1)
    assert int((off > 1e-5).sum()) <= 3 and off.max() < 0.05


@pytest.mark.parametrize("backend", [None, "inductor"])
def test_openvino(backend: str | None, ctx: Context, digits: Dataset, tmp_path: Path) -> None:
    made = subject(ctx, backend)
    path, expected = tmp_path / "network.xml", reference(made)
    export(made, FORMATS["openvino"], path, None, expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["network.bin", "network.xml"]
    model = openvino.Core().read_model(path)
    for key, value in ABOUT.items():
        assert model.get_rt_info(["model_info", key]).astype(str) == value
    network = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    logits = network([pixels(digits, 360)])[0]
    assert (logits.argmax(1) == expected.logits.argmax(1).numpy()).mean() > 0.98
    assert FORMATS["openvino"].read(path).about == ABOUT
    weights = path.with_suffix(".bin").stat().st_size
    parameters = sum(p.numel() for p in build(made.state).parameters())
    assert weights < 4.5 * parameters if backend is None else weights < 2.5 * parameters


def readme_script(name: str = "README.md") -> str:
    text = (HOME / name).read_text()
    found = re.search(r"```python\n(# classify\.py.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("backend", [pytest.param(None, marks=pytest.mark.slow), "inductor"])
def test_aoti_packages_run_without_this_project(
    backend: str | None,
    ctx: Context,
    digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the README's script, in a process that cannot import the project."""
    made = subject(ctx, backend, cnn_channels=[8], cnn_pools=[2])
    classes = [f"digit {i}" for i in range(10)]
    about = {
        **ABOUT,
        "classes": json.dumps(classes),
        "image_size": "[8, 8]",
        "channels": "grey",
    }
    made, path, expected = replace(made, about=about), tmp_path / "n.pt2", reference(made)
    export(made, FORMATS["aoti"], path, 1, expected)
    assert FORMATS["aoti"].read(path).about["batch"] == "1"
    (tmp_path / "classify.py").write_text(readme_script())
    image = Image.fromarray(digits.arrays.test_images[7, 0].numpy())
    image.save(tmp_path / "image.png")
    command = [sys.executable, "-I", "classify.py", "n.pt2", "image.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == classes[int(expected.logits[7].argmax())]
    monkeypatch.setenv("AOTI_RUNTIME_CHECK_INPUTS", "1")  # as the script does
    with pytest.raises(RuntimeError, match="expected: 1, but got: 2"):
        FORMATS["aoti"].read(path).run(torch.zeros(2, 1, 8, 8))


def test_both_readmes_show_the_same_script() -> None:
    assert readme_script("README.md") == readme_script("README.zh-CN.md")


# --- mismatches ---------------------------------------------------------------------------------


def altered(logits: Any) -> Any:
    """FORMATS['onnx'], but that what it reads gives `logits(true ones)`."""

    true = FORMATS["onnx"]

    def read(path: Path) -> Runtime:
        real = true.read(path)
        return Runtime(lambda images: logits(real.run(images)), real.about)

    return replace(true, read=read)


def test_files_that_differ_are_not_kept(ctx: Context, tmp_path: Path) -> None:
    made, kept, path = subject(ctx, num_layers=0), tmp_path / "kept", tmp_path / "out" / "n.onnx"
    expected = reference(made)
    export(made, FORMATS["onnx"], kept, None, expected)
    calls = iter(range(10_000))
    for logits, message in [
        (lambda found: found + 0.01, r"differs from the network by \S+% of its logits \(allowed 0"),
        (lambda found: found.flip(1), r"at \d+\.\d+% of the images in the class \(allowed 0.10%\)"),
        (lambda found: found * float("nan"), "differs from the network by nan%"),
        (lambda found: found[:, :9], r"gives logits \[360, 9\], expected \[360, 10\]"),
        (lambda found: found + next(calls), "other logits when it is run again"),
    ]:
        copying = replace(altered(logits), write=lambda _, path, batch: shutil.copy(kept, path))
        with pytest.raises(ExportError, match=message):
            export(made, copying, path, None, expected)
        assert list(path.parent.iterdir()) == []
    other = subject(ctx, num_layers=0, cnn_channels=[8, 8])
    with pytest.raises(ExportError, match="in the class"):
        export(other, FORMATS["onnx"], path, None, expected)
    assert list(path.parent.iterdir()) == []


def test_an_int8_file_with_one_wrong_range_is_not_kept(ctx: Context, tmp_path: Path) -> None:
    made = subject(ctx, "x86")
    expected = reference(made)
    with torch.inference_mode():
        plain = torch.cat([build(made.state)(images) for images, _ in made.test])
    moved = float((expected.logits - plain).norm() / plain.norm())
    assert expected.relative == pytest.approx(2 * moved) and expected.relative < 0.1
    quant = made.state.quant
    assert quant is not None and quant.ranges is not None
    place = list(quant.ranges)[-2]  # what the classifier takes
    scale, zero_point = quant.ranges[place].tolist()
    ranges = {**quant.ranges, place: torch.tensor([scale / 3, zero_point])}
    state = replace(made.state, quant=replace(quant, ranges=ranges))
    wrong = replace(made, state=state, network=deploy(state))
    with pytest.raises(ExportError, match="differs from the network by"):
        export(wrong, FORMATS["onnx-int8"], tmp_path / "n.onnx", None, expected)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_one_line(ctx: Context, tmp_path: Path) -> None:
    def write(subject: Subject, path: Path, batch: int | None) -> None:
        raise RuntimeError("no such operator\nand a long story")

    broken = replace(FORMATS["onnx"], write=write)
    made = subject(ctx, num_layers=0)
    with pytest.raises(ExportError) as error:
        export(made, broken, tmp_path / "network.onnx", None, reference(made))
    assert str(error.value) == "cannot be written and read again: no such operator"
    assert list(tmp_path.iterdir()) == []


# --- the command --------------------------------------------------------------------------------

CHAINS = 'EXPERIMENT_CONFIGS += [chain("Q", "ptq"), chain("P_Q", {"prune": {"ratio": 0.4}}, "ptq")]'


def run_export(suites: Suites, *arguments: str) -> tuple[int, str, str]:
    config = str(suites.folder / "suite.py")
    code = main.main(["export", *arguments, "--config", config])
    captured = suites.capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out, captured.err


def test_command(suites: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    suites.write(CHAINS)
    code, _, said = run_export(suites, "Q", "--format", "onnx-int8")
    assert code == 2
    assert said.startswith("export: Q: quantized_ptq_int8 is not in the store; run it first: ")
    assert said.endswith("suite.py --only Q\n") and said.count("\n") == 1
    assert suites.run(CHAINS) == 0
    suites.capsys.readouterr()

    folder = suites.models / "exports"
    code, out, _ = run_export(suites, "P_Q", "--format", "onnx-int8")
    path = folder / "P_Q_p40_quantized_ptq_int8.onnx"
    assert code == 0 and path.exists() and "onnx-int8: writing" in out
    found = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert found["experiment"] == "P_Q" and found["stage"] == "ptq (2 of 2)"
    assert found["dataset"] == "Digits" and json.loads(found["classes"])[9] == "9"
    assert json.loads(found["image_size"]) == [8, 8] and len(json.loads(found["mean"])) == 1
    assert json.loads(found["quantization"])["backend"] == "x86"
    results = json.loads((suites.results / "P_Q_results.json").read_text())
    assert found["key"] == results["stages"][-1]["key"]
    assert float(found["accuracy"]) == pytest.approx(
        results["stages"][-1]["metrics"]["accuracy"], abs=0.01
    )

    before = path.read_bytes()
    code, out, _ = run_export(suites, "P_Q", "--format", "onnx-int8")
    assert code == 0 and "onnx-int8: reading" in out and path.read_bytes() == before
    path.write_bytes(b"mine")
    code, _, said = run_export(suites, "P_Q", "--format", "onnx-int8")
    assert code == 2 and "is there and holds something else; remove it, add --overwrite" in said
    assert path.read_bytes() == b"mine"
    code, out, _ = run_export(suites, "P_Q", "--format", "onnx-int8", "--overwrite")
    assert code == 0 and len(path.read_bytes()) == len(before)
    other = folder / "Q_quantized_ptq_int8.onnx"
    other.write_bytes(before)
    code, _, said = run_export(suites, "Q", "--format", "onnx-int8")
    assert code == 2 and f"holds P_Q {found['key'][:12]}; remove it" in said

    code, out, _ = run_export(suites, "P_Q", "--stage", "1", "--format", "onnx")
    assert code == 0 and (folder / "P_Q_pruned_40.onnx").exists()
    monkeypatch.setitem(formats.FORMATS, "onnx", altered(lambda logits: -logits))
    output = suites.folder / "elsewhere"
    code, _, said = run_export(suites, "Base", "--format", "onnx", "--output", str(output))
    assert code == 1 and said.endswith("; not kept\n") and said.count("\n") == 1
    assert list(output.iterdir()) == []

    for arguments, message in [
        (["Q", "--format", "onnx"], "Q: quantized_ptq_int8 is int8; choose --format onnx-int8, or"),
        (["Base", "--format", "onnx-int8"], "is float32; name an experiment with ptq or qat, or"),
        (["Q", "--format", "onnx", "--batch", "1"], "export --batch: is for --format aoti"),
        (
            ["P_Q", "--format", "onnx", "--stage", "3"],
            "--stage 3: is not a stage of it; allowed: 1",
        ),
        (["Q", "--format", "onnx", "--seed", "7"], "export --seed 7: was not run; allowed: 0"),
        (["R", "--format", "onnx"], "'R' is not"),
        (["Q", "--format", "tflite"], "invalid choice: 'tflite'"),
        (["Q", "--format", "aoti", "--batch", "0"], "0 should be a whole number from 1 to 65536"),
    ]:
        code, _, said = run_export(suites, *arguments)
        assert code == 2 and message in said and said.count("\n") == 1


def test_missing_packages(suites: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    suites.write()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setenv("CXX", "no-such-compiler")
    code, _, said = run_export(suites, "Base", "--format", "onnx", "openvino", "aoti")
    assert code == 2 and said.splitlines() == [
        "export --format onnx: needs onnxruntime; pip install onnxruntime",
        "export --format openvino: needs openvino; pip install openvino",
        "export --format aoti: needs a C++ compiler, and there is no no-such-compiler; install g++",
    ]
