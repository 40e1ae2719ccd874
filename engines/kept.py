"""Whether compiling a network can pay, by what engines took on this machine for one like it.

Inductor takes 10 to 20 s a batch size, which most networks are not worth. What it and the others
took where it was asked by name, or seemed worth it, is kept in the cache folder.
"""

from __future__ import annotations

import contextlib
import json
import math
from importlib import metadata
from typing import NamedTuple

from machine.cache import cache_folder
from machine.files import sha256, write_json
from machine.processor import has_vnni, processor

FILE = "engines.json"
CLOSE = 1.03  # times what the fastest takes: as good as won
# What seems worth compiling where nothing is kept: int8 where the processor has VNNI, and no less
# work. On AVX2 alone OpenVINO was faster with every network, batches of 8 and 64 (1.04 to 1.19
# times, one thread, in turn).
FEWEST_IMAGES, LEAST_MACS = 8, 2e9  # in a batch; of a batch


class Kind(NamedTuple):
    """Networks that engines take alike."""

    precision: str  # 'int8', or that of all layers
    batch: int
    threads: int
    macs: int  # of an image

    def key(self) -> str:
        """Digest of it, of the machine and of the runtimes; MACs count within a factor of 1.4."""
        versions = [metadata.version(name) for name in ("torch", "onnxruntime", "openvino")]
        about = [self.precision, self.batch, self.threads, round(math.log2(self.macs)), *versions]
        return sha256(f"{about} {processor()}".encode())[:32]


def why_not(engine: str, kind: Kind) -> str | None:
    """Why `engine` is not worth compiling for; None where it is."""
    times = _read().get(kind.key(), {})
    if engine in times:
        others = {name: ms for name, ms in times.items() if name != engine}
        fastest = min(others, key=others.__getitem__, default=engine)
        if times[engine] <= CLOSE * times[fastest]:
            return None
        ratio = times[engine] / times[fastest]
        return f"is not compiled: for such a network it took {ratio:.2f} times as long as {fastest}"
    enough = kind.batch >= FEWEST_IMAGES and kind.batch * kind.macs >= LEAST_MACS
    if kind.precision == "int8" and enough and has_vnni():
        return None
    return "is not compiled: nothing it could win is expected; name it in 'engines' to see"


def remember(kind: Kind, times: dict[str, float]) -> None:
    """Keep what engines took, in milliseconds a batch."""
    with contextlib.suppress(OSError):  # no place to keep it: it is measured again
        write_json(cache_folder() / FILE, {**_read(), kind.key(): times})


def _read() -> dict[str, dict[str, float]]:
    """What is kept; nothing where the file is not there, or not ours."""
    try:
        found = json.loads((cache_folder() / FILE).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        key: times
        for key, times in found.items()
        if isinstance(times, dict)
        and times
        and all(isinstance(ms, float) and 0 < ms < math.inf for ms in times.values())
    }
