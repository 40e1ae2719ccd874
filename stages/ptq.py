"""`ptq`: int8 from observed ranges, without training (arXiv:1712.05877)."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator

from methods.quantization import backends
from methods.quantization.freezing import put_on_grid
from methods.quantization.names import present_name
from methods.quantization.record import (
    Quant,
    check_something_is_int8,
    products_beside,
    quantizable_layers,
    reduced_range,
)
from methods.quantization.sensitivity import Choice, choose_float_layers
from model import HYBRID, architecture_of, blueprint
from stages.deployment import with_ranges
from stages.stage import Context, StageError, StageSpec
from stages.state import ModelState, build, state_of


class QuantSpec(StageSpec):
    """What `ptq` and `qat` share."""

    quantizes = True
    takes = {
        "backend": "compression_args.quantization_backend",
        "calibration_batches": "compression_args.ptq_calibration_batches",
    }
    backend: str = "pt2e"
    float_layers: list[str] | Literal["auto"] = []  # patterns of layers that stay float32
    max_accuracy_drop: float | None = Field(None, ge=0)  # points, for 'auto'; None: 0.5
    calibration_batches: int = Field(8, ge=1)
    calibration_batch_size: int = Field(128, ge=1)
    # Weights in 7 of their 8 bits, for processors without VNNI, where 8 saturate. 'auto': if this
    # one has none; once checked, the value is a bool, the same wherever the stage runs.
    reduce_range: Literal["auto"] | bool = Field("auto", validate_default=True)
    freeze: bool = False  # whether int8 weights lose their masters: no later stage trains them

    @field_validator("reduce_range")
    @classmethod
    def _settled(cls, value: Literal["auto"] | bool, info: ValidationInfo) -> bool:
        return reduced_range(info.data.get("backend", "pt2e"), value)

    @field_validator("backend")
    @classmethod
    def _available(cls, backend: str) -> str:
        backend = present_name(backend)
        if backend not in backends.BACKENDS:
            raise ValueError(f"is not a backend; allowed: {', '.join(backends.BACKENDS)}")
        why = backends.unavailable(backend)
        if why is not None:
            raise ValueError(why)
        return backend

    @field_validator("freeze")
    @classmethod
    def _of_pt2e(cls, freeze: bool, info: ValidationInfo) -> bool:
        backend = info.data.get("backend", "pt2e")
        if freeze and backend != "pt2e":
            raise ValueError(f"needs backend 'pt2e', not {backend!r}; set that, or remove the key")
        return freeze

    @property
    def freezes(self) -> bool | None:
        return True if self.freeze else None  # False does not bring masters back

    def check_frozen(self) -> None:
        if self.backend != "pt2e":
            raise ValueError(
                f"backend {self.backend!r} cannot quantize a network whose int8 weights an earlier "
                "stage froze; choose 'pt2e', or remove freeze there"
            )

    @property
    def keeps_float(self) -> list[str] | Literal["auto"]:
        return self.float_layers

    @property
    def runs_in_torch(self) -> bool:
        return bool(backends.BACKENDS[self.backend].RUN_IN_TORCH)

    @property
    def why_nothing(self) -> str:
        return "it was quantized in the same way before"

    def warnings(self) -> list[str]:
        return [f"backend {self.backend!r} {why}" for why in backends.remarks(self.backend)]

    @model_validator(mode="after")
    def _drop_goes_with_auto(self) -> QuantSpec:
        if self.max_accuracy_drop is not None and self.float_layers != "auto":
            raise ValueError(
                "max_accuracy_drop needs float_layers 'auto'; add it, or remove the key"
            )
        return self

    def check(self, model_args: dict[str, Any]) -> None:
        architecture = architecture_of(model_args)
        if architecture != HYBRID and not backends.BACKENDS[self.backend].TAKES_ANY_NETWORK:
            raise ValueError(
                f"backend {self.backend!r} is for the hybrid alone, not for {architecture}; "
                "choose 'pt2e'"
            )
        patterns = [] if self.float_layers == "auto" else self.float_layers
        check_something_is_int8(blueprint(model_args), patterns)

    def quant(self, scheme: str) -> Quant:
        """The record of a network quantized so; neither ranges nor 'auto' layers are known yet."""
        assert isinstance(self.reduce_range, bool)  # settled when the Spec was checked
        return Quant(
            scheme,
            self.backend,
            float_layers=() if self.float_layers == "auto" else tuple(self.float_layers),
            calibration_batches=self.calibration_batches,
            calibration_batch_size=self.calibration_batch_size,
            reduce_range=self.reduce_range,
        )


class PtqSpec(QuantSpec):
    """Post-training quantization."""

    observer: Literal["histogram", "minmax", "moving_average", "percentile"] = "histogram"

    @model_validator(mode="after")
    def _known_observer(self) -> PtqSpec:
        known = backends.BACKENDS[self.backend].OBSERVERS
        if self.observer not in known:
            raise ValueError(
                f"observer {self.observer!r} is not one of backend {self.backend!r}, which has "
                f"{', '.join(known)}; choose one, or backend 'pt2e'"
            )
        return self

    def quant(self, scheme: str) -> Quant:
        return replace(super().quant(scheme), observer=self.observer)

    def tags(self) -> tuple[str, str]:
        return "qptq", "quantized_ptq_int8"


def ptq(state: ModelState, spec: PtqSpec, ctx: Context) -> ModelState:
    return frozen_as_said(quantized(state, spec, "ptq", ctx), spec, ctx)


def quantized(state: ModelState, spec: QuantSpec, scheme: str, ctx: Context) -> ModelState:
    """`state` marked as quantized, ranges unobserved; 'auto' float layers are searched for here."""
    quant = spec.quant(scheme)
    if spec.float_layers == "auto":
        choice = search_float_layers(state, spec, ctx)
        ctx.details["float_layers"] = choice.record()
        if len(choice.float_layers) == len(quantizable_layers(blueprint(state.model_args))):
            raise StageError(
                "float_layers 'auto' leaves nothing to quantize within max_accuracy_drop "
                f"{_drop_of(spec):g}; raise it, or remove the stage"
            )
        quant = replace(quant, float_layers=choice.float_layers)
    if state.quant is not None and state.quant.frozen:
        quant = replace(quant, frozen=True)  # its masters are gone
    if beside := products_beside(state.model_args):
        ctx.warn(
            f"{beside} products stay float: int8 is for modules that are exactly nn.Conv2d or "
            "nn.Linear, and these are of others (nn.MultiheadAttention, subclasses, functions)"
        )
    return state.changed(state.weights, quant=quant)


def frozen_as_said(state: ModelState, spec: QuantSpec, ctx: Context) -> ModelState:
    """`state` with its int8 weights on their grid, if `spec` or a stage before freezes them.

    Ranges are observed before, so that what is deployed is the same to the bit.
    """
    assert state.quant is not None
    if not (spec.freeze or state.quant.frozen):
        return state
    model = build(state)
    observed = with_ranges(state, model, ctx)
    assert observed.quant is not None
    put_on_grid(model, observed.quant)
    quant = replace(observed.quant, frozen=True)
    return replace(observed, weights=state_of(model).weights, quant=quant)


def search_float_layers(state: ModelState, spec: QuantSpec, ctx: Context) -> Choice:
    """The layers to keep float for `spec.max_accuracy_drop`, by the validation share."""
    quant = spec.quant("ptq")
    on_cpu = replace(ctx, device=torch.device("cpu"))
    loader = on_cpu.loaders(batch_size=quant.calibration_batch_size).calibration
    return choose_float_layers(
        build(state),
        quant,
        list(itertools.islice(loader, quant.calibration_batches)),
        on_cpu.loaders().validation,
        _drop_of(spec),
        ctx.say,
    )


def _drop_of(spec: QuantSpec) -> float:
    return 0.5 if spec.max_accuracy_drop is None else spec.max_accuracy_drop
