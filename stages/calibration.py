"""What a deployed network needs to know of data: int8 ranges, then the thresholds of its exits."""

from __future__ import annotations

from dataclasses import replace

import torch

import costs
from stages import quantization
from stages.exits import Exits, calibrate, every_logits
from stages.state import Context, ModelState, StageError, build, parts_of


def calibrated(state: ModelState, ctx: Context) -> ModelState:
    """`state` with ranges and thresholds found where they are missing.

    Ranges are observed on training images, thresholds chosen on the validation share with the
    network as it is deployed, int8 included. Raises StageError where a target cannot be met.
    """
    if state.quant is not None and state.quant.ranges is None:
        loader = ctx.loaders(batch_size=state.quant.calibration_batch_size).calibration
        quant = quantization.with_calibrated_ranges(build(state), state.quant, loader)
        state = replace(state, quant=quant)
    if state.exits is not None and state.exits.thresholds is None:
        state = replace(state, exits=_with_thresholds(state, state.exits, ctx))
    return state


@torch.inference_mode()
def _with_thresholds(state: ModelState, exits: Exits, ctx: Context) -> Exits:
    device = ctx.device if state.quant is None else torch.device("cpu")
    _, parts = parts_of(state, device, ctx.artefacts)
    every, labels = [], []
    for images, truth in replace(ctx, device=device).loaders(batch_size=256).validation:
        every.append(every_logits(parts, images).float().cpu())
        labels.append(truth.cpu())
    macs = costs.exit_macs(build(state))
    try:
        return calibrate(torch.cat(every, dim=1), torch.cat(labels), macs, exits)
    except ValueError as error:
        raise StageError(str(error)) from None
