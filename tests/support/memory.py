"""A store for snapshots that is a list."""

from __future__ import annotations

from typing import Any

import torch


class Memory:
    """A snapshot kept in memory, through the same serialisation as the store's."""

    def __init__(self) -> None:
        self.content: bytes | None = None

    def save(self, value: dict[str, Any]) -> None:
        from machine.files import tensor_bytes

        self.content = tensor_bytes(value)

    def load(self) -> dict[str, Any] | None:
        import io

        return self.content and torch.load(io.BytesIO(self.content), weights_only=True)
