"""The script of a bundle decodes pictures as the project does, and says what is wrong in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from data_sets.images import read_image
from data_sets.source import DataError
from experiment.export import classify

GREYS = np.random.default_rng(0).integers(0, 4096, (19, 12), dtype=np.uint16)
COLOURS = np.random.default_rng(1).integers(0, 256, (13, 31, 3), dtype=np.uint8)


def awkward(folder: Path) -> list[Path]:
    """Deep, tagged, turned, with a palette, with alpha, of any proportions."""
    Image.fromarray(GREYS).save(folder / "deep.png")
    Image.fromarray(GREYS).save(folder / "deep.tif")
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[classify.MAX_SAMPLE_VALUE] = 4095
    Image.fromarray(GREYS).save(folder / "tagged.tif", tiffinfo=tags)
    colours = Image.fromarray(COLOURS)
    colours.save(folder / "plain.webp", lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    colours.save(folder / "turned.jpg", exif=exif)
    colours.convert("P").save(folder / "palette.png")
    colours.convert("RGBA").save(folder / "alpha.png")
    colours.convert("CMYK").save(folder / "print.jpg")
    colours.convert("1").save(folder / "bits.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_those_of_the_project(fit: Any, channels: int, tmp_path: Path) -> None:
    for bits in (12, 16):
        about = {
            "image_size": json.dumps([8, 10]),
            "bits": str(bits),
            "channels": "RGB" if channels == 3 else "grey",
            "fit": fit,
        }
        for path in awkward(tmp_path):
            expected = read_image(path, channels, (8, 10), bits, fit)
            found = torch.from_numpy(classify.picture(str(path), about))
            assert torch.equal(found, expected), path.name


def test_what_is_no_picture_is_one_line(tmp_path: Path) -> None:
    about = {"image_size": "[8, 8]", "bits": "10", "channels": "grey", "fit": "crop"}
    Image.fromarray(GREYS).save(tmp_path / "deep.png")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tif")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    names = ["deep.png", "float.tif", "text.png", "page.eps"]
    for path in [tmp_path / name for name in names]:
        with pytest.raises(classify.Problem, match="is not a readable image") as problem:
            classify.picture(str(path), about)
        assert str(problem.value).count("\n") == 0
        with pytest.raises(DataError):
            read_image(path, 1, (8, 8), 10)
    for name, said in (
        ("none.png", "there is no such file"),
        (".", "is a folder; name the images"),
    ):
        with pytest.raises(classify.Problem, match=said):
            classify.picture(str(tmp_path / name), about)


def test_batches_of_a_fixed_size_are_filled_up_and_cut(tmp_path: Path) -> None:
    """Probabilities are those of a softmax over the images' own logits."""
    pictures = np.random.default_rng(0).integers(0, 256, (5, 1, 2, 2), dtype=np.uint8)
    sizes = []

    def run(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return images.reshape(len(images), -1) * 5

    expected = torch.from_numpy(pictures).double().div(255).mul(5).flatten(1).softmax(1)
    for about, asked in (({"batch": "2"}, [2, 2, 2]), ({}, [5])):
        sizes.clear()
        found = classify.probabilities(classify.Network(run, about), pictures)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)
        assert sizes == asked
