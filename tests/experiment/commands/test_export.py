"""`export` through the command line: what is written, said, kept and refused."""

from __future__ import annotations

import json
import sys

import onnxruntime
import pytest

import main
from experiment.export import formats
from tests.support.exporting import altered
from tests.support.suites import Suites

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


def test_a_stopped_chain(suites: Suites) -> None:
    wreck = 'chain("W", {"prune": {"ratio": 0.9}}, "ptq"%s)'
    text = f"EXPERIMENT_CONFIGS += [{wreck}]"
    assert suites.run(text % ', stop_if={"accuracy": 90}') == 0
    line = "export: W was stopped after prune: accuracy "
    remedy = "; choose a stage up to there with --stage 1, or remove its stop_if and run it again\n"
    code, _, said = run_export(suites, "W", "--format", "onnx-int8")
    assert code == 2 and said.startswith(line) and said.endswith(f" < 90{remedy}")
    assert said.count("\n") == 1
    assert run_export(suites, "W", "--stage", "1", "--format", "onnx")[0] == 0
    # Also where another chain came to that stage.
    other = wreck.replace('"W"', '"V"') % ""
    assert (
        suites.run(text % ', stop_if={"accuracy": 90}' + f"; EXPERIMENT_CONFIGS += [{other}]") == 0
    )
    suites.capsys.readouterr()
    code, _, said = run_export(suites, "W", "--bundle")
    assert code == 2 and said.startswith(line)


def test_missing_packages(suites: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    suites.write()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setenv("CXX", "no-such-compiler")
    code, _, said = run_export(suites, "Base", "--format", "onnx", "openvino", "aoti")
    assert code == 2 and said.splitlines() == [
        "export --format onnx: needs onnxruntime; pip install onnxruntime",
        "export --format openvino: needs openvino; pip install openvino",
        "export --format aoti: needs a C++ compiler, and there is neither g++ nor what CXX names; "
        "install g++",
    ]
