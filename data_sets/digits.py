"""Digits, inside scikit-learn: small, and there without a download."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from data_sets.source import Arrays, DataInfo, DatasetArgs, refuse_folder_options

# --- Digits, inside scikit-learn ---------------------------------------------------------------


def describe_digits(args: DatasetArgs, data_dir: Path) -> DataInfo:
    refuse_folder_options(args, "Digits")
    arrays = load_digits_arrays(args, data_dir)
    content = arrays.train_images.numpy().tobytes() + arrays.test_images.numpy().tobytes()
    classes = tuple(str(i) for i in range(10))
    return DataInfo("Digits", classes, 1, (8, 8), hashlib.sha256(content).hexdigest())


def load_digits_arrays(args: DatasetArgs, data_dir: Path) -> Arrays:
    """1,797 handwritten digits of 8×8 pixels, one in five kept for the test split."""
    digits = load_digits()
    images = torch.from_numpy((digits.images * 15).astype(np.uint8))[:, None]  # 0..16 → 0..240
    labels = torch.from_numpy(digits.target.astype(np.int64))
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=digits.target, random_state=0
    )
    return Arrays(images[train], labels[train], images[test], labels[test])
