"""Networks that can be left on the way: the heads, and the pieces of a network between them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from networks.network import Network
from networks.transformer import mean_over_tokens


def every_logits(parts: Iterable[Callable[..., Sequence[Tensor]]], images: Tensor) -> Tensor:
    """The logits of every exit, whether or not a sample would have left: `[E + 1, B, K]`."""
    carried: Sequence[Tensor] = (images,)
    every = []
    for part in parts:
        logits, *carried = part(*carried)
        every.append(logits)
    return torch.stack(every)


def layers_before(place: str) -> int | None:
    """How many encoder layers lie before a place; None: all."""
    if place == "head":
        return None
    return int(place.removeprefix("layer_")) + 1 if place.startswith("layer_") else 0


def check_exits(exits: Sequence[str], allowed: Sequence[str]) -> None:
    """Raise ValueError for exits that are not some of the allowed places, in their order."""
    if list(exits) != [place for place in allowed if place in exits]:
        raise ValueError(
            f"exits {list(exits)} should be some of {list(allowed)}, in this order and each once"
        )


class ExitHead(nn.Module):
    """A classifier on features on the way: norm, mean over tokens, linear (arXiv:1709.01686).

    `[B, C]`, or tokens `[B, N, C]` (`class_token`: only the first counts), and beside these what a
    parallel path has pooled → logits `[B, num_classes]`.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        over_tokens: bool = False,
        pooled: int = 0,
        class_token: bool = False,
    ):
        super().__init__()
        self.norm, self.class_token = nn.LayerNorm(dim), class_token
        self.over_tokens = over_tokens
        self.head = nn.Linear(pooled + dim, num_classes)

    def forward(self, features: Tensor, pooled: Tensor | None = None) -> Tensor:
        features = self.norm(features)
        if self.over_tokens:
            features = features[:, 0] if self.class_token else mean_over_tokens(features)
        return self.head(features if pooled is None else torch.cat([pooled, features], dim=1))


class ExitingNetwork(Network):
    """A network that says what lies between two places, which is all that early exits need.

    With `exits` in its arguments it can be left on the way: `parts` are the pieces between them.
    `with_exits` set, `forward` gives the logits of every exit, the last one the network's own:
    `[E + 1, B, num_classes]`.
    """

    exits: nn.ModuleDict  # place → its head; there only where the network has exits

    def span(self, after: str, to: str, stream: Tensor, *pooled: Tensor) -> tuple[Tensor, ...]:
        """What lies between two places: `(stream, *pooled)` → `(logits, stream, *pooled)`.

        A place is 'image', that of an exit, or 'head', after which there are logits alone.
        """
        raise NotImplementedError

    @property
    def pools_beside(self) -> bool:
        """Whether its parts hand on, beside the stream, what a parallel path has pooled."""
        return False

    def forward(self, images: Tensor) -> Tensor:
        if self.with_exits:
            return self.every_logits(images)
        return self.span("image", "head", images)[0]

    def every_logits(self, images: Tensor) -> Tensor:
        spans = [functools.partial(self.span, *piece) for piece in self.pieces()]
        return every_logits(spans, images)

    def parts(self) -> list[ModelPart]:
        kind = _part_of(type(self))  # type: ignore[arg-type]
        return [kind(self, *piece) for piece in self.pieces()]

    def pieces(self) -> list[tuple[str, str]]:
        """Between exits: the places where each piece begins and ends, see `span`."""
        return list(itertools.pairwise(["image", *self.model_args["exits"], "head"]))


class ModelPart(ExitingNetwork):
    """One piece of a network with exits, every layer under its name: see `span`."""

    def __init__(self, model: ExitingNetwork, after: str, to: str):
        nn.Module.__init__(self)
        self.model_args, self.piece = model.model_args, (after, to)
        for name, module in model.named_children():
            self.add_module(name, module)
        self.train(model.training)

    def forward(self, stream: Tensor, pooled: Tensor | None = None) -> tuple[Tensor, ...]:  # type: ignore[override]
        # Said by the network, not by `pooled`: who traces this gives it something for both.
        beside = (pooled,) if self.pools_beside else ()
        return self.span(*self.piece, stream, *beside)


@functools.cache
def _part_of(kind: type[ExitingNetwork]) -> type[ModelPart]:
    """The parts of networks of a kind, which have its `span`."""
    return type(f"{kind.__name__}Part", (ModelPart, kind), {"__module__": kind.__module__})
