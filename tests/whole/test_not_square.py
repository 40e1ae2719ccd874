"""Images that are not square, end to end: every stage, `predict`, an exported file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image, ImageOps

import main
from experiment.running.checkpoint import read_checkpoint
from machine.files import save_atomically
from methods.costs import count_macs
from model import HybridCNNTransformer
from tests.support.ran import rows
from tests.support.suites import Suites, results
from tests.support.tiny import FUSIONS, TINY

CHAINS = """
EXPERIMENT_CONFIGS += [
    chain(
        "All", {"distill": {"width": 0.75, "epochs": 1, "feature_weight": 1.0}},
        {"prune": {"mode": "structural", "ratio": 0.3}}, {"early_exit": {"epochs": 1}}, "qat",
        {"prune": {"ratio": 0.2}},
    ),
    chain("Q", {"prune": {"mode": "structural", "keep": {"macs": 0.6}}}, "ptq"),
]
"""


@pytest.fixture
def strips(tmp_path: Path) -> Path:
    """Two classes of 20×60 pixels, red ends and blue ends."""
    root, rng = tmp_path / "strips", np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 10)):
        for channel, name in ((0, "red"), (2, "blue")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 90, (20, 60, 3), dtype=np.uint8)
                pixels[:, :12, channel] = pixels[:, -12:, channel] = 250
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def suite(root: Path, fusion: str, fit: str, size: object = (16, 64)) -> str:
    data = {"name": "ImageFolder", "root": str(root), "image_size": size, "fit": fit}
    return (
        f"DEFAULT_DATASET_CONFIG = {data!r}\n"
        f"DEFAULT_MODEL_PARAMS |= {{'fusion': {fusion!r}, 'num_layers': 2, 'patch_size': 8}}\n"
        "DEFAULT_TRAINING_PARAMS |= {'batch_size': 8, 'initial_train_epochs': 3}\n"
    )


@pytest.mark.parametrize(
    ("fusion", "fit"), [*zip(FUSIONS, ["pad", "stretch", "crop"], strict=True)]
)
def test_a_chain_through_every_stage(suites: Suites, strips: Path, fusion: str, fit: str) -> None:
    chains = CHAINS.replace(', "feature_weight": 1.0', "") if fusion == "parallel" else CHAINS
    assert suites.run(suite(strips, fusion, fit) + chains) == 0
    for name in ("All", "Q"):
        *_, last = results(suites, name)["stages"]
        state, _, data = read_checkpoint(last["checkpoint"])
        assert state.model_args["image_size"] == [16, 64]
        assert data is not None and data["fit"] == fit
        # What predict answers, and so how it brings images to the network, is what was measured.
        names = [str(p) for p in sorted(strips.glob("test/*/*.png"))]
        suites.capsys.readouterr()
        config = ["--config", str(suites.folder / "suite.py")]
        assert main.main(["predict", last["checkpoint"], *names, "--top", "1", *config]) == 0
        answers = rows(suites.capsys.readouterr().out)
        right = [answers[n][0].split()[0] == Path(n).parent.name for n in names]
        assert 100 * np.mean(right) == pytest.approx(last["metrics"]["accuracy"])


def test_an_exported_file_says_how_images_are_fitted(suites: Suites, strips: Path) -> None:
    assert suites.run(suite(strips, "serial", "pad")) == 0
    config = ["--config", str(suites.folder / "suite.py")]
    assert main.main(["export", "Base", "--format", "onnx", *config]) == 0
    (path,) = (suites.models / "exports").glob("*.onnx")
    session = onnxruntime.InferenceSession(path)
    about = session.get_modelmeta().custom_metadata_map
    assert about["fit"] == "pad" and "centred on black" in about["resize"]
    height, width = json.loads(about["image_size"])
    classes, right = json.loads(about["classes"]), []
    for file in strips.glob("test/*/*.png"):
        with Image.open(file) as image:
            padded = ImageOps.pad(image, (width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(padded, np.float32).transpose(2, 0, 1)[None] / 255
        (logits,) = session.run(None, {"images": pixels})
        right.append(classes[logits.argmax()] == file.parent.name)
    assert 100 * np.mean(right) == pytest.approx(float(about["accuracy"]), abs=0.01)


def test_what_is_cut_away_is_said(suites: Suites, strips: Path) -> None:
    assert suites.run(suite(strips, "serial", "crop", 16), "--dry-run") == 0
    said = suites.capsys.readouterr().out
    assert "; fit 'crop' drops 66.7% of an image" in said
    line = "fit 'crop' cuts 67% of the images away; set dataset_args.fit to 'pad' or 'stretch', or "
    assert f"warning: {line}image_size to their proportions" in said
    for size, fit in ((16, "pad"), (16, "stretch"), ((16, 44), "crop"), (None, "pad")):
        assert suites.run(suite(strips, "serial", fit, size), "--dry-run") == 0
        assert "images away" not in suites.capsys.readouterr().out


def test_what_hides_most_of_an_image_is_said_or_refused(suites: Suites, strips: Path) -> None:
    def said(recipe: str) -> str:
        text = suite(strips, "serial", "pad") + f"DEFAULT_TRAINING_PARAMS |= {recipe}\n"
        assert suites.run(text, "--dry-run") == 0
        return suites.capsys.readouterr().out

    assert "warning: cutout 36 hides up to 56% of an image of 16×64 pixels" in said(
        "{'cutout': 36}"
    )
    assert "warning" not in said("{'cutout': 30, 'augmentation': 'randaugment', 'rotation': 20}")
    assert "warning: rotation 45 hides up to 6" in said("{'rotation': 45.0}")
    text = suite(strips, "serial", "pad", (8, 128)) + "BASE['training_args'] = "
    assert suites.run(text + "{'augmentation': 'randaugment'}\n", "--dry-run") == 0
    out = suites.capsys.readouterr().out
    assert "augmentation 'randaugment' hides up to 65% of an image of 8×128 pixels" in out
    text = suite(strips, "serial", "pad") + "BASE['training_args'] = {'cutout': 64}\n"
    (line,) = suites.refused(text)
    assert line == (
        "Base.training_args: cutout 64 can hide a whole image of 16×64 pixels; set it to 32 or less"
    )


def test_a_checkpoint_of_before_says_nothing_of_fit_and_crops(
    suites: Suites, strips: Path, tmp_path: Path
) -> None:
    assert suites.run(suite(strips, "serial", "crop", 16)) == 0
    (stage,) = results(suites, "Base")["stages"]
    plain = torch.load(stage["checkpoint"], weights_only=True)
    assert plain["data"].pop("fit") == "crop"
    save_atomically(tmp_path / "before.pth", plain)
    image = str(next(strips.glob("test/red/*.png")))
    shown = []
    for path in (stage["checkpoint"], str(tmp_path / "before.pth")):
        config = ["--config", str(suites.folder / "suite.py")]
        suites.capsys.readouterr()
        assert main.main(["predict", path, image, *config]) == 0
        shown.append(suites.capsys.readouterr().out)
    assert shown[0] == shown[1]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_costs_count_both_sides(fusion: str) -> None:
    """A strip of two squares has twice a square's convolutions, and four times its attention."""
    args = {**TINY, "fusion": fusion, "mlp_grid": 1}
    square, square_layers = count_macs(HybridCNNTransformer(**args))
    strip, strip_layers = count_macs(HybridCNNTransformer(**{**args, "image_size": (8, 16)}))
    for name, macs in square_layers.items():
        once = name == "head" or name.startswith("mlp")
        assert strip_layers[name] == (1 if once else 2) * macs
    beside = square - sum(square_layers.values())
    assert strip - sum(strip_layers.values()) == 4 * beside
