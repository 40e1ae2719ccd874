"""Images at one size: what stays of them, by marking every pixel, and what Pillow makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from pydantic import ValidationError

from data_sets.fit import cut_away
from data_sets.images import read_image
from data_sets.source import DataError, DatasetArgs
from dataset import describe, load_dataset

WIDE = (32, 128)  # height, width


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Two classes of 32×128 pixels that differ at their ends alone."""
    root = tmp_path / "wide"
    for split, count in (("train", 6), ("test", 2)):
        for label, name in enumerate("ab"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((*WIDE, 3), 120, np.uint8)
                pixels[:, :16] = pixels[:, -16:] = 255 if label else 10
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def args(root: Path, **more: Any) -> DatasetArgs:
    return DatasetArgs(name="ImageFolder", root=str(root), validation_share=0.25, **more)


@pytest.mark.parametrize("shape", [(32, 128), (128, 32), (30, 30), (17, 91), (400, 16)], ids=str)
@pytest.mark.parametrize("size", [(32, 32), (16, 64), (64, 16)], ids=str)
def test_the_share_that_goes_is_counted(shape: tuple[int, int], size: tuple[int, int]) -> None:
    """Pillow crops a map of coordinates: how far its corners are apart is what stays."""
    height, width = shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    spans = []
    for places in (rows, columns):
        cropped = np.asarray(ImageOps.fit(Image.fromarray(places), size[::-1]))
        steps = np.array(cropped.shape) - 1
        span = (cropped[-1, -1] - cropped[0, 0]) * (np.array(cropped.shape) / steps)
        spans.append(span[0 if places is rows else 1] / (height if places is rows else width))
    kept = spans[0] * spans[1]
    assert cut_away({shape: 3}, size) == pytest.approx(1 - kept, abs=0.06)


def test_the_share_is_a_mean_over_images() -> None:
    assert cut_away({(32, 128): 1, (64, 64): 3}, (32, 32)) == pytest.approx(0.75 / 4)
    assert cut_away({(50, 200): 7}, (16, 64)) == 0


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [32, (16, 64), [24, 20]], ids=str)
def test_images_are_fitted_as_pillow_does(wide: Path, tmp_path: Path, fit: str, size: Any) -> None:
    loaded = load_dataset(args(wide, fit=fit, image_size=size), tmp_path / "data")
    height, width = (size, size) if isinstance(size, int) else size
    with Image.open(wide / "train" / "b" / "3.png") as image:
        by_pillow = {
            "crop": lambda: ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC),
            "pad": lambda: ImageOps.pad(image, (width, height), Image.Resampling.BICUBIC),
            "stretch": lambda: image.resize((width, height), Image.Resampling.BICUBIC),
        }[fit]()
    expected = torch.from_numpy(np.array(by_pillow)).permute(2, 0, 1)
    assert loaded.info.image_size == (height, width)
    assert torch.equal(loaded.arrays.train_images[9], expected)
    ends = loaded.arrays.train_images[9][:, height // 2, [0, -1]].tolist()
    seen = fit != "crop" or size == (16, 64)
    assert (ends == [[255, 255]] * 3) == seen  # what tells the classes


def test_what_is_cut_away_is_known_at_the_check(wide: Path, tmp_path: Path) -> None:
    def share(**more: Any) -> float:
        return describe(args(wide, **more), tmp_path / "data").cut_away

    assert share(image_size=32) == share(image_size=32) == pytest.approx(0.75)
    assert share(image_size=(16, 64)) == share() == 0
    assert share(image_size=32, fit="pad") == share(image_size=32, fit="stretch") == 0
    lying = Image.new("RGB", (32, 128))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned clockwise it is 32 high and 128 wide
    lying.save(wide / "train" / "a" / "0.png", exif=exif)
    assert share(image_size=32) == pytest.approx(0.75)
    Image.new("RGB", (50, 50)).save(wide / "train" / "a" / "1.png")
    assert share(image_size=32) == pytest.approx(0.75 * 15 / 16)


def test_equal_options_are_one_data_set_and_others_are_not(wide: Path, tmp_path: Path) -> None:
    def fingerprint(**more: Any) -> str:
        return describe(args(wide, **more), tmp_path / "data").fingerprint

    same = [{"image_size": 32}, {"image_size": [32, 32]}, {"image_size": (32, 32), "fit": "crop"}]
    assert len({fingerprint(**each) for each in same}) == 1
    assert args(wide, **same[0]) == args(wide, **same[1]) == args(wide, **same[2])
    assert fingerprint() == fingerprint(fit="pad")  # nothing is resized
    others = [{"image_size": 32, "fit": f} for f in ("crop", "pad", "stretch")]
    others += [{"image_size": (16, 64)}, {"image_size": (64, 16)}, {}]
    assert len({fingerprint(**each) for each in others}) == len(others)


@pytest.mark.parametrize("size", [2, (8,), (8, 8, 8), (8, 5000), "8", 8.0, True])
def test_other_sizes_are_refused(size: Any) -> None:
    with pytest.raises(ValidationError):
        args(Path("x"), image_size=size)


def test_other_data_sets_take_no_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset_args\.fit: Digits does not take it"):
        describe(DatasetArgs(name="Digits", fit="pad"), tmp_path)


def test_what_is_no_image_has_no_shape(wide: Path, tmp_path: Path) -> None:
    (wide / "train" / "a" / "0.png").write_bytes(b"x")
    assert describe(args(wide, image_size=32), tmp_path / "data").cut_away == pytest.approx(0.75)
    with pytest.raises(DataError, match=r"0\.png is not a readable image"):
        read_image(wide / "train" / "a" / "0.png", 3)
