"""The networks: a small CNN, and its hybrids with a Transformer or an MLP, with exits on the way.

`HybridCNNTransformer(**model_args)` rebuilds any network of this project, a structurally pruned one
included: `model_args` holds every width, layer by layer, and nothing else is needed.
"""

from __future__ import annotations

import itertools
import logging
import math
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from transformer import ACTIVATIONS, PositionalEncoding, TokenTransformer

__all__ = ["HybridCNNTransformer", "LightweightCNN", "ModelArgs", "PositionalEncoding"]

# Parts of torch that are imported later remark on a missing CUDA, which nothing here needs.
logging.getLogger("torch.utils.cpp_extension").addFilter(lambda record: record.levelno > 30)

Activation = Literal["relu", "gelu", "silu", "hardswish"]
Width = Annotated[int, Field(ge=1, le=16384)]
Widths = Width | list[Width]  # one number stands for every block or layer


class ModelArgs(BaseModel):
    """`model_args`: one value or one per block. `resolved()` spells every one out."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    fusion: Literal["serial", "parallel", "parallel_attention"] = "serial"
    # the data set's, filled in by the suite
    image_size: tuple[Width, Width] | list[Width] | Width = 32
    in_channels: Width = 3
    num_classes: int = Field(10, ge=2, le=1_000_000)
    # the CNN, one entry a block
    cnn_channels: list[Width] = Field([32, 64, 64, 128], min_length=1)
    cnn_kernels: Widths = 3
    cnn_strides: Widths = 1
    cnn_pools: Widths = [2, 1, 2, 2]  # max pooling after the block; 1 = none
    cnn_norm: Literal["batch", "group", "none"] = "batch"  # group: one group, any batch size
    cnn_activation: Activation = "relu"
    cnn_separable: bool = False  # depthwise 3×3 then pointwise 1×1
    # the second path of 'parallel': an MLP over the CNN's features pooled to mlp_grid × mlp_grid
    mlp_dims: list[Width] = Field([256, 128], min_length=1)
    mlp_grid: Width = 2
    # the Transformer of 'serial' (over CNN tokens) and 'parallel_attention' (over image patches)
    patch_size: Width = 4
    embed_dim: Width = 128
    num_layers: int = Field(2, ge=0, le=256)
    num_heads: Widths = 4
    head_dim: Widths | None = None  # None = embed_dim / num_heads
    ffn_dim: Widths = 256
    ffn_activation: Activation = "gelu"
    positional_encoding: Literal["learnable", "sinusoidal"] = "learnable"
    pooling: Literal["mean", "class_token", "sequence"] = "mean"
    dropout: float = Field(0.0, ge=0, lt=1)
    stochastic_depth: float = Field(0.0, ge=0, lt=1)  # of the last layer, rising linearly to it

    @model_validator(mode="after")
    def _fits(self) -> ModelArgs:
        blocks, layers = len(self.cnn_channels), self.num_layers
        for key, length in [
            ("cnn_kernels", blocks),
            ("cnn_strides", blocks),
            ("cnn_pools", blocks),
        ]:
            _check_length(key, getattr(self, key), length, "cnn_channels has")
        for key in ("num_heads", "head_dim", "ffn_dim"):
            _check_length(key, getattr(self, key), layers, "num_layers says")
        if self.head_dim is None:
            for heads in _spread(self.num_heads, layers):
                if self.embed_dim % heads:
                    raise ValueError(
                        f"embed_dim {self.embed_dim} is not a multiple of num_heads {heads}; "
                        "change one of them or set head_dim"
                    )
        if self.fusion == "parallel_attention" and any(
            side % self.patch_size for side in self._size()
        ):
            raise ValueError(
                f"patch_size {self.patch_size} does not divide the image size {self._size()}"
            )
        self.feature_sizes()
        return self

    def _size(self) -> tuple[int, int]:
        size = self.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def feature_sizes(self) -> list[tuple[int, int]]:
        """Height and width after each CNN block. Raises ValueError naming the block that fails."""
        size, blocks = self._size(), len(self.cnn_channels)
        sizes = []
        for block, (kernel, stride, pool) in enumerate(
            zip(
                _spread(self.cnn_kernels, blocks),
                _spread(self.cnn_strides, blocks),
                _spread(self.cnn_pools, blocks),
                strict=True,
            )
        ):
            before = size
            if kernel % 2 == 0:
                raise ValueError(f"cnn.blocks.{block}: kernel {kernel} should be odd")
            size = tuple((math.ceil(side / stride)) // pool for side in size)  # type: ignore[assignment]
            if min(size) < 1:
                raise ValueError(
                    f"cnn.blocks.{block}: a feature map of {before[0]}×{before[1]} is too small "
                    f"for stride {stride} and pooling {pool}; remove a pooling or enlarge the image"
                )
            sizes.append(size)
        return sizes

    def resolved(self) -> dict[str, Any]:
        """The same arguments as plain data, every block and layer spelled out."""
        args = self.model_dump()
        args["image_size"] = list(self._size())
        blocks, layers = len(self.cnn_channels), self.num_layers
        for key in ("cnn_kernels", "cnn_strides", "cnn_pools"):
            args[key] = _spread(args[key], blocks)
        args["num_heads"] = _spread(self.num_heads, layers)
        args["head_dim"] = (
            [self.embed_dim // heads for heads in args["num_heads"]]
            if self.head_dim is None
            else _spread(self.head_dim, layers)
        )
        args["ffn_dim"] = _spread(self.ffn_dim, layers)
        return args


def _spread(value: int | list[int], length: int) -> list[int]:
    return list(value) if isinstance(value, list) else [value] * length


def _check_length(key: str, value: int | list[int] | None, length: int, why: str) -> None:
    if isinstance(value, list) and len(value) != length:
        raise ValueError(f"{key} has {len(value)} entries, {why} {length}")


class ConvBlock(nn.Module):
    """(depthwise →) convolution → norm → activation → max pooling; `[B, C, H, W]` in and out."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        pool: int = 1,
        norm: str = "batch",
        activation: str = "relu",
        separable: bool = False,
    ):
        super().__init__()
        bias = norm == "none"
        padding = kernel // 2
        self.depthwise: nn.Module = nn.Identity()
        if separable:
            self.depthwise = nn.Conv2d(
                in_channels, in_channels, kernel, stride, padding, groups=in_channels
            )
            kernel, stride, padding = 1, 1, 0
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=bias)
        self.norm = {
            "batch": lambda: nn.BatchNorm2d(channels),
            "group": lambda: nn.GroupNorm(1, channels),
            "none": nn.Identity,
        }[norm]()
        self.activation = ACTIVATIONS[activation]()
        self.pool = nn.MaxPool2d(pool) if pool > 1 else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.activation(self.norm(self.conv(self.depthwise(images)))))


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


class HybridCNNTransformer(nn.Module):
    """Images `[B, in_channels, H, W]` → logits `[B, num_classes]`.

    fusion 'serial': CNN features become the Transformer's tokens. 'parallel': pooled CNN features
    beside an MLP over them. 'parallel_attention': pooled CNN features beside a patch-embedding
    Transformer on the image. The two paths are joined before the head.

    `model_args` are the fields of `ModelArgs`. Raises pydantic.ValidationError (a ValueError) for
    arguments that build no network, and ValueError for images of another shape.
    """

    def __init__(self, **model_args: Any):
        super().__init__()
        args = ModelArgs(**model_args).resolved()
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
            height, width = ModelArgs(**model_args).feature_sizes()[-1]
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
        self.register_forward_pre_hook(check_images)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.cnn(images)  # [B, C, h, w]
        if self.fusion == "serial":
            tokens = self.embed(maps.flatten(2).transpose(1, 2))  # [B, N=h*w, embed_dim]
            return self.head(self.transformer(tokens))
        pooled = self.pool(maps).flatten(1)  # [B, C]
        if self.fusion == "parallel":
            second = self.mlp(self.grid(maps).flatten(1))  # [B, mlp_dims[-1]]
        else:
            patches = self.embed(images).flatten(2).transpose(1, 2)  # [B, N, embed_dim]
            second = self.transformer(patches)
        return self.head(torch.cat([pooled, second], dim=1))

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
