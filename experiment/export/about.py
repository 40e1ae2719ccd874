"""What an exported file says of itself."""

from __future__ import annotations

import json
from typing import Any

import torch

from data_sets.fit import IN_WORDS
from dataset import Dataset
from experiment.suite.chains import Chain, Step
from methods.quantization.record import needs_vnni
from stages.state import ModelState


def describe(
    chain: Chain, step: Step, state: ModelState, record: dict[str, Any], dataset: Dataset
) -> dict[str, str]:
    """What a file says of itself, as text; lists and dicts as JSON."""
    info, args = dataset.info, state.model_args
    position = [s.key for s in chain.steps].index(step.key) + 1
    shape = ", ".join(map(str, (args["in_channels"], *args["image_size"])))
    quantization = state.quant.settings() if state.quant is not None else None
    return {
        "experiment": step.experiment.name,
        "stage": f"{step.stage} ({position} of {len(chain.steps)})",
        "seed": str(step.seed),
        "key": step.key,
        "input": f"images: float32 [batch, {shape}], contiguous, 0 to 1",
        "output": f"logits: float32 [batch, {args['num_classes']}]",
        "bits": str(info.bits),
        "channels": "RGB" if args["in_channels"] == 3 else "grey",
        "image_size": json.dumps(args["image_size"]),
        "fit": info.fit,
        "resize": IN_WORDS[info.fit],
        "normalization": "inside: (images - mean) / std",
        "mean": json.dumps(dataset.mean),
        "std": json.dumps(dataset.std),
        "dataset": info.name,
        "classes": json.dumps(info.classes, ensure_ascii=False),
        "weights": "float32" if state.quant is None else "int8",
        "quantization": json.dumps(quantization),
        "reduce_range": json.dumps(state.quant.reduce_range if state.quant is not None else None),
        "needs_vnni": json.dumps(state.quant is not None and needs_vnni(state.quant)),
        "accuracy": f"{record['metrics']['accuracy']:.2f}",
        "torch": torch.__version__,
    }
