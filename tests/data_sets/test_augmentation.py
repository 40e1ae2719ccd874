"""Each augmentation does to each image what its name says."""

from __future__ import annotations

import torch

from data_sets.augmentation import cutout, random_crop, random_flip


def test_crop_shifts_each_image_by_itself() -> None:
    images = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).repeat(200, 1, 1, 1)
    cropped = random_crop(images, 1)
    assert len({tuple(image.flatten().tolist()) for image in cropped}) == 9
    padded = torch.nn.functional.pad(images[:1], (1, 1, 1, 1))
    windows = [padded[0, 0, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
    for image in cropped:
        assert any(torch.equal(image[0], window) for window in windows)


def test_flip_mirrors_about_half() -> None:
    images = torch.rand(400, 1, 2, 3)
    flipped = random_flip(images)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert (mirrored | kept).all()
    assert 140 < mirrored.sum() < 260


def test_cutout_zeroes_one_square_an_image() -> None:
    holes = (cutout(torch.ones(300, 2, 12, 12), 4) == 0).all(1).flatten(1).sum(1)
    assert holes.max() == 16
    assert holes.min() == 4  # centred on a corner
    assert len(holes.unique()) > 2
