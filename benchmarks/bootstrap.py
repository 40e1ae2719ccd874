"""The crossed bootstrap, by which studies were judged before: the rival of `experiment.study.luck`.

Images are resampled with replacement, all networks seeing the same sample; independently of them
seeds are, paired between orders (doi:10.1214/07-AOAS122). Plain resampling of S seeds shows only
(S - 1) / S of their variance, which Rao and Wu's factor (doi:10.1080/01621459.1988.10478591) makes
good. What an image does in one training alone is counted about three times, so intervals are wide.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class Bootstrap:
    """Weights of the images `[R, N]`, the same for every comparison, and of seeds."""

    def __init__(self, images: int, count: int = 2000, seed: int = 0):
        self.random = np.random.default_rng(seed)
        even = np.full(images, 1 / images)
        self.images = (self.random.multinomial(images, even, count) / images).astype(np.float32)

    def means(self, values: Array) -> Array:
        """Values `[..., N]` of images → their means `[R, ...]` on every sample of the images."""
        flat = values.reshape(-1, values.shape[-1]).astype(np.float32)
        return (self.images @ flat.T).reshape(len(self.images), *values.shape[:-1])

    def interval(self, means: Array, level: float) -> tuple[Array, Array]:
        """Resampled differences `[R, ..., S]` → the lower and the upper end `[...]`."""
        count, seeds = len(means), means.shape[-1]
        weights = np.full((count, seeds), 1 / seeds)
        if seeds > 1:
            drawn = self.random.multinomial(seeds, weights[0], count)
            weights += np.sqrt(seeds / (seeds - 1)) * (drawn / seeds - 1 / seeds)
        resampled = np.einsum("r...s,rs->r...", means, weights)
        low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high
