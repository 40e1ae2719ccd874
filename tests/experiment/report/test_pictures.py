"""Pictures for a paper are written and hold what they should."""

from __future__ import annotations

import xml.etree.ElementTree
from pathlib import Path

from experiment.report.write import write_report
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
