"""What passes between stages, and `deploy()`, which turns it into the network that counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from dataset import DataLoaders, Dataset, fastest_evaluation_batch, get_dataloaders
from model import HybridCNNTransformer
from stages import quantization
from stages.exits import EarlyExitNetwork, Exits, exits_of
from stages.quantization import Quant
from train_eval import Recipe, TrainingArgs


class StageError(RuntimeError):
    """A stage cannot do what was asked of it; the message is one line."""


class Interrupted(Exception):
    """The user asked to stop; what was done is saved."""


@dataclass(frozen=True)
class ModelState:
    """A network between two stages. Frozen: a stage returns a new one."""

    model_args: dict[str, Any]  # resolved; HybridCNNTransformer(**model_args) rebuilds it
    weights: dict[str, Tensor]  # name → float32 master (parameters and buffers), on the CPU
    quant: Quant | None = None
    exits: Exits | None = None  # how it is left early; the exits' heads are among the weights

    def changed(self, weights: dict[str, Tensor], **fields: Any) -> ModelState:
        """The state with new weights. Ranges and thresholds found for others no longer hold."""
        quant = replace(self.quant, ranges=None) if self.quant is not None else None
        places = fields.get("model_args", self.model_args)["exits"]
        exits = self.exits.stale(len(places)) if self.exits is not None and places else None
        return replace(self, weights=weights, **{"quant": quant, "exits": exits, **fields})


def initial_state(model_args: dict[str, Any], seed: int) -> ModelState:
    """A freshly initialised network; equal seeds give equal weights."""
    torch.manual_seed(seed)
    return state_of(HybridCNNTransformer(**model_args))


def state_of(model: HybridCNNTransformer) -> ModelState:
    """The state of a float network."""
    return ModelState(model.model_args, cpu_copy(model.state_dict()))


def blueprint(model_args: dict[str, Any]) -> HybridCNNTransformer:
    """The network of some arguments without its weights, to look at names and shapes."""
    with torch.device("meta"):
        return HybridCNNTransformer(**model_args)


def cpu_copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU, so that equal values are equal files."""
    return {
        name: value.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name, value in tensors.items()
    }


def build(state: ModelState) -> HybridCNNTransformer:
    """The float32 network of a state, in eval mode, on the CPU."""
    model = HybridCNNTransformer(**state.model_args)
    model.load_state_dict(state.weights)
    return model.eval()


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
        network = quantization.to_int8(model, state.quant, artefacts)
        return network, list(getattr(network, "parts", [network]))
    placed = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed, list(placed.parts()) if state.model_args["exits"] else [placed]


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
    }


def from_plain(plain: dict[str, Any]) -> ModelState:
    """The inverse of `to_plain`."""
    quant = plain["quant"]
    if quant is not None:
        older = {"reduce_range": False}  # what a file without the key was made with
        quant = Quant(**{**older, **quant, "float_layers": tuple(quant["float_layers"])})
    exits = exits_of(plain["exits"]) if plain["exits"] is not None else None
    return ModelState({"exits": [], **plain["model_args"]}, plain["weights"], quant, exits)


# --- What a stage is given besides the state ---------------------------------------------------


class Snapshot(Protocol):
    """Where a long stage saves itself and finds what an earlier try left."""

    def load(self) -> dict[str, Any] | None: ...

    def save(self, value: dict[str, Any]) -> None: ...


@dataclass
class Context:
    """The surroundings of one stage run: data, device, seed, and where to report."""

    dataset: Dataset
    device: torch.device
    seed: int
    snapshot: Snapshot | None = None
    artefacts: Path | None = None  # where compiled code is kept; None: a temporary folder
    snapshot_seconds: float = 120.0  # between snapshots inside an epoch
    stop_requested: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = print
    details: dict[str, Any] = field(default_factory=dict)  # goes into the stage's JSON record
    earlier_seconds: float = 0.0  # spent on the stage before it was interrupted
    teacher: ModelState | None = None  # the network that the Spec's teacher names, if it names one

    def loaders(self, recipe: Recipe | None = None, batch_size: int = 128) -> DataLoaders:
        """The data as `recipe` wants it, or plainly in batches of `batch_size`."""
        if recipe is None:
            return get_dataloaders(
                self.dataset, batch_size, augmentation="none", seed=self.seed, device=self.device
            )
        return get_dataloaders(
            self.dataset,
            recipe.batch_size,
            evaluation_batch_size=fastest_evaluation_batch(
                self.dataset.info.image_size, self.device
            ),
            augmentation=recipe.augmentation,
            cutout=recipe.cutout,
            mixup=recipe.mixup,
            seed=self.seed,
            device=self.device,
        )


class CompressionArgs(BaseModel):
    """`compression_args` of an experiment: the short form, or an explicit `sequence`.

    Beside a sequence, the other keys are the defaults of the stages that it names.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    sequence: list[str | dict[str, dict[str, Any]]] | None = None
    pruning_ratio: float = Field(0.0, ge=0, lt=1)  # share of the output channels of each layer
    pruning_mode: Literal["mask", "structural"] = "mask"
    finetune_epochs: int = Field(0, ge=0)
    finetune_learning_rate: float = Field(1e-3, gt=0)
    quantization: Literal["ptq", "qat"] | None = None
    quantization_backend: str = "inductor"
    ptq_calibration_batches: int = Field(8, ge=1)
    qat_epochs: int = Field(3, ge=1)
    qat_learning_rate: float = Field(5e-4, gt=0)
    distill_epochs: int = Field(20, ge=1)


class StageSpec(BaseModel):
    """What a chain says of one stage, fully resolved. Subclasses add fields with their ranges."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def defaults(cls, training: TrainingArgs, compression: CompressionArgs) -> dict[str, Any]:
        """Field values where the sequence says nothing; the class's own defaults come last."""
        return {}

    def tags(self) -> tuple[str, str]:
        """Short and long tag of the stage in file names."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """What the stage's result depends on, as plain data."""
        return self.model_dump()

    def warnings(self) -> list[str]:
        """What the user should know before the stage starts; goes into the results as well."""
        return []

    def check(self, model_args: dict[str, Any]) -> None:
        """Raise ValueError where the stage cannot be done to this architecture."""

    def outgoing(self, model_args: dict[str, Any]) -> dict[str, Any]:
        """The architecture after the stage, as far as it is known before it runs."""
        return model_args
