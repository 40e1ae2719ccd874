"""Pictures for a paper are written and hold what they should."""

from __future__ import annotations

import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest

from experiment.report.pictures import tradeoff
from experiment.report.write import write_report
from experiment.running.metrics import Figure
from tests.support.report_samples import metrics, write


def test_pictures_for_a_paper(small: Path) -> None:
    names = {path.name for path in write_report(small) if path.parent.name == "figures"}
    stems = ("accuracy_bitops", "accuracy_latency", "accuracy_size")
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    assert (small / "figures/accuracy_size.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    xml.etree.ElementTree.parse(small / "figures/accuracy_size.svg")
    write(small, "Other", [("train", metrics(50.0))], baseline=None,
          config={"dataset_args": {"name": "ImageFolder", "root": "/x/pets"}})  # fmt: skip
    write_report(small)
    drawn = {path.name for path in (small / "figures").iterdir()}
    assert "accuracy_size_ImageFolder_pets.png" in drawn
    assert "accuracy_size.png" not in drawn  # of one test split only, so no longer true
    assert len(drawn) == 12


def test_a_folder_with_a_long_name_has_pictures(small: Path) -> None:
    write(small, "Other", [("train", metrics(50.0))], baseline=None,
          config={"dataset_args": {"name": "ImageFolder", "root": f"/x/{'λ' * 127}"}})  # fmt: skip
    write_report(small)
    drawn = [path.name for path in (small / "figures").iterdir()]
    assert len(drawn) == 12 and sum(name.startswith("accuracy_size_Image") for name in drawn) == 2


def test_only_what_changed_is_drawn_anew(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(small)
    figures = small / "figures"
    before = {path.name: path.stat().st_mtime_ns for path in figures.iterdir()}
    drawn: list[str] = []

    def counted(marks: Any, axis: Figure, title: str) -> Any:
        drawn.append(axis.name)
        return tradeoff(marks, axis, title)

    monkeypatch.setattr("experiment.report.pictures.tradeoff", counted)
    write_report(small)
    assert drawn == []
    assert {path.name: path.stat().st_mtime_ns for path in figures.iterdir()} == before
    write(small, "Q", [("ptq", metrics(89.5, model_size_mb=0.9, bitops=64 * 10**6, ms_1=0.8))])
    write_report(small)
    assert drawn == ["model_size_mb"]  # the other costs of Q are as they were
    (figures / "accuracy_latency.svg").unlink()
    write_report(small)
    assert drawn[1:] == ["latency_ms_batch_1"]
    monkeypatch.setattr("experiment.report.pictures._artist", lambda: ["another matplotlib"])
    write_report(small)
    assert len(drawn) == 2 + 3
