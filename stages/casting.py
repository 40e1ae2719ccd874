"""`cast`: what is not int8 is deployed in bfloat16 (arXiv:1905.12322), as methods/casting.py says.

Like quantization it is a declaration of how the network is deployed: masters stay float32, so that
any stage may follow.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch

from machine.processor import bf16_is_fast
from methods.casting import BFLOAT16, cast_layers, float32_layers
from methods.exported import exportable
from model import HYBRID, architecture_of, blueprint
from stages.stage import Context, StageSpec
from stages.state import ModelState

NO_BFLOAT16 = "this processor has no bfloat16 arithmetic (AVX512-BF16 or AMX)"


class CastSpec(StageSpec):
    """Which type, and whether a machine that does not compute in it may imitate it."""

    casts = True
    dtype: Literal["bf16"] = "bf16"
    emulate: bool = False  # to see the accuracy where the processor has no bfloat16

    @property
    def why_nothing(self) -> str:
        return "it was cast before"

    def settled(self, device: torch.device) -> CastSpec:
        """Raises ValueError where the device has no bfloat16 and nobody asked to imitate it."""
        if not self.emulate and not bf16_is_fast(device):
            raise ValueError(
                f"dtype 'bf16': {NO_BFLOAT16}, so nothing would be faster; remove the stage, run "
                "it on a machine that has it, or add 'emulate': True to see its accuracy alone"
            )
        return self

    def check(self, model_args: dict[str, Any]) -> None:
        if architecture_of(model_args) != HYBRID:
            exportable(model_args)  # as a graph is what is cast

    def settings(self) -> dict[str, Any]:
        """Imitated or not, the result is the same."""
        return {name: value for name, value in super().settings().items() if name != "emulate"}

    def tags(self) -> tuple[str, str]:
        return "bf16", "bf16"


def cast(state: ModelState, spec: CastSpec, ctx: Context) -> ModelState:
    network = blueprint(state.model_args)
    narrow, wide = cast_layers(network, state.quant), float32_layers(network, state.quant)
    ctx.details.update(cast_layers=narrow, float32_layers=wide)
    ctx.say(f"       {len(narrow)} layers in bfloat16; in float32 stay {', '.join(wide)}")
    return replace(state, precision=BFLOAT16)
