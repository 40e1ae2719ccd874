"""Whole output channels set to zero, and kept there: how mode 'mask' prunes.

A pruned channel is zero from end to end: its filter, its bias, and its batch norm's shift and mean,
so that what follows sees exactly nothing, as after a structural cut. Batch norm's scale stays: it
multiplies zero, and quantization-aware training divides by it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.pruning.graph import silent_tensors
from model import HybridCNNTransformer, Network
from networks.convolution import ConvBlock


def channel_scores(weight: Tensor) -> Tensor:
    """L1 norm of each output channel of `[out, ...]` → `[out]` (arXiv:1608.08710)."""
    return weight.abs().flatten(1).sum(1)


@torch.no_grad()
def mask_channels(model: Network, ratio: float) -> dict[str, list[int]]:
    """Zero the weakest `ratio` of each layer's output channels, in place.

    Returns layer → `[zeroed, all]`. The classifier is left alone.
    """
    tensors = model.state_dict()  # shares memory with the model
    report = {}
    for name, owned in channel_tensors(model).items():
        scores = channel_scores(tensors[owned[0]])
        count = min(round(ratio * len(scores)), len(scores) - 1)
        weakest = scores.argsort(stable=True)[:count]
        for tensor in owned:
            tensors[tensor][weakest] = 0
        report[name] = [count, len(scores)]
    return report


def channel_tensors(model: Network) -> dict[str, list[str]]:
    """Layer → names of the tensors that are zero where an output channel is pruned, weight first.

    Left out: the classifiers, depthwise convolutions (their channels are the layer's before), the
    one-channel score of sequence pooling, and gates, which zero leaves half open. Raises ValueError
    for a network whose graph cannot be followed.
    """
    if not isinstance(model, HybridCNNTransformer):
        return silent_tensors(model.model_args)
    blocks = {f"{name}.conv": b for name, b in model.named_modules() if isinstance(b, ConvBlock)}
    known = model.state_dict().keys()
    owned = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear) or name.rpartition(".")[2] == "head":
            continue
        if name.endswith((".depthwise", ".score")) or ".squeeze_excite." in name:
            continue
        wanted = [f"{name}.weight", f"{name}.bias"]
        if name in blocks:
            norm = f"{name.removesuffix('conv')}norm"
            batch_norm = isinstance(blocks[name].norm, nn.BatchNorm2d)
            wanted += [f"{norm}.bias", f"{norm}.{'running_mean' if batch_norm else 'weight'}"]
        owned[name] = [tensor for tensor in wanted if tensor in known]
    return owned


def zero_channel_masks(model: Network) -> dict[str, Tensor]:
    """Tensor name → 0/1 mask, for every layer that has an all-zero filter.

    A filter that is zero to the bit was pruned: training does not arrive there by itself.
    """
    tensors = model.state_dict()
    masks: dict[str, Tensor] = {}
    if not isinstance(model, HybridCNNTransformer) and not _any_silent(model):
        return masks  # without looking at the graph, which takes a second
    for owned in channel_tensors(model).values():
        alive = channel_scores(tensors[owned[0]]) > 0  # [out]
        if alive.all() or not alive.any():  # a layer that starts at zero is not a pruned one
            continue
        for name in owned:
            shape = (-1, *[1] * (tensors[name].ndim - 1))
            masks[name] = alive.to(tensors[name].dtype).view(shape)
    return masks


def _any_silent(model: nn.Module) -> bool:
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return any(not layer.weight.flatten(1).any(dim=1).all() for layer in layers)
