"""What passes between stages, its plain form, and the float network that it describes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from machine.files import canonical_json, sha256
from methods.casting import FLOAT32
from methods.early_exit.exits import Exits, exits_of
from methods.quantization.record import Quant
from model import Network, build_network


@dataclass(frozen=True)
class ModelState:
    """A network between two stages. Frozen: a stage returns a new one."""

    model_args: dict[str, Any]  # resolved; build_network(model_args) rebuilds it
    weights: dict[str, Tensor]  # name → float32 master (parameters and buffers), on the CPU
    quant: Quant | None = None
    exits: Exits | None = None  # how it is left early; the exits' heads are among the weights
    precision: str = FLOAT32  # that what is not int8 is deployed in, see methods/casting.py

    @property
    def is_rounded(self) -> bool:
        """Whether it is deployed in other values than its masters: in int8 or bfloat16."""
        return self.quant is not None or self.precision != FLOAT32

    def changed(self, weights: dict[str, Tensor], **fields: Any) -> ModelState:
        """The state with new weights. Ranges and thresholds found for others no longer hold."""
        quant = replace(self.quant, ranges=None) if self.quant is not None else None
        places = fields.get("model_args", self.model_args)["exits"]
        exits = self.exits.stale(len(places)) if self.exits is not None and places else None
        return replace(self, weights=weights, **{"quant": quant, "exits": exits, **fields})


def initial_state(model_args: dict[str, Any], seed: int) -> ModelState:
    """A freshly initialised network; equal seeds give equal weights."""
    torch.manual_seed(seed)
    return state_of(build_network(model_args))


def state_of(model: Network) -> ModelState:
    """The state of a float network."""
    return ModelState(model.model_args, cpu_copy(model.state_dict()))


def cpu_copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU, so that equal values are equal files."""
    return {
        name: value.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name, value in tensors.items()
    }


def build(state: ModelState) -> Network:
    """The float32 network of a state, in eval mode, on the CPU."""
    model = build_network(state.model_args)
    model.load_state_dict(state.weights)
    return model.eval()


def form(state: ModelState) -> str:
    """Digest of all but its weights: networks of one form run the same code in the same memory."""
    parts = {
        "model_args": state.model_args,
        "quant": state.quant.settings() if state.quant else None,
        "exits": state.exits.plain() if state.exits else None,
        "precision": state.precision,
    }
    return sha256(canonical_json(parts))


def to_plain(state: ModelState) -> dict[str, Any]:
    """The state as tensors and plain data, for a file."""
    quant = None
    if state.quant is not None:
        quant = {**state.quant.settings(), "ranges": state.quant.ranges}
    return {
        "model_args": state.model_args,
        "weights": state.weights,
        "quant": quant,
        "exits": state.exits.plain() if state.exits is not None else None,
        "precision": state.precision,
    }


def from_plain(plain: dict[str, Any]) -> ModelState:
    """The inverse of `to_plain`."""
    quant = plain["quant"]
    if quant is not None:
        quant = Quant(**{**quant, "float_layers": tuple(quant["float_layers"])})
    exits = exits_of(plain["exits"]) if plain["exits"] is not None else None
    args = {"exits": [], **plain["model_args"]}
    precision = plain.get("precision", FLOAT32)  # files that do not say were written before casting
    return ModelState(args, plain["weights"], quant, exits, precision)
