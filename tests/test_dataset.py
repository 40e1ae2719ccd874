"""Splits that do not overlap, loaders that repeat themselves, and every image judged once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data_sets.source import DataError, DatasetArgs, Listing
from dataset import (
    DATASET_REGISTRY,
    Dataset,
    describe,
    fastest_evaluation_batch,
    get_dataloaders,
    load_dataset,
)


def test_splits_do_not_overlap_and_are_stratified() -> None:
    loaded = load_dataset(DatasetArgs(name="Digits", validation_share=0.2), "data")
    train, validation = set(loaded.train_index.tolist()), set(loaded.validation_index.tolist())
    assert not train & validation
    assert len(train | validation) == len(loaded.arrays.train_labels) == 1437
    counts = loaded.arrays.train_labels[loaded.validation_index].bincount()
    assert counts.max() - counts.min() <= 3


def test_train_images_is_a_stratified_part_of_what_validation_leaves() -> None:
    whole = load_dataset(DatasetArgs(name="Digits"), "data")
    labels = whole.arrays.train_labels
    before: set[int] = set()
    for count in (10, 100, 500, 1293):
        part = load_dataset(DatasetArgs(name="Digits", train_images=count), "data")
        chosen = set(part.train_index.tolist())
        assert torch.equal(part.validation_index, whole.validation_index)
        assert len(chosen) == count and before <= chosen <= set(whole.train_index.tolist())
        expected = labels[whole.train_index].bincount() * count / 1293
        found = labels[part.train_index].bincount(minlength=10)
        assert (found - expected).abs().max() <= 1
        before = chosen
    assert torch.equal(part.train_index, whole.train_index)
    sizes = [len(y) for _, y in get_dataloaders({"name": "Digits", "train_images": 100}, 32).train]
    assert sum(sizes) <= 100


@pytest.mark.parametrize("count", [9, 1294])
def test_train_images_out_of_reach_are_refused(count: int) -> None:
    expected = f"dataset_args.train_images: {count} should be from 10, one a class, to the 1293 "
    with pytest.raises(DataError, match=expected):
        load_dataset(DatasetArgs(name="Digits", train_images=count), "data")


def test_loaders_are_deterministic_and_epochs_differ() -> None:
    def first(seed: int, epoch: int) -> torch.Tensor:
        torch.manual_seed(seed)
        loaders = get_dataloaders({"name": "Digits"}, 32, seed=seed)
        loaders.train.set_epoch(epoch)
        return next(iter(loaders.train))[0]

    assert torch.equal(first(0, 0), first(0, 0))
    assert not torch.equal(first(0, 0), first(0, 1))
    assert not torch.equal(first(0, 0), first(1, 0))


def test_an_epoch_can_start_in_its_middle() -> None:
    train = get_dataloaders({"name": "Digits"}, 64, augmentation="none").train
    whole = [labels for _, labels in train.batches()]
    rest = [labels for _, labels in train.batches(7)]
    assert len(whole) == len(train) == 1293 // 64
    assert all(torch.equal(a, b) for a, b in zip(whole[7:], rest, strict=True))


def test_evaluation_loaders_see_every_image_once() -> None:
    loaders = get_dataloaders({"name": "Digits"}, 100)
    assert sum(len(labels) for _, labels in loaders.test) == 360
    assert sum(len(labels) for _, labels in loaders.calibration) == 1293
    images = torch.cat([images for images, _ in loaders.calibration])
    assert images.mean().abs() < 0.05  # normalised, without augmentation's black borders
    assert images.std() == pytest.approx(1, abs=0.05)


def test_evaluation_batches_by_pixels() -> None:
    assert fastest_evaluation_batch((32, 32), "cpu") == 64
    assert fastest_evaluation_batch((224, 224), "cpu") == 1
    assert fastest_evaluation_batch((32, 32), "cuda") == 2048


def test_what_is_known_of_digits_unread_is_true() -> None:
    loaded = load_dataset(DatasetArgs(name="Digits"), "data")
    labels = loaded.arrays.train_labels, loaded.arrays.test_labels
    assert loaded.info.listing == Listing(*(tuple(each.bincount().tolist()) for each in labels))
    assert loaded.info.summary() == (
        "1,437 training images in 10 classes (0, 1, 2, …), 360 test images"
    )


def test_images_of_a_data_set_that_does_not_count_them_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = DATASET_REGISTRY["Digits"]
    known = row.describe(DatasetArgs(name="Digits"), Path("data"))
    own = replace(row, describe=lambda args, data_dir: known._replace(listing=None))
    monkeypatch.setitem(DATASET_REGISTRY, "Digits", own)
    assert load_dataset(DatasetArgs(name="Digits"), "data").info == known
    assert describe(DatasetArgs(name="Digits"), "data").summary() == "10 classes (0, 1, 2, …)"


@pytest.mark.parametrize(("flip", "mirrored"), [("auto", False), (False, False), (True, True)])
def test_flips_are_as_said_or_as_the_data_set_says(
    flip: Any, mirrored: bool, digits: Dataset
) -> None:
    """A shift leaves a column of its own at most; only a flip brings the left edge to the right."""
    images = torch.zeros_like(digits.arrays.train_images)
    images[..., :3] = 200
    marked = replace(digits, arrays=digits.arrays._replace(train_images=images))
    train = get_dataloaders(marked, 100, flip=flip).train
    seen = torch.cat([batch[:, 0, 4, -2:] for batch, _ in train])
    assert bool((seen > 0).any()) == mirrored
