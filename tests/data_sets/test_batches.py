"""Batches keep shape, labels and device, whatever augmentation goes over them."""

from __future__ import annotations

import pytest
import torch

from data_sets.batches import BatchLoader


@pytest.mark.parametrize("mixup_epochs", [None, 1])
@pytest.mark.parametrize("augmentation", ["none", "standard", "randaugment"])
def test_augmented_batches_keep_shape_and_labels(
    augmentation: str, mixup_epochs: int | None
) -> None:
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
        rotation=20.0,
        color=0.3,
        mixup_alpha=0.4,
        mixup_epochs=mixup_epochs,
    )
    for batch, labels in loader:
        assert batch.shape == (20, 3, 16, 16)
        assert batch.dtype == torch.float32 and batch.isfinite().all()
        assert labels.shape == (20, 4)
        torch.testing.assert_close(labels.sum(1), torch.ones(20))


def test_images_of_a_device_stay_there() -> None:
    """The order and the draws are made where the images are ('meta' holds no data to fetch)."""
    images = torch.empty(40, 3, 8, 8, dtype=torch.uint8, device="meta")
    labels = torch.empty(40, dtype=torch.int64, device="meta")
    loader = BatchLoader(
        images, labels, 8, mean=[0.5] * 3, std=[0.2] * 3, num_classes=10, training=True,
        augmentation="standard", cutout_size=2, rotation=9.0, color=0.1, device="meta",
    )  # fmt: skip
    shapes = [(batch.shape, batch.device.type, truth.device.type) for batch, truth in loader]
    assert shapes == [((8, 3, 8, 8), "meta", "meta")] * 5


def rising(epochs: int) -> BatchLoader:
    images = torch.randint(0, 256, (400, 3, 4, 4), dtype=torch.uint8)
    return BatchLoader(
        images, torch.arange(400) % 4, 4, mean=[0.5] * 3, std=[0.25] * 3, num_classes=4,
        training=True, mixup_alpha=1.0, mixup_epochs=epochs,
    )  # fmt: skip


def test_rising_mixup_mixes_ever_more_batches() -> None:
    """None at the first step and all at the last; between them the share is the time's."""
    torch.manual_seed(0)
    loader, mixed = rising(20), []
    for epoch in range(20):
        loader.set_epoch(epoch)
        for _, labels in loader:
            assert labels.shape == (4, 4) and labels.dtype == torch.float32
            soft = (labels.max(1).values < 1).any().item()
            torch.testing.assert_close(labels.sum(1), torch.ones(4))
            mixed.append(float(soft))
    assert len(mixed) == 2000 and mixed[0] == 0
    # A batch of which each image is mixed with one of its own class looks as if it were not.
    visible = 1 - 0.25**4
    for quarter, share in enumerate((0.125, 0.375, 0.625, 0.875)):
        found = sum(mixed[500 * quarter : 500 * (quarter + 1)]) / 500
        assert found == pytest.approx(share * visible, abs=0.06)
    loader.set_epoch(19)
    *_, (_, labels) = loader.batches(99)
    assert (labels.max(1).values < 1).any()


def test_rising_mixup_goes_on_in_the_midst_of_an_epoch() -> None:
    """Another loader, as in another process, from the random state that a snapshot keeps."""
    loader, batches = rising(3), []
    loader.set_epoch(1)
    for step, batch in enumerate(loader):
        batches.append(batch)
        if step == 39:
            state = torch.get_rng_state()
    again = rising(3)
    again.images = loader.images
    again.set_epoch(1)
    torch.set_rng_state(state)
    for (images, labels), (other, truth) in zip(batches[40:], again.batches(40), strict=True):
        assert torch.equal(images, other) and torch.equal(labels, truth)
