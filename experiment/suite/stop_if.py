"""`stop_if`: bounds on what a stage leaves, beyond which a chain is not worth going on with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

SIGNS = {"accuracy_drop": ">", "accuracy": "<", "loss": ">"}  # where beyond a bound lies
ROUNDING = 1e-9  # by which the difference of two percentages may be off


class StopIf(BaseModel):
    """Bounds by the validation share, as every choice goes by it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    accuracy_drop: float | None = Field(None, ge=-100, le=100)  # points below the baseline at most
    accuracy: float | None = Field(None, ge=0, le=100)  # percent at least
    loss: float | None = Field(None, gt=0)  # mean cross-entropy at most

    @property
    def bounds(self) -> dict[str, float]:
        """Those that are set, as a config has them."""
        return self.model_dump(exclude_none=True)

    def why(
        self, figures: Mapping[str, Any], baseline: Mapping[str, Any] | None = None
    ) -> str | None:
        """What is beyond its bound, as 'accuracy_drop 7.3 > 5'; None where nothing is.

        `figures` are the `accuracy` (percent) and `loss` of a network on the validation share, as
        a record's metrics have them under 'validation', `baseline` those of the network that its
        chain began from. A loss that is null, since it was not finite, is beyond any bound. Raises
        ValueError for a drop without a baseline.
        """
        beyond = []
        for name, bound in self.bounds.items():
            if name == "accuracy_drop":
                if baseline is None:
                    raise ValueError("accuracy_drop is told from a baseline, and there is none")
                value = baseline["accuracy"] - figures["accuracy"]
            else:
                value = math.inf if figures[name] is None else figures[name]
            excess = value - bound if SIGNS[name] == ">" else bound - value
            if excess > ROUNDING:
                beyond.append(f"{name} {value:.4g} {SIGNS[name]} {bound:g}")
        return ", ".join(beyond) or None

    def __str__(self) -> str:
        return " or ".join(f"{name} {SIGNS[name]} {bound:g}" for name, bound in self.bounds.items())


def stop_in_words(entry: Mapping[str, Any], *, of_several: bool) -> str:
    """An entry of `stopped` in results, with its seed where a chain has `of_several`."""
    seed = f"seed {entry.get('seed')} " if of_several else ""
    return f"{seed}stopped after {entry.get('stage')}: {entry.get('why')}"
