"""Quantization behind one interface: what a network's int8 form is, and who makes it.

`Quant` is the plain record that travels in a ModelState. A backend says how ranges are found and
weights made; who runs the network is an engine's affair. A backend module offers `unavailable`,
`prepare`, `observing`, `begin_observing`, `set_observing`, `observed_ranges`, `master_names`,
`simulated`, `native_int8` and `int8_forms`, and says what OBSERVERS it has, whether it
TRAINS_IN_BF16, whether it TRAINS_RECORDED, whether it TAKES_ANY_NETWORK (then it has
`lacks_ranges` as well) and whether its networks RUN_IN_TORCH (then it has `convert`); BACKENDS says
which serves which name.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import ModuleType

import torch
from torch import Tensor, fx, nn

from machine.processor import int8_saturates
from methods.exported import Inputs
from methods.quantization import fake_quant, pt2e
from methods.quantization import fx as fx_backend
from methods.quantization.names import present_name
from methods.quantization.places import Observed
from methods.quantization.record import Quant, float_layer_names
from model import Network

BACKENDS: dict[str, ModuleType] = {
    "pt2e": pt2e,
    "x86": fx_backend,
    "fbgemm": fx_backend,
    "qnnpack": fx_backend,
    "onednn": fx_backend,
}
SLOW_BACKENDS = {
    "onednn": "runs fused linear layers on oneDNN's reference int8 matmul, about 1000 times slower "
    "than 'x86' (measured: 1.3 s for one image); use it only to study accuracy",
}


def module_of(backend: str) -> ModuleType:
    """The module behind a backend's name, the present or an earlier one."""
    return BACKENDS[present_name(backend)]


def unavailable(backend: str) -> str | None:
    """Why this machine cannot run a backend, with the remedy; None where it can."""
    return module_of(backend).unavailable(backend)


def remarks(backend: str) -> list[str]:
    """What speaks against a backend, on this machine."""
    found = [SLOW_BACKENDS[backend]] if backend in SLOW_BACKENDS else []
    if backend == "onednn" and int8_saturates():
        found.append(
            "saturates int8 products on processors without VNNI, as this one: what it gives here "
            "is less accurate than int8 is; choose 'pt2e' or 'x86'"
        )
    return found


def trains_in_bf16(backend: str) -> bool:
    """Whether quantization-aware training works under bf16 autocast."""
    return module_of(backend).TRAINS_IN_BF16


def trains_recorded(backend: str) -> bool:
    """Whether a GPU can record a step of quantization-aware training (training/cuda_graph.py)."""
    return module_of(backend).TRAINS_RECORDED


def prepare(model: Network, quant: Quant) -> nn.Module:
    """A copy of `model` with observers ('ptq') or trainable fake quantization ('qat')."""
    return _made(BACKENDS[quant.backend].prepare, model, quant)


def _made(make: Callable[..., nn.Module], model: Network, quant: Quant) -> nn.Module:
    return make(
        model,
        quant.backend,
        float_layer_names(model, quant.float_layers),
        quant.observer,
        qat=quant.scheme == "qat",
        reduce_range=quant.reduce_range,
    )


def master_names(prepared: nn.Module, model: Network, quant: Quant) -> dict[str, str]:
    """`model`'s parameter and buffer names → those of the network prepared from it."""
    return BACKENDS[quant.backend].master_names(prepared, model)


def set_observing(prepared: nn.Module, quant: Quant, on: bool) -> None:
    """Whether what runs through a prepared network moves its ranges."""
    BACKENDS[quant.backend].set_observing(prepared, on)


def observe_together(prepared: nn.Module, extremes: Callable[[Tensor], Tensor]) -> None:
    """Let a network that trains in several processes see the whole batch's ranges.

    `extremes` gives `[least, largest]` of a tensor over all processes.
    """
    fake_quant.observe_together(prepared, extremes)
    fx_backend.observe_together(prepared, extremes)


def with_trained_ranges(quant: Quant, prepared: nn.Module) -> Quant:
    """`quant` with the ranges that a prepared network has seen."""
    return replace(quant, ranges=BACKENDS[quant.backend].observed_ranges(prepared))


def observe(
    prepared: nn.Module,
    backend: str,
    calibration: Iterable[tuple[Tensor, Tensor]],
    batches: int,
) -> None:
    """Run the first `batches` batches of `calibration` through a prepared network's observers."""
    module_of(backend).begin_observing(prepared)
    with torch.inference_mode():
        for images, _ in itertools.islice(calibration, batches):
            prepared(images.cpu())


def simulated(prepared: nn.Module, backend: str) -> nn.Module:
    """An observed network that computes as its int8 form will, made in no time; for searches."""
    return module_of(backend).simulated(prepared, backend)


def convert(prepared: nn.Module, backend: str) -> nn.Module:
    """The int8 network of a prepared one, by the ranges that it has seen, as torch's modules."""
    module = module_of(backend)
    return module.convert(copy.deepcopy(prepared), backend, module.observed_ranges(prepared))


def with_calibrated_ranges(
    model: Network, quant: Quant, calibration: Iterable[tuple[Tensor, Tensor]]
) -> Quant:
    """`quant` with ranges observed on the first `quant.calibration_batches` batches.

    Those of layers that it has from training stay, where these are not all that is rounded.
    """
    module = BACKENDS[quant.backend]
    prepared = _made(module.observing, model, quant)
    observe(prepared, quant.backend, calibration, quant.calibration_batches)
    if quant.ranges is not None and quant.scheme == "qat" and isinstance(prepared, Observed):
        return replace(quant, ranges=prepared.ranges(quant.ranges))
    return with_trained_ranges(quant, prepared)


def lacks_ranges(model: Network, quant: Quant) -> bool:
    """Whether something is to be observed before `model` can be deployed."""
    if BACKENDS[quant.backend].TAKES_ANY_NETWORK:
        return pt2e.lacks_ranges(model, quant)
    return quant.ranges is None


def native_int8(model: Network, quant: Quant) -> list[nn.Module] | None:
    """The int8 network, or its parts between exits, as torch's own int8 modules; None where the
    backend has none, but graphs for engines. Raises ValueError without ranges."""
    prepared = _with_ranges(model, quant)
    return BACKENDS[quant.backend].native_int8(prepared, quant.backend, quant.ranges)


def int8_forms(
    model: Network, quant: Quant, inputs: Sequence[Inputs]
) -> list[tuple[fx.GraphModule, nn.Module | None]]:
    """The int8 network, or its parts between exits: each as operations that engines read, and as
    PyTorch runs it by itself (None: it does not).

    `inputs` are an example of what each takes. Raises ValueError without ranges.
    """
    prepared = _with_ranges(model, quant)
    return BACKENDS[quant.backend].int8_forms(prepared, quant.backend, quant.ranges, inputs)


def _with_ranges(model: Network, quant: Quant) -> nn.Module:
    if quant.ranges is None:
        raise ValueError("the network's ranges were never observed; calibrate it first")
    return prepare(model, quant)
