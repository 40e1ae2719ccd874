"""The networks by name: the hybrid of a small CNN with a Transformer or an MLP, and all others.

`HybridCNNTransformer(**model_args)` rebuilds any network of this project, a structurally pruned one
included: `model_args` holds every width, layer by layer, and nothing else is needed.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from machine.files import canonical_json
from machine.noise import drop_remarks
from networks import foreign
from networks.args import ModelArgs, exit_places
from networks.cct import CCT
from networks.convolution import ConvBlock, fuse_blocks
from networks.exits import (
    ExitHead,
    ExitingNetwork,
    ModelPart,
    every_logits,
    layers_before,
)
from networks.network import Network, check_images
from networks.pointwise import without_strides
from networks.resnet_cifar import ResNetCifar
from networks.transformer import PositionalEncoding, TokenTransformer

__all__ = [  # what a notebook takes from here; some of it is made behind the door
    "ARCHITECTURES", "CCT", "ConvBlock", "ExitHead", "HybridCNNTransformer", "LightweightCNN",
    "ModelArgs", "ModelPart", "Network", "PositionalEncoding", "ResNetCifar", "blueprint",
    "build_network", "check_images", "every_logits", "exit_places", "fuse_blocks", "resolved_args",
]  # fmt: skip


# Parts of torch that are imported later remark on a missing CUDA, which nothing here needs.
drop_remarks("torch.utils.cpp_extension")


def _as_tokens(maps: Tensor) -> Tensor:
    """`[B, C, h, w]` → `[B, h*w, C]`, which for channels_last moves nothing."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


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
        residual: Sequence[int] | None = None,
        squeeze_excite: Sequence[int] | None = None,
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
                    residual=bool(residual and residual[i]),
                    squeeze_excite=squeeze_excite[i] if squeeze_excite else 0,
                )
                for i in range(len(channels))
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(images)


class HybridCNNTransformer(ExitingNetwork):
    """Images `[B, in_channels, H, W]` → logits `[B, num_classes]`.

    fusion 'serial': CNN features become the Transformer's tokens. 'parallel': pooled CNN features
    beside an MLP over them. 'parallel_attention': pooled CNN features beside a patch-embedding
    Transformer on the image. The two paths are joined before the head.

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
            residual=args.get("cnn_residual"),
            squeeze_excite=args.get("cnn_squeeze_excite"),
        )
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

    def exit_places(self) -> list[str]:
        return exit_places(self.fusion, self.model_args["num_layers"])

    @property
    def fusion(self) -> str:
        return str(self.model_args["fusion"])

    @property
    def pools_beside(self) -> bool:
        return self.fusion == "parallel_attention"

    def span(self, after: str, to: str, stream: Tensor, *pooled: Tensor) -> tuple[Tensor, ...]:
        """See `ExitingNetwork.span`; the places of exits are 'cnn', 'layer_0', 'layer_1', ...

        The stream is the images, then feature maps or tokens; `pooled` is there in fusion
        'parallel_attention' alone, after the CNN.
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
            first, last = layers_before(after), layers_before(to)
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


HYBRID = "hybrid"
# By name: what `model_args` call their architecture. Beside these there are torchvision's
# ('torchvision:resnet18') and the user's own ('my_nets.py:TinyNet').
ARCHITECTURES: dict[str, type[Network]] = {
    HYBRID: HybridCNNTransformer,
    "cct": CCT,
    "resnet_cifar": ResNetCifar,
}


def architecture_of(model_args: Mapping[str, Any]) -> str:
    """The name of an architecture; the hybrid's arguments need not say it."""
    return str(model_args.get("architecture", HYBRID))


def resolved_args(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """`model_args` with every default spelled out, as plain data.

    Raises pydantic.ValidationError (the hybrid's) and NetworkError, both ValueErrors.
    """
    if architecture_of(model_args) == HYBRID:
        return ModelArgs(**model_args).resolved()
    return foreign.resolved(model_args, ARCHITECTURES)


def build_network(model_args: Mapping[str, Any]) -> Network:
    """The network of some arguments, freshly initialised. Raises ValueError where there is none."""
    if architecture_of(model_args) == HYBRID:
        network: Network = HybridCNNTransformer(**model_args)
    else:
        network = foreign.built(model_args, ARCHITECTURES)
    without_strides(network)
    return network


def blueprint(model_args: Mapping[str, Any]) -> Network:
    """The network of some arguments without its weights, to look at names and shapes."""
    if architecture_of(model_args) == HYBRID:
        with torch.device("meta"):
            return build_network(model_args)
    return copy.deepcopy(_blueprint(canonical_json(dict(model_args))))


@functools.lru_cache(maxsize=256)
def _blueprint(about: bytes) -> Network:
    args = json.loads(about)
    try:
        with torch.device("meta"):
            return build_network(args).eval()
    except foreign.NetworkError:  # a constructor that looks at numbers has to have some
        return build_network(args).to("meta").eval()


def places_of(model_args: Mapping[str, Any]) -> list[str]:
    """Where a network of some arguments could be left early."""
    if architecture_of(model_args) == HYBRID:
        return exit_places(model_args["fusion"], model_args["num_layers"])
    return blueprint(model_args).exit_places()
