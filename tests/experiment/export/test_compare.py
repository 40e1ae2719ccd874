"""Files that answer differently are not kept, and the line says where they differ."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiment.export.compare import ExportError, Subject, export, reference
from experiment.export.formats import FORMATS
from stages.deployment import deploy
from stages.stage import Context
from stages.state import build
from tests.support.exporting import altered, subject


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
        plain = torch.cat([build(made.deployed.state)(images) for images, _ in made.test])
    moved = float((expected.logits - plain).norm() / plain.norm())
    assert expected.relative == pytest.approx(2 * moved) and expected.relative < 0.1
    quant = made.deployed.state.quant
    assert quant is not None and quant.ranges is not None
    place = list(quant.ranges)[-2]  # what the classifier takes
    scale, zero_point = quant.ranges[place].tolist()
    ranges = {**quant.ranges, place: torch.tensor([scale / 3, zero_point])}
    state = replace(made.deployed.state, quant=replace(quant, ranges=ranges))
    wrong = replace(made, deployed=deploy(state))
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
