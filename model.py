"""The networks: a small CNN, and its hybrids with a Transformer or an MLP, with exits on the way.

`HybridCNNTransformer(**model_args)` rebuilds any network of this project, a structurally pruned one
included: `model_args` holds every width, layer by layer, and nothing else is needed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from machine.noise import drop_remarks
from networks.args import ModelArgs, exit_places
from networks.convolution import ConvBlock, fuse_blocks
from networks.transformer import PositionalEncoding, TokenTransformer, mean_over_tokens

__all__ = [  # what a notebook takes from here; some of it is made behind the door
    "ConvBlock", "ExitHead", "HybridCNNTransformer", "LightweightCNN", "ModelArgs",
    "PositionalEncoding", "blueprint", "exit_places", "fuse_blocks",
]  # fmt: skip


# Parts of torch that are imported later remark on a missing CUDA, which nothing here needs.
drop_remarks("torch.utils.cpp_extension")


def _as_tokens(maps: Tensor) -> Tensor:
    """`[B, C, h, w]` → `[B, h*w, C]`, which for channels_last moves nothing."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


def _layers_before(place: str) -> int | None:
    """How many encoder layers lie before a place; None: all."""
    if place == "head":
        return None
    return int(place.removeprefix("layer_")) + 1 if place.startswith("layer_") else 0


def every_logits(parts: Iterable[Callable[..., Sequence[Tensor]]], images: Tensor) -> Tensor:
    """The logits of every exit, whether or not a sample would have left: `[E + 1, B, K]`."""
    carried: Sequence[Tensor] = (images,)
    every = []
    for part in parts:
        logits, *carried = part(*carried)
        every.append(logits)
    return torch.stack(every)


class LightweightCNN(nn.Module):
    """A stack of `ConvBlock`s: `[B, C, H, W]` → `[B, channels[-1], h, w]`."""

    def __init__(
        self,
        in_channels: int,
        channels: list[int],
        *,
        kernels: list[int],
        strides: list[int],
        pools: list[int],
        norm: str = "batch",
        activation: str = "relu",
        separable: bool = False,
    ):
        super().__init__()
        widths = [in_channels, *channels]
        self.blocks = nn.Sequential(
            *(
                ConvBlock(
                    widths[i],
                    widths[i + 1],
                    kernel=kernels[i],
                    stride=strides[i],
                    pool=pools[i],
                    norm=norm,
                    activation=activation,
                    separable=separable,
                )
                for i in range(len(channels))
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(images)


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


class HybridCNNTransformer(nn.Module):
    """Images `[B, in_channels, H, W]` → logits `[B, num_classes]`.

    fusion 'serial': CNN features become the Transformer's tokens. 'parallel': pooled CNN features
    beside an MLP over them. 'parallel_attention': pooled CNN features beside a patch-embedding
    Transformer on the image. The two paths are joined before the head.

    With `exits` it can be left on the way: `parts` are the pieces between them. `with_exits` set,
    `forward` gives the logits of every exit, the last one the network's own: `[E + 1, B, classes]`.

    `model_args` are the fields of `ModelArgs`. Raises pydantic.ValidationError (a ValueError) for
    arguments that build no network, and ValueError for images of another shape.
    """

    def __init__(self, **model_args: Any):
        super().__init__()
        checked = ModelArgs(**model_args)
        args = checked.resolved()
        self.model_args = args
        channels, dim = args["cnn_channels"], args["embed_dim"]
        self.cnn = LightweightCNN(
            args["in_channels"],
            channels,
            kernels=args["cnn_kernels"],
            strides=args["cnn_strides"],
            pools=args["cnn_pools"],
            norm=args["cnn_norm"],
            activation=args["cnn_activation"],
            separable=args["cnn_separable"],
        )
        self.fusion = args["fusion"]
        if self.fusion == "serial":
            height, width = checked.feature_sizes()[-1]
            self.embed: nn.Module = nn.Linear(channels[-1], dim)
            self.transformer = TokenTransformer(height * width, args)
            features = dim
        elif self.fusion == "parallel":
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.grid = nn.AdaptiveAvgPool2d(args["mlp_grid"])
            widths = [channels[-1] * args["mlp_grid"] ** 2, *args["mlp_dims"]]
            self.mlp = nn.Sequential()
            for before, after in itertools.pairwise(widths):
                self.mlp.extend([nn.Linear(before, after), nn.ReLU(), nn.Dropout(args["dropout"])])
            features = channels[-1] + widths[-1]
        else:
            patch = args["patch_size"]
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.embed = nn.Conv2d(args["in_channels"], dim, patch, patch)
            height, width = (side // patch for side in args["image_size"])
            self.transformer = TokenTransformer(height * width, args)
            features = channels[-1] + dim
        self.head = nn.Linear(features, args["num_classes"])
        self.with_exits = False
        if args["exits"]:
            self.exits = nn.ModuleDict({place: self._exit_head(place) for place in args["exits"]})
        self.register_forward_pre_hook(check_images)

    def _exit_head(self, place: str) -> ExitHead:
        args = self.model_args
        if place == "cnn":
            return ExitHead(args["cnn_channels"][-1], args["num_classes"])
        return ExitHead(
            args["embed_dim"],
            args["num_classes"],
            over_tokens=True,
            pooled=0 if self.fusion == "serial" else args["cnn_channels"][-1],
            class_token=args["pooling"] == "class_token",
        )

    def forward(self, images: Tensor) -> Tensor:
        if self.with_exits:
            return self.every_logits(images)
        return self.span("image", "head", images)[0]

    def every_logits(self, images: Tensor) -> Tensor:
        """The logits of every exit and of the network's end: `[E + 1, B, num_classes]`."""
        spans = [functools.partial(self.span, *piece) for piece in self.pieces()]
        return every_logits(spans, images)

    def parts(self) -> list[ModelPart]:
        """What lies between exits, as modules of their own which share this network's weights."""
        return [ModelPart(self, *piece) for piece in self.pieces()]

    def pieces(self) -> list[tuple[str, str]]:
        """Between exits: the places where each piece begins and ends, see `span`."""
        return list(itertools.pairwise(["image", *self.model_args["exits"], "head"]))

    def span(self, after: str, to: str, stream: Tensor, *pooled: Tensor) -> tuple[Tensor, ...]:
        """What lies between two places: `(stream, *pooled)` → `(logits, stream, *pooled)`.

        A place is 'image', that of an exit ('cnn', 'layer_0', ...), or 'head', after which there
        are logits alone. The stream is the images, then feature maps or tokens; `pooled` is there
        in fusion 'parallel_attention' alone, after the CNN.
        """
        if after == "image":
            maps = self.cnn(stream)  # [B, C, h, w]
            if self.fusion == "parallel_attention":  # whose stream goes on from the images
                pooled = (self.pool(maps).flatten(1),)  # [B, C]
            else:
                stream = maps
        if to == "cnn":
            features = pooled[0] if pooled else stream.mean(dim=(2, 3))
            return self.exits[to](features), stream, *pooled
        if self.fusion == "parallel":
            pooled = (self.pool(stream).flatten(1),)  # [B, C]
            features = self.mlp(self.grid(stream).flatten(1))  # [B, mlp_dims[-1]]
        else:
            first, last = _layers_before(after), _layers_before(to)
            if first == 0:
                grid = self.embed(stream) if pooled else stream  # a convolution over patches
                tokens = _as_tokens(grid) if pooled else self.embed(_as_tokens(grid))
                stream = self.transformer.begin(tokens)  # [B, N, embed_dim]
            for layer in list(self.transformer.layers)[first:last]:
                stream = layer(stream)
            if to != "head":
                return self.exits[to](stream, *pooled), stream, *pooled
            features = self.transformer.end(stream)  # [B, embed_dim]
        return (self.head(torch.cat([*pooled, features], dim=1) if pooled else features),)

    def _fuse_modules_for_quantization(self) -> list[list[str]]:
        """Names of the modules that quantization runs as one: convolution, batch norm, ReLU.

        Returned, not done in place: FX and PT2E fuse by pattern, eager mode and tests by this list.
        """
        groups = []
        for index, block in enumerate(self.cnn.blocks):
            names = ["conv"]
            if isinstance(block.norm, nn.BatchNorm2d):
                names.append("norm")
            if isinstance(block.activation, nn.ReLU) and not isinstance(block.norm, nn.GroupNorm):
                names.append("activation")
            if len(names) > 1:
                groups.append([f"cnn.blocks.{index}.{name}" for name in names])
        if self.fusion == "parallel":
            groups += [[f"mlp.{i}", f"mlp.{i + 1}"] for i in range(0, len(self.mlp), 3)]
        if hasattr(self, "transformer"):
            for index, layer in enumerate(self.transformer.layers):
                if isinstance(layer.activation, nn.ReLU):
                    prefix = f"transformer.layers.{index}"
                    groups.append([f"{prefix}.fc1", f"{prefix}.activation"])
        return groups


class ModelPart(HybridCNNTransformer):
    """One piece of a network with exits, every layer under its name: see `span`."""

    def __init__(self, model: HybridCNNTransformer, after: str, to: str):
        nn.Module.__init__(self)
        self.model_args, self.fusion, self.piece = model.model_args, model.fusion, (after, to)
        for name, module in model.named_children():
            self.add_module(name, module)
        self.train(model.training)

    def forward(self, stream: Tensor, pooled: Tensor | None = None) -> tuple[Tensor, ...]:  # type: ignore[override]
        beside = (pooled,) if self.fusion == "parallel_attention" else ()
        return self.span(*self.piece, stream, *beside)


def check_images(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Raise ValueError for images that are not `[B, in_channels, H, W]` as `model_args` says."""
    args: dict[str, Any] = module.model_args  # type: ignore[assignment]
    expected = (args["in_channels"], *args["image_size"])
    found = tuple(inputs[0].shape[1:])
    if len(inputs[0].shape) != 4 or found != expected:
        raise ValueError(
            f"cnn.blocks.0 takes images [B, {', '.join(map(str, expected))}], "
            f"got {list(inputs[0].shape)}; model_args says in_channels and image_size"
        )


def blueprint(model_args: dict[str, Any]) -> HybridCNNTransformer:
    """The network of some arguments without its weights, to look at names and shapes."""
    with torch.device("meta"):
        return HybridCNNTransformer(**model_args)
