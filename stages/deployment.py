"""`deploy`: a state as networks that run, and what these first need to know of data.

That is int8 ranges, then the thresholds of exits, found with the network as it is deployed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from dataset import DataLoaders
from engines.programs import programs
from machine.processor import bf16_is_fast
from methods.casting import FLOAT32
from methods.early_exit.exits import EarlyExitNetwork, Exits, SplitNetwork
from methods.early_exit.thresholds import calibrate, exit_macs
from methods.quantization import backends
from methods.quantization.compiled import BATCH_SIZES
from model import HybridCNNTransformer, every_logits
from stages.stage import Context, StageError
from stages.state import ModelState, build


@dataclass(frozen=True)
class Deployed:
    """A state's networks, made once and handed on: `network` is the one that counts."""

    state: ModelState
    device: torch.device  # where the networks run
    float_network: HybridCNNTransformer  # what is counted, and what int8 is timed against
    whole: nn.Module  # as it is deployed, but never left early: the float network, or its int8 form
    parts: Sequence[nn.Module]  # `whole` in its pieces between exits; itself where it has none

    @cached_property
    def network(self) -> nn.Module:
        """What is evaluated, timed, sized and exported: `whole`, or an EarlyExitNetwork of `parts`.

        Raises ValueError for exits without thresholds.
        """
        return _leaving(self.state, self.whole, self.parts)

    @cached_property
    def float_form(self) -> nn.Module:
        """`network` in float32, left early at the same thresholds."""
        return _leaving(self.state, self.float_network, self.float_network.parts())

    @property
    def emulated(self) -> bool:
        """Whether it is in bfloat16 where nothing computes in that: for its accuracy alone."""
        return self.state.precision != FLOAT32 and not bf16_is_fast(self.device)

    def evaluation_batch(self, ctx: Context) -> int:
        """Images a batch at which the network is fastest; int8 code would pad smaller ones."""
        fastest = replace(ctx, device=self.device).evaluation_batch
        return fastest if self.state.quant is None else max(fastest, *BATCH_SIZES)

    def loaders(self, ctx: Context) -> DataLoaders:
        """The data of `ctx` where the network runs, in its fastest batches."""
        return replace(ctx, device=self.device).loaders(batch_size=self.evaluation_batch(ctx))


def deploy(
    state: ModelState, device: torch.device | str = "cpu", artefacts: Path | None = None
) -> Deployed:
    """The networks of a state; the only maker of int8 modules.

    Float networks go to `device` in channels_last; int8 networks run on the CPU, their compiled
    code kept in the folder `artefacts` (None: a temporary one). Raises ValueError for a quantized
    state without observed ranges, or of a backend that this machine does not have.
    """
    return _deployed(state, build(state), torch.device(device), artefacts)


def calibrated(state: ModelState, ctx: Context) -> Deployed:
    """The networks of `state`, with ranges and thresholds found where they are missing.

    Ranges are observed on training images, thresholds chosen on the validation share with the
    network as it is deployed, int8 included. Raises StageError where a target cannot be met.
    """
    model = build(state)
    if state.quant is not None and state.quant.ranges is None:
        loader = ctx.loaders(batch_size=state.quant.calibration_batch_size).calibration
        quant = backends.with_calibrated_ranges(model, state.quant, loader)
        state = replace(state, quant=quant)
    deployed = _deployed(state, model, ctx.device, ctx.artefacts)
    if state.exits is None or state.exits.thresholds is not None:
        return deployed
    exits = _with_thresholds(deployed, state.exits, ctx)
    return replace(deployed, state=replace(state, exits=exits))


def _deployed(
    state: ModelState, model: HybridCNNTransformer, device: torch.device, artefacts: Path | None
) -> Deployed:
    has_exits = bool(state.model_args["exits"])
    if state.precision != FLOAT32:  # int8 stays on the CPU
        device = torch.device("cpu") if state.quant is not None else device
        made = programs(model, state.quant, state.precision)
        parts: list[nn.Module] = [program.graph.to(device) for program in made]
        whole = SplitNetwork(parts) if has_exits else parts[0]
        return Deployed(state, device, _placed(model, device), whole, parts)
    if state.quant is None:
        placed = _placed(model, device)
        return Deployed(state, device, placed, placed, placed.parts() if has_exits else [placed])
    int8 = backends.to_int8(model, state.quant, artefacts)
    parts = list(int8.parts) if has_exits else [int8]  # type: ignore[arg-type]
    cpu = torch.device("cpu")
    return Deployed(state, cpu, _placed(model, cpu), int8, parts)


def _placed(model: HybridCNNTransformer, device: torch.device) -> HybridCNNTransformer:
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _leaving(state: ModelState, whole: nn.Module, parts: Sequence[nn.Module]) -> nn.Module:
    if not state.model_args["exits"]:
        return whole
    never = Exits(thresholds=(1.0,) * (len(parts) - 1))
    return EarlyExitNetwork(whole, parts, state.exits or never, state.model_args)


@torch.inference_mode()
def _with_thresholds(deployed: Deployed, exits: Exits, ctx: Context) -> Exits:
    every, labels = [], []
    for images, truth in deployed.loaders(ctx).validation:
        every.append(every_logits(deployed.parts, images).float().cpu())
        labels.append(truth.cpu())
    macs = exit_macs(deployed.float_network)
    try:
        return calibrate(torch.cat(every, dim=1), torch.cat(labels), macs, exits)
    except ValueError as error:
        raise StageError(str(error)) from None
