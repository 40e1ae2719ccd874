"""Narrow pointwise convolutions with strides, whose gradients oneDNN 3.12 (torch 2.14) spoils.

On a processor with AVX2 its gradient of their weights writes beyond its memory. Where gradients are
wanted, the same is computed as a convolution without strides on every second pixel.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NARROW = 16  # channels that fill a vector of any processor


def without_strides(network: nn.Module) -> None:
    """Let such layers of `network` train so, in place; what they compute stays what it was."""
    for layer in network.modules():
        if (
            isinstance(layer, nn.Conv2d)
            and layer.kernel_size == (1, 1)
            and max(layer.stride) > 1
            and layer.in_channels < NARROW
            and not any(layer.padding)
        ):
            layer._conv_forward = partial(_conv_forward, layer)  # type: ignore[method-assign]


def _conv_forward(layer: nn.Conv2d, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not torch.is_grad_enabled() or torch.compiler.is_exporting():
        return nn.Conv2d._conv_forward(layer, images, weight, bias)
    rows, columns = layer.stride
    return F.conv2d(images[:, :, ::rows, ::columns], weight, bias, groups=layer.groups)
