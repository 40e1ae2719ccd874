"""`qat`: train with fake quantization, then int8 (arXiv:1712.05877). The loop is `fit`."""

from __future__ import annotations

from typing import Any

from methods.quantization import backends
from stages.fit_spec import FitSpec
from stages.fitting import fit
from stages.ptq import QuantSpec, frozen_as_said, quantized
from stages.stage import Context
from stages.state import ModelState
from stages.teaching import TeacherSpec, taught


class QatSpec(FitSpec, QuantSpec, TeacherSpec):
    """Quantization-aware training from the present weights."""

    takes = {
        **FitSpec.takes,
        **QuantSpec.takes,
        "epochs": "compression_args.qat_epochs",
        "learning_rate": "compression_args.qat_learning_rate",
    }

    def idle(self) -> dict[str, str]:
        found = {**super().idle(), **self.not_compiled("with fake quantization")}
        if not backends.trains_in_bf16(self.backend):
            found["precision"] = f"with backend {self.backend!r}, which trains in float32"
        return found

    def settings(self) -> dict[str, Any]:
        """With the precision that the backend can train in."""
        if backends.trains_in_bf16(self.backend):
            return super().settings()
        return {**super().settings(), "precision": "fp32"}

    def check(self, model_args: dict[str, Any]) -> None:
        FitSpec.check(self, model_args)
        QuantSpec.check(self, model_args)

    def tags(self) -> tuple[str, str]:
        return "qqat", "quantized_qat_int8"


def qat(state: ModelState, spec: QatSpec, ctx: Context) -> ModelState:
    criterion = taught(spec, state.model_args, state, ctx)
    trained = fit(quantized(state, spec, "qat", ctx), spec, spec.epochs, ctx, criterion)
    return frozen_as_said(trained, spec, ctx)
