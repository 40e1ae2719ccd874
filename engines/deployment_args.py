"""`deployment_args`: on which engines, for which batch sizes and with how many threads."""

from __future__ import annotations

import difflib
import os
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from engines import ENGINES

BatchSize = Literal[1, 2, 4, 8, 16, 32, 64, 128, 256]


class DeploymentArgs(BaseModel):
    """`deployment_args` of an experiment: how its networks are run when they are measured.

    What a stage makes does not depend on it, so it is in no key.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    # keys of ENGINES that are tried; 'auto': all that this machine has
    engines: Literal["auto"] | list[str] = "auto"
    batch_sizes: list[BatchSize] = Field([1, 64], min_length=1)  # for each the fastest is found
    threads: int | None = Field(None, ge=1)  # None: as many as torch takes

    @field_validator("engines")
    @classmethod
    def _there(cls, engines: Literal["auto"] | list[str]) -> Literal["auto"] | list[str]:
        if engines == "auto":
            return engines
        if not engines:
            raise ValueError("should be 'auto' or name an engine")
        for name in engines:
            if name not in ENGINES:
                close = difflib.get_close_matches(name, ENGINES, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(ENGINES)}"
                raise ValueError(f"names {name!r}, which is not an engine; {hint}")
            if (why := ENGINES[name].unavailable()) is not None:
                raise ValueError(f"names {name!r}, which {why}")
        if len(set(engines)) < len(engines):
            raise ValueError("has an engine twice; name each once")
        return engines

    @field_validator("batch_sizes")
    @classmethod
    def _each_once(cls, sizes: list[BatchSize]) -> list[BatchSize]:
        if len(set(sizes)) < len(sizes):
            raise ValueError("has a size twice; name each once")
        return sizes

    @field_validator("threads")
    @classmethod
    def _have_processors(cls, threads: int | None) -> int | None:
        processors = os.cpu_count() or 1
        if threads is not None and threads > processors:
            raise ValueError(f"is more than the {processors} processors here; ask for fewer")
        return threads

    def available(self) -> list[str]:
        """The engines that are tried, in the order of ENGINES."""
        if self.engines == "auto":
            return [name for name, engine in ENGINES.items() if engine.unavailable() is None]
        return [name for name in ENGINES if name in self.engines]

    def why_not_beside_torch(self) -> str | None:
        """Why nothing here runs a network that PyTorch by itself does not, with the remedy."""
        if any(name != "eager" for name in self.available()):
            return None
        others = {name: e.unavailable() for name, e in ENGINES.items() if name != "eager"}
        there = [repr(name) for name, why in others.items() if why is None]
        if there:
            remedy = f"allow one in deployment_args.engines: {', '.join(there)}"
        else:
            remedy = "; ".join(f"{name} {why}" for name, why in others.items())
        return f"needs another engine than 'eager', which would only simulate it; {remedy}"
