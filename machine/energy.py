"""Energy by RAPL, the counters that Intel's and AMD's processors keep of their own packages.

Linux shows both under the name intel-rapl (Documentation/power/powercap/powercap.rst): a folder a
zone, with its `name`, and `energy_uj`, microjoules that begin again at 0 beyond
`max_energy_range_uj`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

POWERCAP = Path("/sys/class/powercap")
SECONDS = 0.5  # shortest time that energy is counted for; counters move every millisecond


class Energy(NamedTuple):
    """What an image costs in energy, or why that is not known."""

    joules_per_image: float | None
    unknown: str | None = None  # the reason, one line


def energy(
    run: Callable[[], object],
    images: int,
    *,
    seconds: float = SECONDS,
    powercap: Path = POWERCAP,
) -> Energy:
    """Joules an image, over as many calls of `run`, `images` each, as fill `seconds`.

    They are those of the whole processor and, where it has counters, its memory: what it takes at
    rest and for other work in that time is among them. A GPU's are not. The first call warms up.
    """
    zones = _zones(powercap)
    if not zones:
        return Energy(None, "this machine shows no RAPL counters")
    try:
        ranges = [_number(zone / "max_energy_range_uj") + 1 for zone in zones]
        _counted(zones)
    except PermissionError:
        remedy = f"sudo chmod a+r {powercap}/*/energy_uj, which holds until the next start"
        return Energy(None, f"only root may read this machine's RAPL counters; {remedy}")
    except (OSError, ValueError) as error:
        return Energy(None, f"this machine's RAPL counters cannot be read: {error}")
    run()
    calls, started, before = 0, time.perf_counter(), _counted(zones)
    while time.perf_counter() - started < seconds:
        run()
        calls += 1
    pairs = zip(before, _counted(zones), ranges, strict=True)
    microjoules = sum((after - first) % size for first, after, size in pairs)
    if not microjoules:  # as in some virtual machines
        return Energy(None, "this machine's RAPL counters stand still")
    return Energy(microjoules / 1e6 / (calls * images))


def _zones(powercap: Path) -> list[Path]:
    """Packages, and their memory where that counts apart; a package's cores are a part of it.

    'psys' counts packages once more, and so does intel-rapl-mmio.
    """
    return [
        zone
        for zone in sorted(powercap.glob("intel-rapl:*"))
        if _text(zone / "name").startswith(("package", "dram"))
    ]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    return int(path.read_text())


def _counted(zones: Sequence[Path]) -> list[int]:
    return [_number(zone / "energy_uj") for zone in zones]
