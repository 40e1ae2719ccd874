"""Batches keep shape, labels and device, whatever augmentation goes over them."""

from __future__ import annotations

import pytest
import torch

from data_sets.batches import BatchLoader


@pytest.mark.parametrize("augmentation", ["none", "standard", "randaugment"])
def test_augmented_batches_keep_shape_and_labels(augmentation: str) -> None:
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    loader = BatchLoader(
        images,
        torch.arange(40) % 4,
        20,
        mean=[0.5] * 3,
        std=[0.25] * 3,
        num_classes=4,
        training=True,
        augmentation=augmentation,
        cutout_size=4,
        mixup_alpha=0.4,
    )
    for batch, labels in loader:
        assert batch.shape == (20, 3, 16, 16)
        assert batch.dtype == torch.float32
        assert labels.shape == (20, 4)
        torch.testing.assert_close(labels.sum(1), torch.ones(20))


def test_images_of_a_device_stay_there() -> None:
    """The order and the draws are made where the images are ('meta' holds no data to fetch)."""
    images = torch.empty(40, 3, 8, 8, dtype=torch.uint8, device="meta")
    labels = torch.empty(40, dtype=torch.int64, device="meta")
    loader = BatchLoader(
        images, labels, 8, mean=[0.5] * 3, std=[0.2] * 3, num_classes=10, training=True,
        augmentation="standard", cutout_size=2, device="meta",
    )  # fmt: skip
    shapes = [(batch.shape, batch.device.type, truth.device.type) for batch, truth in loader]
    assert shapes == [((8, 3, 8, 8), "meta", "meta")] * 5
