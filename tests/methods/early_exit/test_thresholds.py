"""The search for thresholds finds what was planted, and meets a saving or says that it cannot."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.early_exit.exits import Exits
from methods.early_exit.thresholds import all_certainties, calibrate, exit_taken


def planted() -> tuple[Tensor, Tensor]:
    """1,000 samples, 2 classes: the exit is right wherever it is surer than 0.8, the end always."""
    labels = torch.randint(0, 2, (1000,))
    sure = 0.5 + 0.5 * torch.rand(1000)
    answers = torch.where(sure > 0.8, labels, torch.randint(0, 2, (1000,)))
    at_exit = torch.zeros(1000, 2)
    at_exit[torch.arange(1000), answers] = torch.logit(sure)
    end = torch.zeros(1000, 2)
    end[torch.arange(1000), labels] = 5.0
    return torch.stack([at_exit, end]), labels


def test_calibration_finds_the_planted_threshold() -> None:
    every, labels = planted()
    found = calibrate(every, labels, [10, 100], Exits(max_accuracy_drop=0.0))
    assert found.thresholds is not None
    assert found.thresholds[0] == pytest.approx(0.8, abs=0.02)
    loose = calibrate(every, labels, [10, 100], Exits(max_accuracy_drop=5.0))
    assert loose.thresholds is not None and loose.thresholds[0] < found.thresholds[0]
    taken = exit_taken(all_certainties(every, "confidence"), "confidence", loose.thresholds)
    right = every.argmax(2).eq(labels)[taken, torch.arange(1000)]
    assert 100 * right.double().mean() >= 95.0


def test_a_saving_is_met_or_refused() -> None:
    every, labels = planted()
    found = calibrate(every, labels, [10, 100], Exits(saving=0.3))
    taken = exit_taken(all_certainties(every, "confidence"), "confidence", found.thresholds or ())
    saved = 0.9 * (taken == 0).double().mean().item()
    assert 0.3 <= saved < 0.37  # what is surer than 0.8, two fifths, leaves without loss
    assert every.argmax(2).eq(labels)[taken, torch.arange(1000)].all()
    with pytest.raises(ValueError, match="cannot save 95% of the MACs; most is 90%"):
        calibrate(every, labels, [10, 100], Exits(saving=0.95))
