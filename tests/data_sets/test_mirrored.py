"""Mirrored classes are told where there are some, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from data_sets.mirrored import swapped_classes
from dataset import Dataset, load_dataset
from tests.support.photographs import needs_archive, photographs
from tests.support.suites import Suites, results


def arrows(count: int, jitter: int = 2, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Arrows to the left (0), to the right (1), and squares (2), in noise, each a little off."""
    images = torch.randint(0, 40, (3 * count, channels, 24, 32), dtype=torch.uint8)
    labels = torch.arange(3 * count) % 3
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = (torch.randint(-jitter, jitter + 1, (2,)) + torch.tensor([12, 16])).tolist()
        if label == 2:
            image[:, row - 4 : row + 4, column - 4 : column + 4] = 220
            continue
        image[:, row - 1 : row + 2, column - 8 : column + 8] = 220
        for step in range(6):
            tip = column - 8 + step if label == 0 else column + 7 - step
            image[:, [row - step, row + step], tip] = 220
    return images, labels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [30, 300])
def test_arrows_are_one_anothers_mirror_images(count: int, channels: int) -> None:
    images, labels = arrows(count, 1, channels)
    assert swapped_classes(images, labels) == [(0, 1)]
    assert swapped_classes(images.transpose(2, 3).contiguous(), labels) == []  # up and down
    order = torch.randperm(len(images))
    assert swapped_classes(images[order], (2 - labels)[order]) == [(1, 2)]


@pytest.mark.parametrize("seed", range(10))
def test_chance_says_nothing(seed: int) -> None:
    """Images without any class, few and many classes."""
    torch.manual_seed(seed)
    images = torch.randint(0, 256, (240, 3, 16, 16), dtype=torch.uint8)
    for classes in (2, 10, 80):
        assert swapped_classes(images, torch.arange(240) % classes) == []
    assert swapped_classes(images[:3], torch.tensor([0, 1, 1])) == []


def test_digits_have_no_mirrored_classes(digits: Dataset) -> None:
    assert digits.swapped_when_flipped == []


@needs_archive
def test_photographs_have_no_mirrored_classes(tmp_path: Path) -> None:
    args = photographs(tmp_path, (f"0{i:03}.jpg" for i in range(120)))
    assert load_dataset(args, tmp_path / "data").swapped_when_flipped == []


def test_the_stage_that_flips_says_so(suites: Suites, tmp_path: Path) -> None:
    for split in ("train", "test"):
        images, labels = arrows(60)
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            folder = tmp_path / "arrows" / split / ("left", "right", "square")[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    data = {"name": "ImageFolder", "root": str(tmp_path / "arrows")}
    for recipe, flips in (({}, True), ({"flip": False}, False), ({"augmentation": "none"}, False)):
        recipe = {"initial_train_epochs": 1, **recipe}
        text = f"DEFAULT_DATASET_CONFIG = {data!r}\nDEFAULT_TRAINING_PARAMS |= {recipe!r}\n"
        assert suites.run(text) == 0
        said = suites.capsys.readouterr().out
        line = "classes 'left' and 'right' are one another's mirror image"
        (stage,) = results(suites, "Base")["stages"]
        told = stage["details"].get("warnings", [])
        assert (line in said, [t for t in told if t.startswith(line)] == told) == (flips, True)
        assert len(told) == int(flips)
        assert (line.replace("'", "&#39;") in _page(suites)) == flips


def _page(suites: Suites) -> str:
    return (suites.results / "report.html").read_text()
