"""Channel statistics against a plain computation."""

from __future__ import annotations

import torch

from data_sets.images import channel_statistics


def test_statistics_equal_a_plain_computation() -> None:
    images = torch.randint(0, 256, (5000, 3, 4, 4), dtype=torch.uint8)
    mean, std = channel_statistics(images)
    scaled = images.double() / 255
    torch.testing.assert_close(torch.tensor(mean), scaled.mean((0, 2, 3)).float())
    expected = scaled.std((0, 2, 3), correction=0).float()
    torch.testing.assert_close(torch.tensor(std), expected)
