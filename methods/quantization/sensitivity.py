"""Which layers int8 hurts, and which to keep float: the search behind `float_layers: 'auto'`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from data_sets.batches import BatchLoader
from methods.quantization import backends
from methods.quantization.record import Quant, quantizable_layers
from model import Network
from train_eval import evaluate
from training.losses import final_logits


@dataclass(frozen=True)
class LayerSensitivity:
    """What int8 in one layer alone does to the network."""

    layer: str
    sqnr_db: float  # power of the float logits over that of the error, in decibels
    accuracy: float  # on the validation share, percent


@dataclass(frozen=True)
class Choice:
    """The layers kept float, and the validation accuracies (percent) on the way to them."""

    float_accuracy: float
    scan: tuple[LayerSensitivity, ...]  # most sensitive first
    steps: tuple[tuple[str, float], ...]  # layer made float ('' : none yet) → accuracy

    @property
    def float_layers(self) -> tuple[str, ...]:
        return tuple(layer for layer, _ in self.steps if layer)

    def record(self) -> dict[str, Any]:
        """As plain data, for the stage's results."""
        return {
            "split": "validation",
            "float_accuracy": self.float_accuracy,
            "scan": [asdict(entry) for entry in self.scan],
            "steps": [{"made_float": layer or None, "accuracy": acc} for layer, acc in self.steps],
            "float_layers": list(self.float_layers),
        }


def scan_layers(
    model: Network,
    quant: Quant,
    calibration: Sequence[tuple[Tensor, Tensor]],
    validation: BatchLoader,
) -> tuple[LayerSensitivity, ...]:
    """Every layer quantized by itself, the most sensitive (lowest SQNR) first.

    The SQNR is taken on the logits of the first calibration batch.
    """
    names = quantizable_layers(model)
    images = calibration[0][0].cpu()
    with torch.inference_mode():
        expected = model(images)
    found = []
    for name in names:
        others = tuple(other for other in names if other != name)
        network = _simulated(model, replace(quant, float_layers=others), calibration)
        with torch.inference_mode():
            noise = final_logits(network(images)) - expected
        found.append(
            LayerSensitivity(name, _decibels(expected, noise), _accuracy(network, validation))
        )
    return tuple(sorted(found, key=lambda entry: entry.sqnr_db))


def choose_float_layers(
    model: Network,
    quant: Quant,
    calibration: Sequence[tuple[Tensor, Tensor]],
    validation: BatchLoader,
    max_accuracy_drop: float,
    say: Callable[[str], None] = lambda line: None,
) -> Choice:
    """Make layers float, the most sensitive first, until the drop is at most `max_accuracy_drop`.

    The drop is in points of validation accuracy below the float network's. Greedy by SQNR, as in
    arXiv:2302.05397; it ends, since with every layer float nothing is lost.
    """
    float_accuracy = _accuracy(model, validation)
    scan = scan_layers(model, quant, calibration, validation)
    kept: tuple[str, ...] = ()
    steps = []
    for layer in ("", *(entry.layer for entry in scan)):
        kept = (*kept, layer) if layer else kept
        network = _simulated(model, replace(quant, float_layers=kept), calibration)
        accuracy = _accuracy(network, validation)
        steps.append((layer, accuracy))
        say(
            f"  float layers: {', '.join(kept) or 'none'} | validation acc {accuracy:.2f} % "
            f"(float {float_accuracy:.2f})"
        )
        if float_accuracy - accuracy <= max_accuracy_drop:
            break
    return Choice(float_accuracy, scan, tuple(steps))


def _simulated(
    model: Network, quant: Quant, calibration: Sequence[tuple[Tensor, Tensor]]
) -> nn.Module:
    prepared = backends.prepare(model, replace(quant, scheme="ptq"))
    backends.observe(prepared, quant.backend, calibration, len(calibration))
    return backends.simulated(prepared, quant.backend)


def _accuracy(network: nn.Module, validation: BatchLoader) -> float:
    return evaluate(network, validation).accuracy


def _decibels(signal: Tensor, noise: Tensor) -> float:
    ratio = signal.square().sum() / noise.square().sum().clamp_min(1e-30)
    return 10 * math.log10(float(ratio))
