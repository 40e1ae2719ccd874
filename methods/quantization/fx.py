"""int8 through torch.ao's FX graph mode. Deprecated upstream, so all of it lives in this file.

Convolutions and linear layers (with the batch norm, ReLU and max pooling around convolutions) run
in int8; residual adds, layer norms, softmax and attention's matmuls stay float32.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.ao.nn.intrinsic.quantized as nniq
import torch.ao.nn.quantized as nnq
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.ao.quantization import (
    FakeQuantizeBase,
    FusedMovingAvgObsFakeQuantize,
    ObserverBase,
    QConfig,
    QConfigMapping,
    disable_fake_quant,
    disable_observer,
    enable_observer,
    get_default_qat_qconfig,
    get_default_qconfig,
)
from torch.ao.quantization.fx.custom_config import PrepareCustomConfig
from torch.ao.quantization.observer import FixedQParamsObserver
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx, prepare_qat_fx

from machine.noise import without_warnings
from methods.early_exit.exits import SplitNetwork
from methods.exported import Inputs, export
from model import HybridCNNTransformer, Network
from networks.attention import ScaledDotProduct

# Said at the first int8 tensor, wherever that is; requirements.txt bounds torch instead.
warnings.filterwarnings("ignore", message="torch.quantize_per_tensor, torch.quantize_per_channel")


# Int8 module types; ReLU, batch norm and pooling must share the convolution's qconfig to fuse.
QUANTIZED_TYPES = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d)
RUN_IN_TORCH = True
TRAINS_IN_BF16 = False  # torch.ao's fake quantization has no bf16 kernels
TRAINS_RECORDED = False  # and looks at its flags, tensors on the GPU, in every step
TAKES_ANY_NETWORK = False  # what is fused is named by the hybrid
OBSERVERS = ("histogram",)


def unavailable(backend: str) -> str | None:
    """Why this machine cannot run the backend, with the remedy; None where it can."""
    engines = torch.backends.quantized.supported_engines
    if backend in engines:
        return None
    known = ", ".join(e for e in engines if e != "none")
    return f"is not in this build of torch, which has {known}; choose one of these"


def prepare(
    model: Network,
    backend: str,
    float_layers: list[str],
    observer: str,
    *,
    qat: bool,
    reduce_range: bool,
) -> nn.Module:
    """A traced copy of `model`: in eval mode with observers, or in train mode with fake quant.

    With early exits its parts are traced one by one. `reduce_range` is False: torch has settled for
    each of these backends which range its values have.
    """
    shape = (1, model.model_args["in_channels"], *model.model_args["image_size"])
    inputs: tuple[Tensor, ...] = (torch.zeros(shape),)
    if not model.model_args["exits"]:
        return _prepare(model, backend, float_layers, inputs, qat)
    whole, parts = copy.deepcopy(model).cpu().eval(), []
    for part in whole.parts():
        parts.append(_prepare(part, backend, float_layers, inputs, qat))
        with torch.no_grad():
            inputs = part(*inputs)[1:]
    return SplitNetwork(parts)


observing = prepare  # what it observes is all that it rounds


def _prepare(
    model: Network,
    backend: str,
    float_layers: list[str],
    inputs: tuple[Tensor, ...],
    qat: bool,
) -> nn.Module:
    from torchvision.ops import StochasticDepth  # kept whole, as its choice is made when it runs

    with without_warnings(), _engine(backend):
        qconfig = _qat_qconfig(backend) if qat else get_default_qconfig(backend)
        mapping = QConfigMapping().set_global(None)
        for kind in QUANTIZED_TYPES:
            mapping.set_object_type(kind, qconfig)
        for name in _with_fused_partners(model, float_layers):
            mapping.set_module_name(name, None)
        custom = PrepareCustomConfig().set_non_traceable_module_classes(
            [ScaledDotProduct, StochasticDepth]
        )
        traced = copy.deepcopy(model).cpu().train(qat)
        make = prepare_qat_fx if qat else prepare_fx
        return make(traced, mapping, inputs, prepare_custom_config=custom)


def _qat_qconfig(backend: str) -> QConfig:
    """torch's default for training, but that weights are rounded as `convert_fx` will round them.

    The fused kernel that is the default today gives weights other scales (seen in 2.14: 1/127 or
    1/128 of the largest where int8 has 1/127.5, and a zero point where all have one sign), so that
    what was trained and what was deployed differed by as much as int8 and float.
    """
    fused, plain = (get_default_qat_qconfig(backend, version=version) for version in (1, 0))
    return QConfig(fused.activation, plain.weight)


def begin_observing(prepared: nn.Module) -> None:
    """From here on what runs through is observed, without fake quantization."""
    prepared.eval()
    prepared.apply(enable_observer)
    prepared.apply(disable_fake_quant)


def set_observing(prepared: nn.Module, on: bool) -> None:
    """Whether what runs through the network moves its ranges."""
    prepared.apply(enable_observer if on else disable_observer)


def observe_together(prepared: nn.Module, extremes: Callable[[Tensor], Tensor]) -> None:
    """Activations' ranges move by `extremes`: those of a batch in several processes."""
    for module in prepared.modules():
        if type(module) is FusedMovingAvgObsFakeQuantize and not module.is_per_channel:
            # Another class, not another module: its name, hooks and parameters stay what they are.
            module.__class__ = _ObservesTogether
            module.extremes = extremes  # type: ignore[assignment]


class _ObservesTogether(FusedMovingAvgObsFakeQuantize):
    extremes: Callable[[Tensor], Tensor]

    def forward(self, values: Tensor) -> Tensor:
        observing = self.observer_enabled.clone()
        if observing:
            super().forward(self.extremes(values.detach()))
        self.observer_enabled.zero_()
        rounded = super().forward(values)
        self.observer_enabled.copy_(observing)
        return rounded


def observed_ranges(prepared: nn.Module) -> dict[str, Tensor]:
    """Observer name → float32 `[scale, zero point]` of each activation."""
    ranges: dict[str, Tensor] = {}
    known: dict[int, Tensor] = {}  # one observer may stand under several names
    for name, module in _activation_observers(prepared):
        if id(module) not in known:
            with without_warnings():
                scale, zero_point = module.calculate_qparams()  # type: ignore[operator]
            known[id(module)] = torch.tensor([scale.item(), zero_point.item()])
        ranges[name] = known[id(module)]
    return ranges


def master_names(prepared: nn.Module, model: Network) -> dict[str, str]:
    """The float network's parameter and buffer names → the prepared network's.

    Quantized, a convolution holds its batch norm: `norm.weight` becomes `conv.bn.weight`. Kept
    float, what is fused is a sequence: `conv.0.weight`, `conv.1.weight`.
    """
    assert isinstance(model, HybridCNNTransformer)
    found = prepared.state_dict().keys()
    norms = {
        name: group[0]
        for group in model._fuse_modules_for_quantization()
        for name in group
        if name.endswith(".norm")
    }
    parts = [""]
    if isinstance(prepared, SplitNetwork):
        parts = [f"parts.{index}." for index in range(len(prepared.parts))]
    names = {}
    for name in model.state_dict():
        owner, _, leaf = name.rpartition(".")
        layer = norms.get(owner)
        places = [owner, f"{owner}.0"] if layer is None else [f"{layer}.bn", f"{layer}.1"]
        candidates = [f"{part}{place}.{leaf}" for part in parts for place in places]
        names[name] = next((one for one in candidates if one in found), name)
    return names


def simulated(prepared: nn.Module, backend: str) -> nn.Module:
    """The int8 network itself: FX compiles nothing."""
    return convert(prepared, backend, observed_ranges(prepared))


def convert(prepared: nn.Module, backend: str, ranges: dict[str, Tensor]) -> nn.Module:
    """The int8 network with activations quantized as `ranges` says. Raises ValueError."""
    observers = dict(_activation_observers(prepared))
    if observers.keys() != ranges.keys():
        odd = ", ".join(sorted(observers.keys() ^ ranges.keys()))
        raise ValueError(f"the stored ranges do not fit this network: {odd}")
    for name, observer in observers.items():
        scale, zero_point = ranges[name].tolist()
        fixed = FixedQParamsObserver(
            scale, int(zero_point), observer.dtype, quant_min=observer.quant_min,
            quant_max=observer.quant_max,
        )  # fmt: skip
        parent, _, leaf = name.rpartition(".")
        setattr(prepared.get_submodule(parent), leaf, fixed)
    with without_warnings(), _engine(backend):
        if isinstance(prepared, SplitNetwork):
            return SplitNetwork(convert_fx(part.eval()) for part in prepared.parts)  # type: ignore[arg-type]
        return convert_fx(prepared.eval())  # type: ignore[arg-type]


def native_int8(prepared: nn.Module, backend: str, ranges: dict[str, Tensor]) -> list[nn.Module]:
    """The int8 network, or its parts between exits, as torch's own int8 modules."""
    network = convert(prepared, backend, ranges)
    return list(network.parts) if isinstance(network, SplitNetwork) else [network]


def int8_forms(
    prepared: nn.Module, backend: str, ranges: dict[str, Tensor], inputs: Sequence[Inputs]
) -> list[tuple[fx.GraphModule, nn.Module | None]]:
    """The int8 network, or its parts between exits: as graphs, and as torch's own int8 modules."""
    parts = native_int8(prepared, backend, ranges)
    return [
        (export(exportable(part), each), part) for part, each in zip(parts, inputs, strict=True)
    ]


def exportable(network: nn.Module) -> nn.Module:
    """What `convert` made, with int8 layers and tensors written out as quantize and dequantize.

    Raises ValueError for an int8 module that is not a convolution, linear layer or activation.
    """
    assert isinstance(network, fx.GraphModule)
    plain = copy.deepcopy(network)
    for node in plain.graph.nodes:
        if node.target is torch.quantize_per_tensor:
            values, *place = node.args[:3]
            scale, zero_point = (getattr(plain, str(number.target)).item() for number in place)
            with plain.graph.inserting_before(node):
                args = (values, float(scale), int(zero_point))
                node.replace_all_uses_with(plain.graph.call_function(_rounded, args))
        elif node.op == "call_method" and node.target == "dequantize":
            node.replace_all_uses_with(node.args[0])
        elif node.op == "call_module":
            parent, _, leaf = node.target.rpartition(".")
            layer = plain.get_submodule(node.target)
            if isinstance(layer, nnq.Conv2d | nnq.Linear):
                setattr(plain.get_submodule(parent), leaf, _WrittenOut(layer))
            elif isinstance(layer, nnq.Hardswish):
                setattr(plain.get_submodule(parent), leaf, _RoundedHardswish(layer))
            elif isinstance(layer, nnq.Dropout):
                setattr(plain.get_submodule(parent), leaf, nn.Identity())
            elif ".quantized." in type(layer).__module__:
                raise ValueError(f"{node.target}: a {type(layer).__name__} cannot be exported")
    plain.graph.eliminate_dead_code()
    plain.recompile()
    return plain


class _WrittenOut(nn.Module):
    """An int8 layer in floating point: its weight dequantized, its output rounded."""

    def __init__(self, layer: nnq.Conv2d | nnq.Linear):
        super().__init__()
        weight, bias = layer.weight(), layer.bias()
        if weight.qscheme() == torch.per_tensor_affine:
            scales = torch.full((len(weight),), weight.q_scale())
            zero_points = torch.full((len(weight),), weight.q_zero_point())
        else:
            scales, zero_points = weight.q_per_channel_scales(), weight.q_per_channel_zero_points()
        self.register_buffer("weight", weight.int_repr().contiguous())
        self.register_buffer("scales", scales.float())
        self.register_buffer("zero_points", zero_points)
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.range = float(layer.scale), int(layer.zero_point)
        self.relu = isinstance(layer, nniq.ConvReLU2d | nniq.LinearReLU)
        self.operation: Callable[..., Tensor] = F.linear
        if isinstance(layer, nnq.Conv2d):
            how = {k: getattr(layer, k) for k in ("stride", "padding", "dilation", "groups")}
            self.operation = functools.partial(F.conv2d, **how)

    def forward(self, values: Tensor) -> Tensor:
        weight = torch.ops.quantized_decomposed.dequantize_per_channel(
            self.weight, self.scales, self.zero_points, 0, -128, 127, torch.int8
        )
        values = self.operation(values, weight, self.bias)
        return _rounded(values.relu() if self.relu else values, *self.range)


class _RoundedHardswish(nn.Module):
    """An int8 activation in floating point, its output rounded."""

    def __init__(self, activation: Any):
        super().__init__()
        self.range = float(activation.scale), int(activation.zero_point)

    def forward(self, values: Tensor) -> Tensor:
        return _rounded(F.hardswish(values), *self.range)


def _rounded(values: Tensor, scale: float, zero_point: int) -> Tensor:
    """`values` as the nearest of 256 levels."""
    place = (scale, zero_point, 0, 255, torch.uint8)
    small = torch.ops.quantized_decomposed.quantize_per_tensor(values, *place)
    return torch.ops.quantized_decomposed.dequantize_per_tensor(small, *place)


def _activation_observers(prepared: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (name, module)
        for name, module in prepared.named_modules(remove_duplicate=False)
        if isinstance(module, ObserverBase | FakeQuantizeBase)
        and name.rpartition(".")[2].startswith("activation_post_process_")
    ]


def _with_fused_partners(model: Network, names: list[str]) -> list[str]:
    assert isinstance(model, HybridCNNTransformer)
    partners = [group for group in model._fuse_modules_for_quantization() if group[0] in names]
    return [*names, *(name for group in partners for name in group[1:])]


@contextmanager
def _engine(backend: str) -> Iterator[None]:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = backend
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
