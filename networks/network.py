"""What every network of this project can, whoever wrote it."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """Images `[B, in_channels, H, W]` → logits `[B, num_classes]`, rebuilt from plain arguments.

    `model_args` are these arguments, resolved: `image_size` `[H, W]`, `in_channels`, `num_classes`,
    `exits` (places at which it can be left early), `architecture` but for the hybrid, `shapes` of
    the tensors that pruning has made smaller, and what the constructor takes besides. A network
    that can be left early overrides `exit_places`, `every_logits` and `parts`.
    """

    model_args: dict[str, Any]
    with_exits: bool = False  # whether `forward` gives the logits of every exit: [E + 1, B, K]

    def exit_places(self) -> list[str]:
        """Where it could be left early, from front to back."""
        return []

    def every_logits(self, images: Tensor) -> Tensor:
        """The logits of every exit and of the network's end: `[E + 1, B, num_classes]`."""
        return self(images)[None]

    def dimensions(self) -> list[Any] | None:
        """What of it structural pruning can remove: `Dimension`s of methods/pruning/cutting.py.

        None: what its graph shows. A network says it itself where no graph does, as of heads.
        """
        return None

    def parts(self) -> list[Any]:
        """What lies between exits, as networks of their own which share this network's weights.

        The first takes images, and each gives its logits and what the next one takes.
        """
        return [self]


class OrderedNetwork(Network):
    """A network whose code counts on channels lying outermost, as `maps.view(len(maps), -1)` does.

    All else runs in channels_last, which is faster.
    """

    def to(self, *args: Any, **options: Any) -> OrderedNetwork:
        """As ever, but the order stays."""
        options.pop("memory_format", None)
        return super().to(*args, **options)


def adopted(module: nn.Module, model_args: dict[str, Any], *, ordered: bool = False) -> Network:
    """`module` itself, as a Network (`ordered`: an OrderedNetwork) with these arguments; what it
    can by itself it still does."""
    if not isinstance(module, Network):
        # Another class, not another module: names, hooks and parameters stay what they are.
        kind: Any = type(module)
        module.__class__ = _as_network(kind, OrderedNetwork if ordered else Network)
    assert isinstance(module, Network)
    module.model_args = model_args
    module.register_forward_pre_hook(check_images)
    if ordered:
        module.register_forward_pre_hook(lambda _, inputs: (in_order(inputs[0]),))
    return module


@functools.cache
def _as_network(kind: Any, base: Any) -> type[nn.Module]:
    return type(kind.__name__, (kind, base), {"__module__": kind.__module__})


def in_order(images: Tensor) -> Tensor:
    """`images` `[B, C, H, W]` row by row in memory, also by their strides where C is 1, which says
    nothing of the order then and is read all the same."""
    if images.stride(1) == images.shape[2] * images.shape[3]:
        return images
    return images.clone(memory_format=torch.contiguous_format)


def check_images(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Raise ValueError for images that are not `[B, in_channels, H, W]` as `model_args` says."""
    args: dict[str, Any] = module.model_args  # type: ignore[assignment]
    expected = (args["in_channels"], *args["image_size"])
    found = tuple(inputs[0].shape[1:])
    if len(inputs[0].shape) != 4 or found != expected:
        taker = args.get("architecture", "cnn.blocks.0")  # of the hybrid, its first layer
        raise ValueError(
            f"{taker} takes images [B, {', '.join(map(str, expected))}], "
            f"got {list(inputs[0].shape)}; model_args says in_channels and image_size"
        )
