"""`model_args`: what builds a network, checked and spelled out layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

T = TypeVar("T", bound=int)
Activation = Literal["relu", "gelu", "silu", "hardswish"]
Width = Annotated[int, Field(ge=1, le=16384)]
Widths = Width | list[Width]  # one number stands for every block or layer
Hidden = Annotated[int, Field(ge=0, le=16384)]  # a width; 0: there is none


class ModelArgs(BaseModel):
    """`model_args`: one value or one per block. `resolved()` spells every one out."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    architecture: Literal["hybrid"] = "hybrid"  # other ones have arguments of their own
    weights: str | None = None  # a file that training starts from; no part of the network
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
    # True: wherever it can be; else one a block
    cnn_residual: bool | list[bool] = False  # the block's input is added before the pooling
    cnn_squeeze_excite: Hidden | list[Hidden] = 0  # hidden width, after the activation; 0 = none
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
            ("cnn_residual", blocks),
            ("cnn_squeeze_excite", blocks),
        ]:
            check_length(key, getattr(self, key), length, "cnn_channels has")
        for key in ("num_heads", "head_dim", "ffn_dim"):
            check_length(key, getattr(self, key), layers, "num_layers says")
        if self.head_dim is None:
            for heads in spread(self.num_heads, layers):
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
        self._residual()
        allowed = exit_places(self.fusion, layers)
        if self.exits != [place for place in allowed if place in self.exits]:
            raise ValueError(
                f"exits {self.exits} should be some of {allowed}, in this order and each once"
            )
        return self

    def idle(self) -> dict[str, str]:
        """Options that another leaves without effect → why, as in 'with fusion 'serial''."""
        with_fusion = f"with fusion {self.fusion!r}"
        idle = [] if self.fusion == "parallel" else ["mlp_dims", "mlp_grid"]
        idle += [] if self.fusion == "parallel_attention" else ["patch_size"]
        of_layers = ["num_heads", "head_dim", "ffn_dim", "ffn_activation", "stochastic_depth"]
        if self.fusion == "parallel":
            idle += [*of_layers, "num_layers", "embed_dim", "positional_encoding", "pooling"]
        elif self.num_layers == 0:
            return dict.fromkeys(idle, with_fusion) | dict.fromkeys(
                [*of_layers, "dropout"], "with num_layers 0"
            )
        return dict.fromkeys(idle, with_fusion)

    def _size(self) -> tuple[int, int]:
        size = self.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def feature_sizes(self) -> list[tuple[int, int]]:
        """Height and width after each CNN block. Raises ValueError naming the block that fails."""
        size, blocks = self._size(), len(self.cnn_channels)
        sizes = []
        for block, (kernel, stride, pool) in enumerate(
            zip(
                spread(self.cnn_kernels, blocks),
                spread(self.cnn_strides, blocks),
                spread(self.cnn_pools, blocks),
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

    def _residual(self) -> list[bool]:
        """For each block whether its input is added. Raises ValueError where that cannot be."""
        widths = [self.in_channels, *self.cnn_channels]
        strides = spread(self.cnn_strides, len(self.cnn_channels))
        fits = [
            stride == 1 and before == after
            for stride, before, after in zip(strides, widths, widths[1:], strict=False)
        ]
        if self.cnn_residual is True:
            if not any(fits):
                raise ValueError(
                    "cnn_residual: no block has stride 1 and gives as many channels as it takes; "
                    "set it to False, or repeat a number in cnn_channels"
                )
            return fits
        wanted = spread(self.cnn_residual, len(fits))
        for block, (wants, can) in enumerate(zip(wanted, fits, strict=True)):
            if wants and not can:
                raise ValueError(
                    f"cnn_residual: cnn.blocks.{block} takes {widths[block]} channels and gives "
                    f"{widths[block + 1]} with stride {strides[block]}; it needs as many and "
                    "stride 1, or False there"
                )
        return wanted

    def resolved(self) -> dict[str, Any]:
        """The same arguments as plain data, every block and layer spelled out.

        What makes a CNN richer is there only where it is used, so that the arguments of all other
        networks, their keys and their files are those of before.
        """
        args = self.model_dump(exclude={"architecture", "weights"})
        args["image_size"] = list(self._size())
        blocks, layers = len(self.cnn_channels), self.num_layers
        for key in ("cnn_kernels", "cnn_strides", "cnn_pools"):
            args[key] = spread(args[key], blocks)
        args["num_heads"] = spread(self.num_heads, layers)
        args["head_dim"] = (
            [self.embed_dim // heads for heads in args["num_heads"]]
            if self.head_dim is None
            else spread(self.head_dim, layers)
        )
        args["ffn_dim"] = spread(self.ffn_dim, layers)
        args["cnn_residual"] = self._residual()
        args["cnn_squeeze_excite"] = spread(self.cnn_squeeze_excite, blocks)
        for key in RICHER:
            if not any(args[key]):
                del args[key]
        return args


def exit_places(fusion: str, num_layers: int) -> list[str]:
    """Where a network can be left early: after the CNN, after each encoder layer but the last."""
    layers = 0 if fusion == "parallel" else num_layers
    return ["cnn", *(f"layer_{i}" for i in range(layers - 1))]


RICHER = ("cnn_residual", "cnn_squeeze_excite")


def richer(model_args: Mapping[str, Any], key: str) -> list[int]:
    """One of RICHER of resolved arguments, block by block, said or not."""
    return list(model_args.get(key) or [0] * len(model_args["cnn_channels"]))


def spread(value: T | list[T], length: int) -> list[T]:
    return list(value) if isinstance(value, list) else [value] * length


def check_length(key: str, value: int | Sequence[int] | None, length: int, why: str) -> None:
    if isinstance(value, list) and len(value) != length:
        raise ValueError(f"{key} has {len(value)} entries, {why} {length}")


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
}
