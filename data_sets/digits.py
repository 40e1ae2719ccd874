"""Digits, inside scikit-learn: small, and there without a download."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import torch

from data_sets.source import (
    Arrays,
    DataError,
    DataInfo,
    DatasetArgs,
    Listing,
    refuse_folder_options,
)
from machine.files import sha256

# Images of each class, as scikit-learn splits them: known without its two seconds of importing.
LISTING = Listing(
    train=(142, 146, 142, 146, 145, 145, 145, 143, 139, 144),
    test=(36, 36, 35, 37, 36, 37, 36, 36, 35, 36),
)


def describe_digits(args: DatasetArgs, data_dir: Path) -> DataInfo:
    """Known without loading: the fingerprint is that of scikit-learn's file, uncompressed."""
    refuse_folder_options(args, "Digits")
    found = importlib.util.find_spec("sklearn")  # does not import it, which takes two seconds
    if found is None or found.origin is None:
        raise DataError("Digits: scikit-learn, which holds it, is not installed")
    file = Path(found.origin).with_name("datasets") / "data" / "digits.csv.gz"
    content = gzip.decompress(file.read_bytes())
    classes = tuple(str(i) for i in range(10))
    return DataInfo("Digits", classes, 1, (8, 8), sha256(content), LISTING)


def load_digits_arrays(args: DatasetArgs, data_dir: Path) -> Arrays:
    """1,797 handwritten digits of 8×8 pixels, one in five kept for the test split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = torch.from_numpy((digits.images * 15).astype(np.uint8))[:, None]  # 0..16 → 0..240
    labels = torch.from_numpy(digits.target.astype(np.int64))
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=digits.target, random_state=0
    )
    return Arrays(images[train], labels[train], images[test], labels[test])
