"""`Quant`, the plain record of how a network is quantized, and which layers that means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import Tensor, nn

from machine.processor import int8_saturates
from methods.layers import LAYERS, layers_of
from methods.quantization.names import present_name
from model import HYBRID, HybridCNNTransformer, Network, architecture_of


@dataclass(frozen=True)
class Quant:
    """How a network is quantized. `ranges` None: to be observed again before deployment."""

    scheme: str  # 'ptq' or 'qat'
    backend: str  # a key of BACKENDS
    bits: int = 8
    float_layers: tuple[str, ...] = ()  # patterns of layer names that stay float32
    calibration_batches: int = 8
    calibration_batch_size: int = 128
    observer: str = "histogram"  # of activations, for scheme 'ptq'
    ranges: dict[str, Tensor] | None = None  # place or observer name → [scale, zero point]
    reduce_range: bool = False  # weights in 7 of their 8 bits; files that do not say have 8
    frozen: bool = False  # whether int8 weights have no float masters; files that do not say: no

    def __post_init__(self) -> None:
        object.__setattr__(self, "backend", present_name(self.backend))

    def settings(self) -> dict[str, Any]:
        """The record without its tensors, as plain data."""
        return {
            "scheme": self.scheme,
            "backend": self.backend,
            "bits": self.bits,
            "float_layers": list(self.float_layers),
            "calibration_batches": self.calibration_batches,
            "calibration_batch_size": self.calibration_batch_size,
            "observer": self.observer,
            "reduce_range": self.reduce_range,
            "frozen": self.frozen,
        }


def reduced_range(backend: str, asked: bool | Literal["auto"]) -> bool:
    """Whether weights take 7 of their 8 bits; 'auto': if this processor's products need it.

    torch has settled the ranges of the other backends. Raises ValueError where one is asked to.
    """
    if asked is True and backend != "pt2e":
        raise ValueError(f"is of backend 'pt2e', not of {backend!r}; remove the key")
    return backend == "pt2e" and int8_saturates() if asked == "auto" else asked


def needs_vnni(quant: Quant) -> bool:
    """Whether sums of two of its int8 products may be larger than 16 bits hold.

    Of torch's backends two give activations 7 bits. Wherever such a network runs, also in ONNX
    Runtime and OpenVINO, a processor without VNNI then cuts these sums off.
    """
    return not quant.reduce_range and quant.backend not in ("x86", "fbgemm")


def quantizable_layers(model: nn.Module) -> list[str]:
    """Names of the Conv2d and Linear layers, in the order of the network.

    Of others than the hybrid those alone that int8 will compute, see methods/layers.py. Raises
    NetworkError where such a network has no graph.
    """
    names = [n for n, m in model.named_modules() if type(m) in LAYERS.values()]
    if not isinstance(model, Network) or isinstance(model, HybridCNNTransformer):
        return names
    called = layers_of(model.model_args).called
    return [name for name in names if name in called]


def products_beside(model_args: Mapping[str, Any]) -> int:
    """How many products with weights are no `quantizable_layers`, and stay float."""
    if architecture_of(model_args) == HYBRID:
        return 0
    return layers_of(model_args).products_beside


def float_layer_names(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Layers that `patterns` (as in file names: * ? []) keep float.

    Raises ValueError for a pattern that matches no layer.
    """
    names = quantizable_layers(model)
    kept: list[str] = []
    for pattern in patterns:
        matches = [name for name in names if fnmatchcase(name, pattern)]
        if not matches:
            raise ValueError(
                f"float_layers: {pattern!r} matches no layer; layers: {', '.join(names)}"
            )
        kept += [name for name in matches if name not in kept]
    return kept


def check_something_is_int8(model: nn.Module, patterns: Iterable[str]) -> None:
    """Raise ValueError where `patterns` keep every layer float, or one of them matches none."""
    patterns = list(patterns)
    if not quantizable_layers(model):
        raise ValueError(
            "the network calls no nn.Conv2d or nn.Linear, which int8 is for; remove the stage"
        )
    if len(float_layer_names(model, patterns)) == len(quantizable_layers(model)):
        raise ValueError(
            f"float_layers: {', '.join(map(repr, patterns))} leaves nothing to quantize; name "
            "fewer layers, or remove the stage"
        )
