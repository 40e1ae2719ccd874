"""Images of noise in folders, for what reads train/<class>/ and test/<class>/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def noise_folder(folder: Path) -> Path:
    """Ten classes of 26 training and two test images, 32×32 in colour, below `folder`."""
    generator = np.random.default_rng(0)
    for split, each in ("train", 26), ("test", 2):
        for number in range(10):
            place = folder / split / str(number)
            place.mkdir(parents=True)
            for index in range(each):
                pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")
    return folder
