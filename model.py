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

import fused_norm
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
    # early exits: 'cnn', and 'layer_0', 'layer_1', ... after these encoder layers
    exits: list[str] = []

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
        allowed = exit_places(self.fusion, layers)
        if self.exits != [place for place in allowed if place in self.exits]:
            raise ValueError(
                f"exits {self.exits} should be some of {allowed}, in this order and each once"
            )
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


def exit_places(fusion: str, num_layers: int) -> list[str]:
    """Where a network can be left early: after the CNN, after each encoder layer but the last."""
    layers = 0 if fusion == "parallel" else num_layers
    return ["cnn", *(f"layer_{i}" for i in range(layers - 1))]


def _as_tokens(maps: Tensor) -> Tensor:
    """`[B, C, h, w]` → `[B, h*w, C]`, which for channels_last moves nothing."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


def _spread(value: int | list[int], length: int) -> list[int]:
    return list(value) if isinstance(value, list) else [value] * length


def _check_length(key: str, value: int | list[int] | None, length: int, why: str) -> None:
    if isinstance(value, list) and len(value) != length:
        raise ValueError(f"{key} has {len(value)} entries, {why} {length}")


class ConvBlock(nn.Module):
    """(depthwise →) convolution → norm → activation → max pooling; `[B, C, H, W]` in and out."""

    fused = False  # whether training takes one kernel for what follows the convolution

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
        maps = self.conv(self.depthwise(images))
        if self.fused and self.training:
            return fused_norm.norm_relu_pool(maps, self.norm, self.pool)  # type: ignore[arg-type]
        return self.pool(self.activation(self.norm(maps)))


def fuse_blocks(module: nn.Module, device: torch.device | str) -> bool:
    """Let the CNN blocks in `module` train with one kernel where there is one; whether any does.

    Not on a GPU, and not where a hook waits for what a part of the block gives.
    """
    blocks = [m for m in module.modules() if isinstance(m, ConvBlock)]
    for block in blocks:
        parts = block.norm, block.activation, block.pool
        watched = any(part._forward_hooks or part._backward_hooks for part in parts)
        on_cpu = torch.device(device).type == "cpu"
        block.fused = on_cpu and not watched and fused_norm.applies(*parts)
    return any(block.fused for block in blocks)


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
            features = features[:, 0] if self.class_token else features.mean(dim=1)
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
        maps = self.cnn(images)  # [B, C, h, w]
        if self.fusion == "serial":
            tokens = self.embed(_as_tokens(maps))  # [B, N=h*w, embed_dim]
            return self.head(self.transformer(tokens))
        pooled = self.pool(maps).flatten(1)  # [B, C]
        if self.fusion == "parallel":
            second = self.mlp(self.grid(maps).flatten(1))  # [B, mlp_dims[-1]]
        else:
            patches = _as_tokens(self.embed(images))  # [B, N, embed_dim]
            second = self.transformer(patches)
        return self.head(torch.cat([pooled, second], dim=1))

    def every_logits(self, images: Tensor) -> Tensor:
        """The logits of every exit and of the network's end: `[E + 1, B, num_classes]`."""
        carried: tuple[Tensor, ...] = (images,)
        every = []
        for index in range(len(self.model_args["exits"]) + 1):
            logits, *rest = self.run_part(index, *carried)
            every.append(logits)
            carried = tuple(rest)
        return torch.stack(every)

    def run_part(
        self, index: int, stream: Tensor, pooled: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """What lies between two exits: `(stream, pooled)` → `(logits, stream, pooled)`.

        The stream is the images, then feature maps or tokens; `pooled` is there in fusion
        'parallel_attention' alone, after the CNN. The last part gives `(logits,)`.
        """
        places = self.model_args["exits"]
        after = places[index - 1] if index else ""
        here = places[index] if index < len(places) else ""
        beside = self.fusion == "parallel_attention"
        if not after:
            maps = self.cnn(stream)
            if beside:
                pooled = self.pool(maps).flatten(1)
            else:
                stream = maps
        if here == "cnn":
            features = pooled if beside else stream.mean(dim=(2, 3))
            return self.exits[here](features), *((stream, pooled) if beside else (stream,))
        if self.fusion == "parallel":
            features = self.mlp(self.grid(stream).flatten(1))
            return (self.head(torch.cat([self.pool(stream).flatten(1), features], dim=1)),)
        first = 0
        if after in ("", "cnn"):
            grid = self.embed(stream) if beside else stream
            tokens = _as_tokens(grid)
            stream = self.transformer.begin(tokens if beside else self.embed(tokens))
        else:
            first = int(after.removeprefix("layer_")) + 1
        last = int(here.removeprefix("layer_")) + 1 if here else None
        for layer in list(self.transformer.layers)[first:last]:
            stream = layer(stream)
        if here:
            if beside:
                return self.exits[here](stream, pooled), stream, pooled  # type: ignore[return-value]
            return self.exits[here](stream), stream
        features = self.transformer.end(stream)
        return (self.head(torch.cat([pooled, features], dim=1) if beside else features),)  # type: ignore[list-item]

    def parts(self) -> list[ModelPart]:
        """The pieces between exits as modules of their own, which share this network's weights."""
        return [ModelPart(self, index) for index in range(len(self.model_args["exits"]) + 1)]

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
    """One piece of a network with exits, every layer under its name: see `run_part`."""

    def __init__(self, model: HybridCNNTransformer, index: int):
        nn.Module.__init__(self)
        self.model_args, self.fusion, self.index = model.model_args, model.fusion, index
        for name, module in model.named_children():
            self.add_module(name, module)
        self.train(model.training)

    def forward(self, stream: Tensor, pooled: Tensor | None = None) -> tuple[Tensor, ...]:  # type: ignore[override]
        return self.run_part(self.index, stream, pooled)


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
