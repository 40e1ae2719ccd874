"""The module that a state trains as: float or fake-quantized, masked, frozen but for exits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.pruning.masks import zero_channel_masks
from methods.quantization import backends
from methods.quantization.freezing import frozen_tensors
from model import Network, blueprint
from stages.state import ModelState
from training.losses import Criterion
from training.recipe import Recipe, wants_compiling


def with_sparsity(criterion: Criterion, module: nn.Module, weight: float) -> Criterion:
    """The criterion plus `weight`·Σ|γ| of the batch norms, which drives weak channels to zero."""
    scales = [m.weight for m in module.modules() if isinstance(m, nn.BatchNorm2d)]

    def loss(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        penalty = torch.stack([scale.abs().sum() for scale in scales]).sum()
        return criterion(logits, labels, images) + weight * penalty

    return loss


def trainable(
    state: ModelState, model: Network, device: torch.device
) -> tuple[nn.Module, dict[str, str]]:
    """The module that trains, and where each master weight lives in it."""
    if state.quant is not None and state.quant.scheme == "qat":
        module = backends.prepare(model, state.quant)
        names = backends.master_names(module, model, state.quant)
    else:
        module = model
        model.with_exits = bool(state.model_args["exits"])
        names = {name: name for name in state.weights}
    return module.to(device=device, memory_format=torch.channels_last), names  # type: ignore[call-overload]


def why_not_recorded(
    state: ModelState,
    recipe: Recipe,
    device: torch.device,
    teacher: ModelState | None,
    alone: bool,
) -> str | None:
    """Why no training step of `state` is one CUDA graph (training/cuda_graph.py); None: it is.

    `alone`: no other process has a part of the batch.
    """
    if device.type != "cuda":
        return "a GPU alone records"
    if not wants_compiling(recipe, device):
        return "compile is False"
    if not alone:
        return "several processes take it together"
    if teacher is not None and teacher.is_rounded:
        return "the teacher is int8 or bfloat16, which need not answer on the GPU"
    if state.quant is not None and state.quant.scheme == "qat":
        backend = state.quant.backend
        if not backends.trains_recorded(backend):
            return f"backend {backend!r} looks at values on the GPU"
    return None


def freeze_trunk(module: nn.Module, names: dict[str, str]) -> None:
    """Only exits' heads get gradients, and all statistics stay as they are."""
    heads = {source for name, source in names.items() if name.startswith("exits.")}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in heads)
    module.register_forward_pre_hook(lambda module, inputs: module.eval() and None)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm by its running statistics in training too, which stay as they are."""

    def forward(self, images: Tensor) -> Tensor:
        return _by_running_statistics(self, images)


class FrozenBatchNorm1d(nn.BatchNorm1d):
    """The same of features."""

    def forward(self, features: Tensor) -> Tensor:
        return _by_running_statistics(self, features)


FROZEN_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.BatchNorm1d: FrozenBatchNorm1d,
}


def _by_running_statistics(norm: nn.BatchNorm1d | nn.BatchNorm2d, values: Tensor) -> Tensor:
    return F.batch_norm(
        values, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )


def frozen_in(state: ModelState) -> set[str]:
    """Names of the master weights that an earlier stage froze."""
    if state.quant is None or not state.quant.frozen:
        return set()
    return frozen_tensors(blueprint(state.model_args), state.quant)


def all_is_frozen(state: ModelState) -> bool:
    """Whether nothing of the network can be trained."""
    return frozen_in(state) >= dict(blueprint(state.model_args).named_parameters()).keys()


def freeze(module: nn.Module, tensors: set[str]) -> None:
    """Of `module`, the parameters and statistics of these names stay as they are."""
    for name, parameter in module.named_parameters():
        if name in tensors:
            parameter.requires_grad_(False)
    for name, part in module.named_modules():
        if type(part) in FROZEN_NORMS and f"{name}.running_mean" in tensors:
            # Another class, not another module: its name, hooks and parameters stay what they are.
            part.__class__ = FROZEN_NORMS[type(part)]


class LastExit(nn.Module):
    """A network that gives the logits of every exit, judged by the last before its end."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        return self.module(images)[-2]


def masks_in(
    module: nn.Module, model: Network, names: dict[str, str]
) -> list[tuple[Tensor, Tensor]]:
    """(tensor of `module`, mask) for each channel that `model` has pruned."""
    tensors = module.state_dict()  # shares memory with the module
    masks = zero_channel_masks(model).items()
    return [(tensors[names[name]], mask.to(tensors[names[name]].device)) for name, mask in masks]
