"""Names of backends that have changed."""

from __future__ import annotations

# Names of backends that configs and files made before may have → what they are called now.
EARLIER_NAMES = {"inductor": "pt2e"}


def present_name(backend: str) -> str:
    """What a backend is called now."""
    return EARLIER_NAMES.get(backend, backend)
