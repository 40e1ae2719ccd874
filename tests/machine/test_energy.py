"""Joules by RAPL's counters, read from folders like those of Linux."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from machine.energy import energy

RANGE = 262_143_328_850  # microjoules, as servers have it


def zone(powercap: Path, folder: str, name: str, start: int = 0) -> Path:
    made = powercap / folder
    made.mkdir(parents=True)
    (made / "name").write_text(f"{name}\n")
    (made / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (made / "energy_uj").write_text(f"{start}\n")
    return made


def spending(microjoules: dict[Path, int]) -> Callable[[], None]:
    """A network each of whose calls moves the counters, which begin again beyond their range."""

    def run() -> None:
        for made, more in microjoules.items():
            counter = made / "energy_uj"
            counter.write_text(f"{(int(counter.read_text()) + more) % (RANGE + 1)}\n")

    return run


@pytest.mark.parametrize("start", [0, RANGE - 2_500_000])
def test_packages_and_memory_are_counted_once(start: int, tmp_path: Path) -> None:
    zones = {
        zone(tmp_path, "intel-rapl:0", "package-0", start): 2_000_000,
        zone(tmp_path, "intel-rapl:0:0", "core", start): 1_500_000,  # a part of its package
        zone(tmp_path, "intel-rapl:0:1", "dram", start): 500_000,
        zone(tmp_path, "intel-rapl:1", "package-1", start): 1_000_000,
        zone(tmp_path, "intel-rapl:2", "psys", start): 9_000_000,  # all of it once more
        zone(tmp_path, "intel-rapl-mmio:0", "package-0", start): 2_000_000,
    }
    zone(tmp_path, "intel-rapl", "")  # the control type, which counts nothing
    found = energy(spending(zones), images=64, seconds=0.01, powercap=tmp_path)
    assert found.unknown is None
    assert found.joules_per_image == pytest.approx(3.5 / 64)


def test_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(powercap: Path) -> str | None:
        found = energy(lambda: None, images=1, seconds=0.001, powercap=powercap)
        assert found.joules_per_image is None
        return found.unknown

    assert reason(tmp_path / "none") == "this machine shows no RAPL counters"
    made = zone(tmp_path, "intel-rapl:0", "package-0")
    assert reason(tmp_path) == "this machine's RAPL counters stand still"
    (made / "energy_uj").write_text("")
    assert str(reason(tmp_path)).startswith("this machine's RAPL counters cannot be read: ")
    (made / "energy_uj").chmod(0)
    if os.geteuid() == 0:  # root reads all the same

        def refuse(path: Path) -> int:
            if path.name == "energy_uj":
                raise PermissionError(13, "Permission denied", str(path))
            return RANGE

        monkeypatch.setattr("machine.energy._number", refuse)
    assert reason(tmp_path) == (
        f"only root may read this machine's RAPL counters; sudo chmod a+r {tmp_path}/*/energy_uj, "
        "which holds until the next start"
    )
