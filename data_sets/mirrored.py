"""Whether images keep their class when they are mirrored."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

EXAMPLES = 4000  # images by which classes are compared with their mirror images
CERTAIN = 0.75  # share of a class's images that must agree


def swapped_classes(images: Tensor, labels: Tensor) -> list[tuple[int, int]]:
    """Pairs of classes that take one another's place when uint8 `[N, C, H, W]` is mirrored.

    Told by a linear classifier of small copies of some images, which is asked about others: of each
    of the two it knows the CERTAIN share as they are, and mirrored takes as many for the other.
    What it cannot tell apart it says nothing of.
    """
    from sklearn.linear_model import RidgeClassifier  # a second of importing
    from sklearn.metrics import confusion_matrix

    classes = int(labels.max()) + 1
    of_class = [(labels == label).nonzero().flatten() for label in range(classes)]
    most = max(2, EXAMPLES // classes)
    chosen = torch.cat(
        [p[torch.linspace(0, len(p) - 1, min(most, len(p))).long()] for p in of_class]
    )
    height, width = (min(16, side) for side in images.shape[-2:])
    small = F.adaptive_avg_pool2d(images[chosen].float().div_(255), (height, width))
    truth = labels[chosen].numpy()
    model = RidgeClassifier(alpha=10.0).fit(small[::2].flatten(1).numpy(), truth[::2])

    def answers(asked: Tensor) -> np.ndarray:
        """Share of each class (row) that is taken for each class (column)."""
        said = model.predict(asked.flatten(1).numpy())
        return confusion_matrix(truth[1::2], said, labels=range(classes), normalize="true")

    known = answers(small[1::2]).diagonal() > CERTAIN
    taken = (answers(small[1::2].flip(3)) > CERTAIN) & known[:, None]
    return [(int(a), int(b)) for a, b in np.argwhere(taken & taken.T) if a < b]
