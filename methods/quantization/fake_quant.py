"""Quantization as arithmetic on a float network: what int8 will do to it, to observe and to train.

Every Conv2d and Linear of a copy of the network quantizes its input (uint8, one range a layer) and
its weight (int8, one scale an output channel) and goes on in floating point, so that parameters
keep their names, gradients flow (straight through, arXiv:1308.3432) and bf16 autocast works. Batch
norm needs no folding in training: folded, it multiplies an output channel by a constant, and a
scale a channel takes that up without changing what is rounded to what.

Residual adds, norms, softmax and attention's matmuls stay float.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from machine.noise import drop_remarks
from methods.quantization.record import quantizable_layers
from model import HybridCNNTransformer, Network, build_network

# torchao registers an Enum in a way that torch 2.14 and later remark on.
drop_remarks("torch.utils._pytree", "Enum")


ACTIVATION_RANGE = (0, 255)
WEIGHT_RANGE = (-128, 127)
REDUCED_WEIGHT_RANGE = (-64, 63)  # sums of two products with 255 then fit into 16 bits
SMALLEST_SCALE = 2.0**-24  # least scale of a weight; a folded channel may be very small
OBSERVERS = ("histogram", "minmax", "moving_average", "percentile")
FEATURES = "cnn"  # name of the place where two read the CNN's output: a parallel path, an exit


def prepare(
    model: Network,
    float_layers: list[str],
    observer: str,
    *,
    train: bool,
    reduce_range: bool = False,
) -> Network:
    """A copy of `model` whose layers, but `float_layers`, are quantized as int8 would.

    With `reduce_range` weights have 128 levels instead of 256.
    With early exits it gives the logits of all: `[E + 1, B, K]`.
    In training mode it observes and quantizes at once; else it is in eval mode and only observes.
    """
    faked = copy.deepcopy(model).cpu().train(train)
    for name in quantizable_layers(model):
        module = faked.get_submodule(name)
        # Another class, not another module: its name, hooks and parameters stay what they are.
        module.__class__ = KINDS[type(module)]
        assert isinstance(module, _Conv2d | _Linear)
        module.quantizer = InputQuantizer(observer)
        module.quantized, module.follows = name not in float_layers, False
        module.levels = levels(reduce_range)
    for module in faked.modules():
        if isinstance(module, nn.TransformerEncoderLayer):  # a hook keeps it from calling, outside
            module.register_forward_pre_hook(_nothing)  # training, one kernel with plain weights
    faked.with_exits = bool(faked.model_args["exits"])
    if isinstance(faked, HybridCNNTransformer):
        _observe_features(faked, observer)
    set_quantizing(faked, train)
    return faked


def _observe_features(faked: HybridCNNTransformer, observer: str) -> None:
    """Round the CNN's output where two read it."""
    if faked.fusion != "serial" or faked.with_exits:
        features = InputQuantizer(observer)
        faked.cnn.quantizer = features
        faked.cnn.register_forward_hook(lambda cnn, _, maps: cnn.quantizer(maps))
    if faked.fusion == "parallel":  # averaged, features keep their scale
        first = faked.mlp[0]
        assert isinstance(first, _Linear)
        first.quantizer, first.follows = features, True


def _nothing(module: nn.Module, inputs: Any) -> None:
    pass


def levels(reduce_range: bool) -> tuple[int, int]:
    """The least and the largest level of weights."""
    return REDUCED_WEIGHT_RANGE if reduce_range else WEIGHT_RANGE


class InputQuantizer(nn.Module):
    """Rounds a tensor to 256 levels between bounds that it observes; shape and dtype stay."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, observer: str):
        super().__init__()
        self.observer: Any = _observer(observer)
        self.observing, self.quantizing = True, False
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    def forward(self, values: Tensor) -> Tensor:
        if self.observing:
            self.observe(values.detach())
        return self.rounded(values)

    def rounded(self, values: Tensor) -> Tensor:
        if not self.quantizing:
            return values
        return torch.fake_quantize_per_tensor_affine(
            values, self.scale, self.zero_point, *ACTIVATION_RANGE
        )

    def observe(self, values: Tensor) -> None:
        if not hasattr(self.observer, "histogram"):  # two numbers say all that it wants
            values = torch.stack(torch.aminmax(values))
        self.observer(values.float())
        scale, zero_point = self.observer.calculate_qparams()
        self.scale.copy_(scale.squeeze())
        self.zero_point.copy_(zero_point.squeeze())


class _Conv2d(nn.Conv2d):
    quantizer: InputQuantizer
    quantized: bool  # False: a layer kept float
    follows: bool  # its quantizer observes elsewhere
    levels: tuple[int, int]  # of its weight

    def forward(self, images: Tensor) -> Tensor:
        images, weight = _quantized(self, images)
        return self._conv_forward(images, weight, self.bias)


class _Linear(nn.Linear):
    quantizer: InputQuantizer
    quantized: bool
    follows: bool
    levels: tuple[int, int]

    def forward(self, values: Tensor) -> Tensor:
        values, weight = _quantized(self, values)
        return F.linear(values, weight, self.bias)


KINDS: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: _Conv2d, nn.Linear: _Linear}


def _quantized(layer: _Conv2d | _Linear, values: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's input and weight, rounded where the layer is quantized."""
    quantizer = layer.quantizer
    rounded = quantizer.rounded(values) if layer.follows else quantizer(values)
    if not layer.quantized or not quantizer.quantizing:
        return values, layer.weight
    return rounded, quantize_weight(layer.weight, layer.levels)


def quantize_weight(weight: Tensor, levels: tuple[int, int] = WEIGHT_RANGE) -> Tensor:
    """Symmetric int8 with one scale an output channel (axis 0), as floating point."""
    low, high = levels
    scale = weight.detach().flatten(1).abs().amax(1) / ((high - low) / 2)
    scale = scale.clamp_min(SMALLEST_SCALE)
    # Of whole numbers torch checks the range, for which a GPU would have to be waited for.
    zero_point = torch.zeros_like(scale)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, 0, low, high)


def on_grid(weight: Tensor, gain: Tensor, levels: tuple[int, int] = WEIGHT_RANGE) -> Tensor:
    """`weight` `[O, ...]` at the values that int8 gives it where `gain` `[O]` is folded into it.

    The largest weights of an output channel keep their values, since its scale is taken of them:
    so int8 weights and scales that are made of the result are those of `weight` to the bit.
    """
    low, high = levels
    gain = gain.view(-1, *[1] * (weight.ndim - 1))
    folded = weight * gain
    largest = folded.abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
    scale = (largest / ((high - low) / 2)).clamp_min(SMALLEST_SCALE)
    level = (folded * (1.0 / scale)).round().clamp(low, high)  # in the order of torch's own int8
    rounded = level * (scale / gain)
    # The lowest level lies beyond the largest weight, and a gain of 0 leaves nothing to round.
    stays = (folded.abs() == largest) | ((rounded * gain).abs() >= largest) | ~rounded.isfinite()
    return torch.where(stays, weight, rounded)


def set_observing(faked: nn.Module, on: bool) -> None:
    """Whether what runs through the network moves its ranges."""
    for _, quantizer in quantizers(faked):
        quantizer.observing = on


def observe_together(faked: nn.Module, extremes: Callable[[Tensor], Tensor]) -> None:
    """Range observers see `extremes` of what runs through: that of a batch in several processes."""
    for _, quantizer in quantizers(faked):
        quantizer.observer.register_forward_pre_hook(lambda _, values: (extremes(*values),))


def set_quantizing(faked: nn.Module, on: bool) -> None:
    """Whether values are rounded."""
    for _, quantizer in quantizers(faked):
        quantizer.quantizing = on


def begin_observing(faked: nn.Module) -> None:
    """From here on what runs through is observed, in floating point."""
    faked.eval()
    set_observing(faked, True)
    set_quantizing(faked, False)


def quantizers(faked: nn.Module) -> Iterator[tuple[str, InputQuantizer]]:
    """Place (a layer's name: its input; 'cnn': its output) and quantizer."""
    for name, module in faked.named_modules(remove_duplicate=False):
        if isinstance(module, InputQuantizer):
            yield name.removesuffix(".quantizer"), module


def observed_ranges(faked: nn.Module) -> dict[str, Tensor]:
    """Place → float32 `[scale, zero point]`. Raises ValueError for what was never observed."""
    ranges = {}
    for place, quantizer in quantizers(faked):
        if not torch.isfinite(quantizer.observer.min_val).all():
            raise ValueError(f"{place}: saw no image, so its range is unknown")
        ranges[place] = torch.stack([quantizer.scale, quantizer.zero_point.float()]).cpu()
    return ranges


def float_copy(faked: nn.Module) -> Network:
    """The float network with the weights of one that `prepare` made, in eval mode."""
    model = build_network(faked.model_args)  # type: ignore[arg-type]
    found = faked.state_dict()
    model.load_state_dict({name: found[name] for name in model.state_dict()})
    return model.eval()


def float_layers_of(faked: nn.Module) -> list[str]:
    """The layers that `prepare` was told to keep float."""
    return [n for n, m in faked.named_modules() if getattr(m, "quantized", True) is False]


def levels_of(faked: nn.Module) -> tuple[int, int]:
    """The least and the largest level that weights of what `prepare` made have."""
    return next(m.levels for m in faked.modules() if isinstance(m, _Conv2d | _Linear))


def _observer(name: str) -> nn.Module:
    low, high = ACTIVATION_RANGE
    return observer_class(name)(dtype=torch.uint8, quant_min=low, quant_max=high)


def observer_class(name: str) -> Any:
    """One of OBSERVERS, as torchao makes them."""
    from torchao.quantization.pt2e import observer as torchao

    kinds: dict[str, Any] = {
        "histogram": torchao.HistogramObserver,  # the bounds with the least squared error
        "minmax": torchao.MinMaxObserver,
    }

    class MovingAverageObserver(torchao.MovingAverageMinMaxObserver):
        """torchao's, to the bit, but that the host looks at no value, so that a GPU's step can be
        recorded. What is not finite goes on into the loss, which is looked at."""

        def forward(self, values: Tensor) -> Tensor:
            low, high = torch.aminmax(values.detach().to(self.min_val.dtype))
            first = self.min_val > self.max_val  # they begin at +inf and -inf
            for bound, found in (self.min_val, low), (self.max_val, high):
                moved = bound + self.averaging_constant * (found - bound)
                bound.copy_(torch.where(first, found, moved))
            return values

        def calculate_qparams(self) -> tuple[Tensor, Tensor]:
            low, high = self.min_val.clamp_max(0), self.max_val.clamp_min(0)
            scale = torch.max((high - low) / (self.quant_max - self.quant_min), self.eps)
            zero_point = self.quant_min - (low / scale).round().int()
            return scale.view(1), zero_point.clamp(self.quant_min, self.quant_max).view(1)

    class PercentileObserver(torchao.HistogramObserver):
        """The bounds that leave one value in 10,000 outside, at both ends together."""

        def calculate_qparams(self) -> tuple[Tensor, Tensor]:
            share = self.histogram.cumsum(0) / self.histogram.sum().clamp_min(1)
            width = (self.max_val - self.min_val) / self.bins
            first = int((share <= 5e-5).sum())
            last = int((share < 1 - 5e-5).sum()) + 1
            low, high = self.min_val + first * width, self.min_val + last * width
            return self._calculate_qparams(low, high)

    kinds |= {"moving_average": MovingAverageObserver, "percentile": PercentileObserver}
    return kinds[name].with_args(eps=2**-12)
