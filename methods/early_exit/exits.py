"""Early exits: when a sample leaves, the network that lets it, and the thresholds for a target.

A sample leaves at the first exit that is certain enough. 'confidence': the largest probability is
above the threshold; 'entropy': 1 - entropy / log(classes) is (arXiv:1709.01686), so that for both 0
lets everything leave and 1 nothing; 'patience': as many exits in a row as the threshold says agree
with the one before (arXiv:2006.04152).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from machine.waiting import one_thread
from model import check_images, every_logits

CRITERIA = ("confidence", "entropy", "patience")


@dataclass(frozen=True)
class Exits:
    """How a network is left early. `thresholds` None: to be calibrated before deployment."""

    criterion: str = "confidence"
    thresholds: tuple[float, ...] | None = None  # one an exit
    max_accuracy_drop: float | None = None  # points below the whole network: to calibrate for
    saving: float | None = None  # or the share of MACs that is to be saved
    loss_weight: float = 0.3  # of each exit beside the network's end, in training

    @property
    def is_calibrated(self) -> bool:
        """Whether the thresholds are found for a target, not given."""
        return self.max_accuracy_drop is not None or self.saving is not None

    def stale(self, count: int) -> Exits:
        """The record for other weights and `count` exits: thresholds that were found no longer
        hold, those that were given stay, the first of them where there are fewer exits."""
        if self.is_calibrated or self.thresholds is None:
            return replace(self, thresholds=None)
        return replace(self, thresholds=self.thresholds[:count])

    def plain(self) -> dict[str, Any]:
        """The record as plain data."""
        thresholds = None if self.thresholds is None else list(self.thresholds)
        return {
            "criterion": self.criterion,
            "thresholds": thresholds,
            "max_accuracy_drop": self.max_accuracy_drop,
            "saving": self.saving,
            "loss_weight": self.loss_weight,
        }


def exits_of(plain: dict[str, Any]) -> Exits:
    """The inverse of `Exits.plain`."""
    thresholds = plain["thresholds"]
    return Exits(**{**plain, "thresholds": None if thresholds is None else tuple(thresholds)})


def certainty(logits: Tensor, criterion: str, before: Tensor | None = None) -> Tensor:
    """How sure an exit is of each sample: `[B, K]` → `[B]`, to be above the threshold.

    For 'patience', `[B, 2]`: how many exits in a row agree, and with what (`before` is that of the
    exit before).
    """
    if criterion == "confidence":
        return logits.softmax(dim=1).amax(dim=1)
    if criterion == "entropy":
        log = logits.log_softmax(dim=1)
        return 1 + (log.exp() * log).sum(dim=1) / math.log(logits.shape[1])
    answer = logits.argmax(dim=1)
    if before is None:
        return torch.stack([torch.zeros_like(answer), answer], dim=1)
    agreeing = torch.where(before[:, 1] == answer, before[:, 0] + 1, 0)
    return torch.stack([agreeing, answer], dim=1)


def leaves(certain: Tensor, criterion: str, threshold: float) -> Tensor:
    """Which samples leave, `[B]` of bool."""
    return certain[:, 0] >= threshold if criterion == "patience" else certain > threshold


def leaves_alone(certain: Tensor, criterion: str, threshold: float) -> bool:
    """`leaves` of a single sample, compared as a number."""
    if criterion == "patience":
        return certain[0, 0].item() >= threshold
    if certain.dtype != torch.float32:
        return bool(leaves(certain, criterion, threshold))
    return certain.item() > np.float32(threshold)  # rounded, as torch rounds it


class SplitNetwork(nn.Module):
    """The parts between exits, one after another: images → `[E + 1, B, K]`, nothing left out."""

    def __init__(self, parts: Iterable[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, images: Tensor) -> Tensor:
        return every_logits(self.parts, images)


class EarlyExitNetwork(nn.Module):
    """Images `[B, C, H, W]` → logits `[B, K]`, each sample's of the exit where it left.

    A part runs on the samples that are still there, and not at all when there are none. `left`
    counts, since the last `reset`, how many left at each exit and at the end.
    """

    def __init__(self, network: nn.Module, parts: Sequence[nn.Module], exits: Exits, args: Any):
        super().__init__()
        if exits.thresholds is None or len(exits.thresholds) != len(parts) - 1:
            raise ValueError("the network's exits have no thresholds; calibrate it first")
        self.network = network  # what owns the weights
        self.parts, self.exits, self.model_args = tuple(parts), exits, args
        self.thresholds = (*exits.thresholds, None)
        self.reset()
        self.register_forward_pre_hook(check_images)

    def reset(self) -> None:
        self.left = [0] * len(self.parts)

    def forward(self, images: Tensor) -> Tensor:
        if len(images) == 1:
            return self._alone(images)
        carried: Sequence[Tensor] = (images,)
        where: Tensor | None = None  # which samples are still there; None: all
        answers, before, criterion = torch.empty(0), None, self.exits.criterion
        for index, (part, threshold) in enumerate(zip(self.parts, self.thresholds, strict=True)):
            logits, *carried = part(*carried)
            gone = None
            if threshold is not None:
                with one_thread():
                    certain = certainty(logits, criterion, before)
                    gone = leaves(certain, criterion, threshold)
            count = len(logits) if gone is None else int(gone.sum())
            self.left[index] += count
            if count == len(logits):
                if where is None:
                    return logits
                answers[where] = logits
                return answers
            assert gone is not None
            before = certain if criterion == "patience" else None
            if count == 0:
                continue
            if where is None:
                answers, where = logits.clone(), torch.arange(len(logits), device=logits.device)
            else:
                answers[where] = logits
            stay = ~gone
            with one_thread():  # the parts may be another runtime's, with threads of its own
                where, carried = where[stay], [value[stay] for value in carried]
            before = before[stay] if before is not None else None
        raise AssertionError("the last part lets everything leave")

    def _alone(self, image: Tensor) -> Tensor:
        """What `forward` gives for one image, of which no place is to be kept.

        Deciding so takes half as long: between an engine's calls every operation of torch costs 10
        µs and more, the code of each having left the caches, and a network takes 300.
        """
        carried: Sequence[Tensor] = (image,)
        certain = None
        for index, (part, threshold) in enumerate(zip(self.parts, self.thresholds, strict=True)):
            logits, *carried = part(*carried)
            if threshold is not None:
                certain = certainty(logits, self.exits.criterion, certain)
                if not leaves_alone(certain, self.exits.criterion, threshold):
                    continue
            self.left[index] += 1
            return logits
        raise AssertionError("the last part lets everything leave")
