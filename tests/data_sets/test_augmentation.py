"""Each augmentation does to each image what its name says."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as theirs

from data_sets.augmentation import (
    adjust_colors,
    crop_padding,
    cutout,
    hidden_by_cutout,
    hidden_by_randaugment,
    hidden_by_rotation,
    random_colors,
    random_crop,
    random_flip,
    random_rotation,
    rotate,
)
from data_sets.batches import BatchLoader


def test_crop_shifts_each_image_by_itself() -> None:
    images = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).repeat(200, 1, 1, 1)
    cropped = random_crop(images, (1, 1))
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


@pytest.mark.parametrize("shape", [(32, 32), (16, 24), (5, 40)])
def test_rotation_is_torchvisions(shape: tuple[int, int]) -> None:
    angles = torch.tensor([0.0, 10.0, -35.0, 90.0, 180.0, -123.4])
    images = torch.randn(len(angles), 3, *shape)
    expected = [
        theirs.rotate(image, angle, interpolation=InterpolationMode.BILINEAR)
        for image, angle in zip(images, angles.tolist(), strict=True)
    ]
    torch.testing.assert_close(rotate(images, angles), torch.stack(expected), atol=1e-4, rtol=0)


def test_each_image_turns_by_an_angle_of_its_own() -> None:
    """The angle is read off the slope of a ramp that rises from left to right."""
    ramp = torch.linspace(-1, 1, 9).expand(400, 1, 9, 9)
    turned = random_rotation(ramp, 30.0)
    across = turned[:, 0, 4, 5] - turned[:, 0, 4, 3]
    down = turned[:, 0, 5, 4] - turned[:, 0, 3, 4]
    angles = torch.atan2(-down, across).rad2deg()
    assert angles.abs().max() < 30.01 and angles.max() > 27 and angles.min() < -27
    assert len(angles.unique()) > 390 and abs(angles.mean()) < 3


@pytest.mark.parametrize("channels", [1, 3])
def test_colors_are_changed_as_torchvision_does(channels: int) -> None:
    images, factors = torch.rand(20, channels, 9, 13), 2 * torch.rand(3, 20)
    steps = theirs.adjust_brightness, theirs.adjust_contrast, theirs.adjust_saturation
    expected = []
    for image, own in zip(images, factors.T.tolist(), strict=True):
        for step, factor in zip(steps, own, strict=True):
            image = step(image, factor)
        expected.append(image)
    before = images.clone()
    torch.testing.assert_close(adjust_colors(images, factors), torch.stack(expected))
    assert torch.equal(images, before)


def test_each_image_has_colors_of_its_own() -> None:
    """Of a plain grey image contrast and saturation leave what brightness makes of it."""
    factors = (random_colors(torch.full((400, 3, 4, 4), 0.5), 0.3) / 0.5).flatten(1)
    assert factors.std(1).max() < 1e-6
    assert 0.699 < factors.min() < 0.73 and 1.27 < factors.max() < 1.301
    assert len(factors[:, 0].unique()) > 390
    halves = torch.tensor([0.4, 0.6]).view(1, 1, 2, 1).expand(400, 3, 2, 1)
    changed = random_colors(halves, 0.3)
    contrast = (changed[:, 0, 1, 0] - changed[:, 0, 0, 0]) / changed.mean((1, 2, 3)) / 0.4
    assert 0.699 < contrast.min() < 0.73 and 1.27 < contrast.max() < 1.301


def test_cutout_zeroes_one_square_an_image() -> None:
    holes = (cutout(torch.ones(300, 2, 12, 12), 4) == 0).all(1).flatten(1).sum(1)
    assert holes.max() == 16
    assert holes.min() == 4  # centred on a corner
    assert len(holes.unique()) > 2


SHAPES = [(8, 8), (32, 32), (320, 320), (16, 256), (256, 16), (16, 64), (4, 64), (3, 40), (1, 200)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("augmentation", ["none", "standard", "randaugment"])
def test_an_image_remains_an_image(
    augmentation: str, shape: tuple[int, int], channels: int
) -> None:
    """Of an image without a black pixel half stays in sight, unless it was warned of."""
    count = 48 if shape[0] * shape[1] > 5000 else 192
    images = torch.randint(1, 256, (count, channels, *shape), dtype=torch.uint8)
    loader = BatchLoader(
        images, torch.zeros(count), 8, mean=[0.0] * channels, std=[1.0] * channels, num_classes=2,
        training=True, augmentation=augmentation,
    )  # fmt: skip
    found = torch.cat([batch for batch, _ in loader])
    seen = (found > 0).any(1).flatten(1).float().mean(1)
    assert found.shape == images.shape and found.max() <= 1
    if augmentation == "randaugment" and hidden_by_randaugment(*shape) > 0.5:
        assert max(shape) > 11 * min(shape)
        return
    assert seen.min() >= 0.5
    assert found.flatten(1).std(1).min() > 0.01  # nor of one colour
    assert (seen.min() < 1) == (augmentation != "none")


@pytest.mark.parametrize(
    ("shape", "padding"),
    [((8, 8), (1, 1)), ((32, 32), (4, 4)), ((320, 320), (40, 40)), ((16, 256), (2, 32)),
     ((256, 16), (32, 2)), ((4, 64), (1, 8)), ((3, 40), (0, 5)), ((1, 200), (0, 25))],
)  # fmt: skip
def test_a_crop_shifts_each_side_by_an_eighth_of_it(
    shape: tuple[int, int], padding: tuple[int, int]
) -> None:
    assert crop_padding(*shape) == padding
    marks = torch.zeros(300, 1, *shape, dtype=torch.uint8)
    marks[:, :, shape[0] // 2, shape[1] // 2] = 1
    where = random_crop(marks, padding).nonzero()
    for axis, largest in enumerate(padding):
        moved = (where[:, 2 + axis] - shape[axis] // 2).abs().max()
        assert 0.9 * largest - 1 < moved <= largest


@pytest.mark.parametrize("shape", SHAPES[:-2], ids=str)
def test_what_randaugment_hides_is_what_torchvision_moves_out_of_sight(
    shape: tuple[int, int],
) -> None:
    space = v2.RandAugment._AUGMENTATION_SPACE
    white = torch.ones(1, 1, *shape)
    hidden = []
    for name in ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"):
        magnitude = float(space[name][0](31, *shape)[9])
        moved = v2.RandAugment()._apply_image_or_video_transform(
            white, name, magnitude, interpolation="nearest", fill={torch.Tensor: 0}
        )
        hidden.append(1 - moved.mean().item())
    assert hidden_by_randaugment(*shape) == pytest.approx(max(hidden), abs=0.03)


def test_what_cutout_hides_is_the_largest_hole() -> None:
    for size, height, width in [(4, 12, 12), (8, 8, 8), (9, 6, 30), (40, 16, 64)]:
        images = torch.ones(3000, 1, height, width)
        largest = (cutout(images, size) == 0).flatten(1).float().mean(1).max()
        assert hidden_by_cutout(size, height, width) == pytest.approx(largest.item())


@pytest.mark.parametrize(
    ("degrees", "shape"),
    [(0.0, (32, 32)), (15.0, (32, 32)), (180.0, (32, 32)), (5.5, (16, 256)), (90.0, (64, 16))],
)
def test_what_rotation_hides_is_what_torchvision_turns_out_of_sight(
    degrees: float, shape: tuple[int, int]
) -> None:
    white = torch.ones(1, 2 * shape[0], 2 * shape[1])
    hidden = [
        1 - theirs.rotate(white, angle, interpolation=InterpolationMode.BILINEAR).mean().item()
        for angle in torch.linspace(0, degrees, 37).tolist()
    ]
    assert hidden_by_rotation(degrees, *shape) == pytest.approx(max(hidden), abs=0.01)
