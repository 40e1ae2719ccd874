"""What an engine is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

aten = torch.ops.aten
LAYERS = (aten.conv2d.default, aten.linear.default)


class EngineError(RuntimeError):
    """An engine cannot run a network, or not as it should; the message is one line."""


@dataclass(frozen=True)
class Program:
    """A network, or a part of one between early exits, in the form that every engine takes."""

    # aten and quantized_decomposed operations for any batch size, images normalised. Run as it is,
    # it gives the logits that engines are compared with; an int8 one is slow so.
    graph: fx.GraphModule
    inputs: tuple[tuple[int, ...], ...]  # shapes of what it takes, without the batch
    model_args: dict[str, Any]  # of the whole network
    int8_layers: tuple[str, ...] = ()  # names of the layers that are to be computed in int8
    precision: str = "float32"  # of all else: 'float32' or 'bfloat16'
    native: nn.Module | None = None  # the same as PyTorch runs it by itself; None: it cannot
    is_part: bool = False  # it gives a tuple of tensors, logits first; else logits alone

    def examples(self, batch: int) -> tuple[Tensor, ...]:
        """Normal noise in the shape of a batch, contiguous, equal at every call."""
        generator = torch.Generator().manual_seed(0)
        return tuple(torch.randn(batch, *tail, generator=generator) for tail in self.inputs)


SHAKE = 1e-3  # relative change of an input that lets some of its values round to the other side
SHAKEN = 3.0  # so many times what that moves the values, an engine's own roundings may


def shaken(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """`inputs`, each value moved by about a thousandth of itself, equally at every call.

    In a deep int8 network a few values that round to the other side move many behind them: how
    far, tells how far an engine that rounds as it should may be from the graph.
    """
    generator = torch.Generator().manual_seed(1)
    return tuple(v * (1 + SHAKE * torch.randn(v.shape, generator=generator)) for v in inputs)


class Ready(NamedTuple):
    """A program that an engine has made ready."""

    # float32 tensors on the CPU, images first, contiguous → what the program gives, as a sequence
    run: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    precision: str  # that all but int8 layers are computed in: 'float32' or 'bfloat16'
    threads: int
    int8_layers: tuple[str, ...] | None  # those that it computes in int8; None: it cannot tell


def layer_name(node: fx.Node) -> str:
    """The module that a convolution or linear node of a program's graph belongs to.

    Where quantization has replaced the weight, `meta['layer']` says so.
    """
    if "layer" in node.meta:
        return str(node.meta["layer"])
    weight: Any = node.args[1]
    while isinstance(weight, fx.Node) and weight.op != "get_attr":
        weight = weight.args[0]
    assert isinstance(weight, fx.Node)
    return str(weight.target).removesuffix(".weight")


def int8_layers(graph: fx.GraphModule) -> tuple[str, ...]:
    """The convolutions and linear layers of a graph whose weights are int8, in its order.

    One that is called twice is one.
    """
    small = torch.ops.quantized_decomposed.dequantize_per_channel.default
    names = [
        layer_name(node)
        for node in graph.graph.nodes
        if node.target in LAYERS and getattr(node.args[1], "target", None) is small
    ]
    return tuple(dict.fromkeys(names))
