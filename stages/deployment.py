"""What a deployed network needs to know of data: int8 ranges, then the thresholds of its exits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from methods.early_exit.exits import EarlyExitNetwork, Exits, every_logits
from methods.early_exit.thresholds import calibrate, exit_macs
from methods.quantization import backends
from stages.stage import Context, StageError
from stages.state import ModelState, build


def deploy(
    state: ModelState, device: torch.device | str = "cpu", artefacts: Path | None = None
) -> nn.Module:
    """The network that is evaluated, timed, sized and exported; the only maker of int8 modules.

    Float networks go to `device` in channels_last; int8 networks run on the CPU, their compiled
    code kept in the folder `artefacts` (None: a temporary one). With exits it is an
    EarlyExitNetwork. Raises ValueError for a quantized state without observed ranges, or of a
    backend that this machine does not have, and for exits without thresholds.
    """
    network, parts = parts_of(state, device, artefacts)
    if not state.model_args["exits"]:
        return network
    never = Exits(thresholds=(1.0,) * (len(parts) - 1))
    return EarlyExitNetwork(network, parts, state.exits or never, state.model_args)


def parts_of(
    state: ModelState, device: torch.device | str = "cpu", artefacts: Path | None = None
) -> tuple[nn.Module, list[nn.Module]]:
    """The deployed network, and its parts between exits (itself where it has none)."""
    model = build(state)
    if state.quant is not None:
        network = backends.to_int8(model, state.quant, artefacts)
        return network, list(getattr(network, "parts", [network]))
    placed = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed, list(placed.parts()) if state.model_args["exits"] else [placed]


def calibrated(state: ModelState, ctx: Context) -> ModelState:
    """`state` with ranges and thresholds found where they are missing.

    Ranges are observed on training images, thresholds chosen on the validation share with the
    network as it is deployed, int8 included. Raises StageError where a target cannot be met.
    """
    if state.quant is not None and state.quant.ranges is None:
        loader = ctx.loaders(batch_size=state.quant.calibration_batch_size).calibration
        quant = backends.with_calibrated_ranges(build(state), state.quant, loader)
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
    macs = exit_macs(build(state))
    try:
        return calibrate(torch.cat(every, dim=1), torch.cat(labels), macs, exits)
    except ValueError as error:
        raise StageError(str(error)) from None
