"""A network rebuilt with narrower tensors computes what a hand-made narrower one does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from networks.shapes import reshape, shapes_of


def _net(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, width, 3, groups=width),
        nn.GroupNorm(2, width),
        nn.PReLU(width),
        nn.Flatten(1),
        nn.Linear(4 * width, 5),
        nn.LayerNorm(5),
    )


def test_modules_say_the_widths_of_their_tensors() -> None:
    wide, narrow = _net(8), _net(6)
    shapes = shapes_of(narrow.state_dict(), wide)
    assert shapes["0.weight"] == [6, 3, 3, 3] and "7.weight" not in shapes
    reshape(wide, shapes)
    wide.load_state_dict(narrow.state_dict())
    images = torch.randn(2, 3, 6, 6)
    assert torch.equal(wide.eval()(images), narrow.eval()(images))
    assert repr(wide) == repr(narrow)


@pytest.mark.parametrize("shapes", [{"0.weight": [9, 3, 3, 3]}, {"0.weight": [3]}, {"x": [1]}])
def test_shapes_that_do_not_fit_are_named(shapes: dict[str, list[int]]) -> None:
    with pytest.raises(ValueError, match=rf"shapes.{next(iter(shapes))}"):
        reshape(_net(8), shapes)
