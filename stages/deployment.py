"""`deploy`: a state as networks that run, and what these first need to know of data.

That is int8 ranges, then the thresholds of exits, found with the network as it is deployed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import nn

from dataset import DataLoaders
from engines.network import EngineNetwork, preferred
from engines.program import Program
from engines.programs import programs
from machine.processor import bf16_is_fast
from methods.casting import FLOAT32
from methods.early_exit.exits import EarlyExitNetwork, Exits, SplitNetwork
from methods.early_exit.thresholds import calibrate, exit_macs
from methods.quantization import backends, pt2e
from model import Network, every_logits
from stages.stage import Context, StageError
from stages.state import ModelState, build, state_of

INT8_BATCH = 64  # images at a time, at least, that an int8 network is evaluated by


@dataclass(frozen=True)
class Deployed:
    """A state's networks, made once and handed on: `network` is the one that counts."""

    state: ModelState
    device: torch.device  # where the networks run
    float_network: Network  # what is counted, and what int8 is timed against
    parts: Sequence[nn.Module]  # of the network, between exits; itself where it has none
    made: list[Program] = field(default_factory=list, repr=False)  # see `programs`

    @cached_property
    def whole(self) -> nn.Module:
        """The network as it is deployed, but never left early."""
        if not self.state.model_args["exits"]:
            return self.parts[0]
        return SplitNetwork(self.parts) if self.state.is_rounded else self.float_network

    @cached_property
    def network(self) -> nn.Module:
        """What is evaluated, timed and sized: `whole`, or an EarlyExitNetwork of `parts`.

        Raises ValueError for exits without thresholds.
        """
        if not self.state.model_args["exits"]:
            return self.whole
        never = Exits(thresholds=(1.0,) * (len(self.parts) - 1))
        exits = self.state.exits or never
        return EarlyExitNetwork(self.whole, self.parts, exits, self.state.model_args)

    @cached_property
    def float_form(self) -> Deployed:
        """The same in float32, left early at the same thresholds."""
        state = replace(self.state, quant=None, precision=FLOAT32)
        return _in_float(state, self.float_network, self.device)

    @property
    def programs(self) -> list[Program]:
        """What engines take; about a second, once."""
        if not self.made:
            state = self.state
            self.made.extend(programs(self.float_network, state.quant, state.precision))
        return self.made

    def on(self, engines: Mapping[int, str], threads: int | None = None) -> Deployed:
        """The same networks, run by ENGINES as chosen for each batch size; on a GPU by PyTorch."""
        if self.device.type != "cpu":
            return self
        return self.of([EngineNetwork(program, engines, threads) for program in self.programs])

    def of(self, parts: Sequence[nn.Module]) -> Deployed:
        """The same networks with `parts` that were made elsewhere."""
        return replace(self, parts=parts)

    @property
    def emulated(self) -> bool:
        """Whether it is in bfloat16 where nothing computes in that: for its accuracy alone."""
        return self.state.precision != FLOAT32 and not bf16_is_fast(self.device)

    def evaluation_batch(self, ctx: Context) -> int:
        """Images a batch at which the network is fastest; int8 code would pad smaller ones."""
        fastest = replace(ctx, device=self.device).evaluation_batch
        return fastest if self.state.quant is None else max(fastest, INT8_BATCH)

    def loaders(self, ctx: Context) -> DataLoaders:
        """The data of `ctx` where the network runs, in its fastest batches."""
        return replace(ctx, device=self.device).loaders(batch_size=self.evaluation_batch(ctx))


def deploy(state: ModelState, device: torch.device | str = "cpu") -> Deployed:
    """The networks of a state; the only maker of int8 modules.

    Float networks go to `device` in channels_last and are run by PyTorch; int8 networks run on the
    CPU, by torch's own modules where they are such, else by the engine that is preferred where none
    was measured. `Deployed.on` has them run by others. Raises ValueError for a quantized state
    without observed ranges, EngineError where nothing here runs it.
    """
    return _deployed(state, build(state), torch.device(device))


def converted(prepared: nn.Module, backend: str) -> nn.Module:
    """The int8 network of a prepared one, by the ranges that it has seen, never left early."""
    if backends.module_of(backend).RUN_IN_TORCH:
        return backends.convert(prepared, backend)
    model, quant = pt2e.recorded(prepared)
    return deploy(replace(state_of(model), quant=quant)).whole


def calibrated(state: ModelState, ctx: Context) -> Deployed:
    """The networks of `state`, with ranges and thresholds found where they are missing.

    Ranges are observed on training images, thresholds chosen on the validation share with the
    network as it is deployed, int8 included. Raises StageError where a target cannot be met.
    """
    model = build(state)
    state = with_ranges(state, model, ctx)
    deployed = _deployed(state, model, ctx.device)
    if state.exits is None or state.exits.thresholds is not None:
        return deployed
    exits = _with_thresholds(deployed, state.exits, ctx)
    return replace(deployed, state=replace(state, exits=exits))


def with_ranges(state: ModelState, model: Network, ctx: Context) -> ModelState:
    """`state`, whose network is `model`, with int8 ranges observed where they are missing."""
    if state.quant is None or not backends.lacks_ranges(model, state.quant):
        return state
    loader = ctx.loaders(batch_size=state.quant.calibration_batch_size).calibration
    return replace(state, quant=backends.with_calibrated_ranges(model, state.quant, loader))


def _deployed(state: ModelState, model: Network, device: torch.device) -> Deployed:
    cpu = torch.device("cpu")
    if not state.is_rounded:
        return _in_float(state, _placed(model, device), device)
    if state.quant is None and device.type != "cpu":  # PyTorch runs the graph itself
        made = programs(model, None, state.precision)
        graphs = [program.graph.to(device) for program in made]
        return Deployed(state, device, _placed(model, device), graphs, made)
    native = None
    if state.quant is not None and state.precision == FLOAT32:
        native = backends.native_int8(model, state.quant)
    deployed = Deployed(state, cpu, _placed(model, cpu), native or [])
    if native is not None:
        return deployed
    return deployed.on({INT8_BATCH: preferred(deployed.programs[0])})


def _in_float(state: ModelState, placed: Network, device: torch.device) -> Deployed:
    parts = placed.parts() if state.model_args["exits"] else [placed]
    return Deployed(state, device, placed, parts)


def _placed(model: Network, device: torch.device) -> Network:
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


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
