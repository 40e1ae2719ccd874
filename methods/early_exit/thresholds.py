"""The search for exit thresholds that keep an accuracy or save a share of the cost."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from methods import costs
from methods.early_exit.exits import Exits, certainty
from model import Network

CANDIDATES = 101  # thresholds that are tried: quantiles of the certainties seen


def all_certainties(every: Tensor, criterion: str) -> Tensor:
    """`[E + 1, N, K]` → `[E, N]`, comparable with thresholds."""
    found, before = [], None
    for logits in every[:-1]:
        before = certainty(logits, criterion, before)
        found.append(before[:, 0] if criterion == "patience" else before)
    return torch.stack(found).double()


def exit_taken(certain: Tensor, criterion: str, thresholds: Sequence[float]) -> Tensor:
    """The exit where each sample leaves, `[N]`, E for the network's end."""
    limits = torch.tensor(thresholds, dtype=certain.dtype)[:, None]
    go = certain >= limits if criterion == "patience" else certain > limits
    everyone = torch.ones_like(go[:1])
    return torch.cat([go, everyone]).to(torch.uint8).argmax(dim=0)


def exit_macs(model: Network) -> list[int]:
    """Multiply-accumulates for an image that leaves at each exit, and at the network's end."""
    return list(itertools.accumulate(macs for macs, _ in costs.part_macs(model)))


def calibrate(every: Tensor, labels: Tensor, macs: Sequence[int], exits: Exits) -> Exits:
    """`exits` with the thresholds that save most within its `max_accuracy_drop`, or lose least
    at its `saving`.

    `every` are the logits of all exits, `[E + 1, N, K]`; `macs` what it takes to leave at each.
    First one threshold for all exits, then each lowered alone while the target holds. Raises
    ValueError, with the nearest possible, where no thresholds save as much.
    """
    certain = all_certainties(every, exits.criterion)
    right = (every.argmax(dim=2) == labels).double()
    cost = torch.tensor(macs, dtype=torch.double)
    whole = 100 * right[-1].mean().item()

    def outcome(thresholds: Sequence[float]) -> tuple[float, float]:
        taken = exit_taken(certain, exits.criterion, thresholds)
        accuracy = 100 * right.gather(0, taken[None]).mean().item()
        return accuracy, (cost[taken].mean() / cost[-1]).item()

    count = len(certain)
    candidates = _candidates(certain, exits.criterion)
    shared = [((value,) * count, outcome((value,) * count)) for value in candidates]
    if exits.saving is not None:
        enough = [entry for entry in shared if 1 - entry[1][1] >= exits.saving]
        if not enough:
            raise ValueError(_too_much(exits.saving, max(1 - spent for _, (_, spent) in shared)))
        best, _ = max(enough, key=lambda entry: (entry[1][0], -entry[1][1]))
        return replace(exits, thresholds=best)
    assert exits.max_accuracy_drop is not None
    least = whole - exits.max_accuracy_drop - 1e-9
    best, (_, spent) = min(
        (entry for entry in shared if entry[1][0] >= least), key=lambda entry: entry[1][1]
    )
    for index in range(count):
        for value in candidates:
            trial = (*best[:index], value, *best[index + 1 :])
            accuracy, spends = outcome(trial)
            if accuracy >= least and spends < spent:
                best, spent = trial, spends
    return replace(exits, thresholds=best)


def check_saving(macs: Sequence[int], exits: Exits) -> None:
    """Raise ValueError where `exits.saving` is more than is saved if every sample leaves at once.

    `macs` are those of `exit_macs`. For 'patience' at once is at the second exit, the first that
    can agree with one before.
    """
    first = min(int(exits.criterion == "patience"), len(macs) - 1)
    most = 1 - macs[first] / macs[-1]
    if exits.saving is not None and most < exits.saving:
        raise ValueError(_too_much(exits.saving, most))


def _too_much(saving: float, most: float) -> str:
    return f"exits cannot save {saving:.0%} of the MACs; most is {most:.0%}"


def _candidates(certain: Tensor, criterion: str) -> list[float]:
    if criterion == "patience":
        return [float(agreeing) for agreeing in range(1, len(certain) + 1)]
    seen = torch.quantile(certain.flatten()[: 2**24], torch.linspace(0, 1, CANDIDATES).double())
    return [0.0, *seen.tolist(), 1.0]
