"""Bundles classify as `predict` does where this project is not; or nothing is written."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import main
from dataset import Dataset
from experiment.export import bundle, formats
from experiment.export.bundle import NAMES
from experiment.running.store import Store
from tests.support.exporting import altered
from tests.support.ran import rows
from tests.support.suites import CHAINS, Ran, Suites, results

FILES = ["README.md", "classify.py", "labels.txt", "requirements.txt"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> list[str]:
    """Test images as files of many kinds, more than fit in one batch of the script."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, image in enumerate(digits.arrays.test_images[:70, 0].numpy()):
        grey = Image.fromarray(image)
        grey.save(folder / f"{number:02}.png")
    large = grey.resize((40, 60), Image.Resampling.NEAREST)
    large.convert("RGB").save(folder / "large.jpg")
    Image.fromarray(np.asarray(large).astype(np.uint16) * 257).save(folder / "deep.tif")
    exif = Image.Exif()
    exif[0x0112] = 6
    large.transpose(Image.Transpose.ROTATE_90).save(folder / "turned 猫.png", exif=exif)
    return sorted(map(str, folder.iterdir()))


def classified(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """By the script of a bundle, in a process that cannot import the project."""
    command = [sys.executable, "-I", str(folder / "classify.py"), *arguments]
    return subprocess.run(
        command, cwd=folder.parent, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("name", "engine", "files", "package"),
    [
        ("Base", "onnxruntime", ["network.onnx"], "onnxruntime"),
        ("Base", "openvino", ["network.bin", "network.xml"], "openvino"),
        ("PFQat", "eager", ["network.onnx"], "onnxruntime"),
        ("PFQat", "openvino", ["network.bin", "network.xml"], "openvino"),
        pytest.param("PF", "inductor", ["network.pt2"], "torch", marks=pytest.mark.slow),
    ],
)
def test_a_bundle_classifies_as_predict_does(
    name: str,
    engine: str,
    files: Sequence[str],
    package: str,
    ran: Ran,
    command: Any,
    pictures: list[str],
    tmp_path: Path,
) -> None:
    path = tmp_path / "here" / "bundle"
    code, out, said = command("export", name, "--bundle", "--engine", engine, "--output", str(path))
    assert code == 0, said
    assert f"bundle for {engine}: writing {path}" in out
    assert [file.name for file in path.parent.iterdir()] == ["bundle"]
    assert sorted(file.name for file in path.iterdir()) == sorted([*FILES, *files])
    assert {file.name for file in path.iterdir()} <= NAMES
    versions = (path / "requirements.txt").read_text().splitlines()
    assert [line.split("==")[0] for line in versions] == ["numpy", "pillow", package]
    assert versions[0] == f"numpy=={metadata.version('numpy')}"
    assert (path / "labels.txt").read_text().split() == [str(digit) for digit in range(10)]

    moved = tmp_path / "elsewhere"
    path.rename(moved)
    done = classified(moved, *pictures)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    found = [line.split("\t") for line in done.stdout.splitlines()]
    assert [picture for picture, *_ in found] == pictures
    checkpoint = next(s["checkpoint"] for s in ran.result(name)["stages"][::-1] if s["seed"] == 0)
    code, out, _ = command("predict", checkpoint, *pictures, "--top", "2")
    assert code == 0
    expected = rows(out)
    room = 5 if name == "PFQat" else 0.15  # points; int8 rounds in another order
    for picture, label, probability in found:
        first, second = (each.split() for each in expected[picture])
        close = float(first[1]) - float(second[1]) < room
        assert label == first[0] or (close and label == second[0]), picture
        if label == first[0]:
            assert float(probability.split()[0]) == pytest.approx(float(first[1]), abs=room)


def test_the_card_says_what_the_results_say(ran: Ran, command: Any, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    arguments = ["--engine", "onnxruntime", "--output", str(path)]
    assert command("export", "PFQat", "--bundle", *arguments)[0] == 0
    card = (path / "README.md").read_text()
    assert "\n\n\n" not in card and "{" not in re.sub(r"`[^`]*`", "", card)
    *_, last = ran.result("PFQat")["stages"]
    metrics, baseline = last["metrics"], ran.result("Base")["stages"][0]["metrics"]
    validation = metrics["validation"]["accuracy"], baseline["validation"]["accuracy"]
    for row in (
        "| | this network | float baseline Base |",
        f"| accuracy (%) | {metrics['accuracy']:.2f} | {baseline['accuracy']:.2f} |",
        "| validation accuracy (%) | {:.2f} | {:.2f} |".format(*validation),
        f"| size as deployed (MB) | {metrics['model_size_mb']:.3f} | "
        f"{baseline['model_size_mb']:.3f} |",
    ):
        assert row in card
    for batch, time in metrics["inference_time_ms"].items():
        row = f"| {batch.removeprefix('batch_')} | {time['median']:.3f} | {time['p95']:.3f} |"
        assert row in card
        assert time["device"] in card and f"{time['threads']} threads" in card
    assert [line.split("|")[1].strip() for line in card.splitlines() if "| `{" in line] == [
        "train", "prune", "finetune", "qat",
    ]  # fmt: skip
    assert f"Store key `{last['key']}`" in card and f"--config {ran.config} --only PFQat" in card
    assert "## Licence" in card and "It does not need VNNI" in card  # x86's have 7 bits


def test_the_fastest_engine_is_taken_where_none_is_named(
    run_before: Suites, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the record has it; one of an earlier version has none."""
    path = run_before.folder / "bundle"
    config = str(run_before.write(CHAINS))
    arguments = ["export", "Base", "--bundle", "--output", str(path), "--config", config]
    key = results(run_before, "Base")["stages"][-1]["key"]
    store = Store(run_before.models)
    record = store.record(key)
    assert record is not None
    for engine, file in (("eager", "network.onnx"), ("openvino", "network.xml"), (None, None)):
        time = record["metrics"]["inference_time_ms"]["batch_1"]
        time.pop("engine")
        if engine is not None:
            time["engine"] = engine
        store.put_record(key, record)
        capsys.readouterr()
        code = main.main([*arguments, "--overwrite"])
        out, said = capsys.readouterr()
        if file is None:
            assert code == 2 and said.count("\n") == 1
            assert "tells no fastest engine; name one with --engine, or run it again" in said
        else:
            assert code == 0 and f"bundle for {engine}" in out and (path / file).exists()


def test_conditions(ran: Ran, command: Any, tmp_path: Path) -> None:
    base, mine = (ran.result(name)["stages"] for name in ("Base", "PFQat"))
    drop = base[0]["metrics"]["accuracy"] - mine[-1]["metrics"]["accuracy"]
    path = tmp_path / "bundle"
    bundle = ["export", "PFQat", "--bundle", "--engine", "onnxruntime", "--output", str(path)]
    bound = round(drop - 0.1, 3)
    code, _, said = command(*bundle, "--if", f"accuracy_drop<={bound}, params>=1")
    assert code == 1 and said == [
        f"export --if: PFQat: quantized_qat_int8: accuracy_drop is {drop:.4g} on the test "
        f"split, and accuracy_drop<={bound:g} was asked for; nothing is written"
    ]
    code, _, said = command(*bundle, "--if", "balanced_accuracy>1")
    assert code == 1 and "balanced_accuracy was not measured" in said[0] and len(said) == 1
    assert list(tmp_path.iterdir()) == []
    code, _, said = command(*bundle, "--if", f"accuracy_drop<={drop + 0.1:.3f}, bitops>1")
    assert code == 0 and (path / "classify.py").exists(), said


def test_what_is_in_the_way_stays(
    ran: Ran, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(name: str, *more: str) -> tuple[int, str, list[str]]:
        arguments = ["--engine", "onnxruntime", "--output", str(path), *more]
        return command("export", name, "--bundle", *arguments)

    path = tmp_path / "bundle"
    path.mkdir()  # empty: nothing is in the way
    assert write("Base")[0] == 0
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    code, _, said = write("PF")
    assert code == 2 and said == [
        f"export --bundle: {path} is there and holds a bundle; remove it, add --overwrite, or "
        "choose another folder with --output"
    ]
    with monkeypatch.context() as patch:
        patch.setitem(formats.FORMATS, "onnx", altered(lambda logits: -logits))
        code, _, said = write("PF", "--overwrite")
    assert code == 1 and len(said) == 1 and said[0].endswith("; not kept")
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert write("PF", "--overwrite")[0] == 0
    assert (path / "network.onnx").read_bytes() != before["network.onnx"]
    (path / "mine.txt").write_text("mine")
    code, _, said = write("Base", "--overwrite")
    assert code == 2 and "holds something else; remove it or choose another folder" in said[0]
    assert (path / "mine.txt").exists() and [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_refusals(ran: Ran, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, message in [
        (["EQ", "--bundle", "--engine", "eager"], "leaves early, which no format holds"),
        (["Base", "--bundle", "--format", "onnx"], "not allowed with argument"),
        (["Base", "--bundle", "--engine", "tflite"], "invalid choice: 'tflite'"),
        (["Base", "--bundle", "--if", "accuracy_dorp<=1"], "did you mean 'accuracy_drop'"),
        (["Base", "--bundle", "--if", "min params"], "should read like accuracy_drop<=0.5"),
        (["Base", "--bundle", "--if", "params<=much"], "'much' is not a number"),
        (["Base", "--format", "onnx", "--if", "params<1"], "export --if: is for --bundle"),
        (["Base", "--format", "onnx", "--engine", "eager"], "export --engine: is for --bundle"),
        (["Base", "--bundle", "--batch", "1"], "export --batch: is for --format aoti"),
    ]:
        code, _, said = command("export", *arguments, "--output", str(tmp_path / "bundle"))
        assert code == 2 and message in said[0] and len(said) == 1, said
    assert list(tmp_path.iterdir()) == []


def test_what_a_bundle_lacks_is_one_line(ran: Ran, command: Any, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    arguments = ["--engine", "onnxruntime", "--output", str(path)]
    assert command("export", "Base", "--bundle", *arguments)[0] == 0
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    done = classified(path, str(tmp_path / "b.png"), str(tmp_path / "a.png"), "--top", "3")
    assert done.returncode == 1 and done.stdout.count("\t") == 6
    assert done.stderr.startswith(f"classify.py: {tmp_path / 'b.png'} is not a readable image (")
    assert done.stderr.count("\n") == 1
    (path / "network.onnx").write_bytes(b"damaged")
    done = classified(path, str(tmp_path / "a.png"))
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("classify.py: network.onnx cannot be read: ")
    (path / "network.onnx").unlink()
    done = classified(path, str(tmp_path / "a.png"))
    assert done.returncode == 2 and done.stderr.startswith("classify.py: there is no network.onnx")
    bare = [sys.executable, "-I", "-S", str(path / "classify.py"), "a.png"]
    alone = subprocess.run(bare, capture_output=True, text=True, check=False)
    assert alone.returncode == 1
    assert alone.stderr == "classify.py: needs numpy; pip install -r requirements.txt\n"


def test_labels_stay_a_line_each() -> None:
    classes = ["猫", "two\nlines", "a\u2028b", "\udcff", " x\u3000y "]
    lines = bundle._labels(classes).split("\n")
    assert lines == ["猫", "two\\nlines", "a\\u2028b", "\\udcff", " x\u3000y ", ""]
