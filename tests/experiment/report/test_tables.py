"""Markdown, LaTeX and CSV hold the same figures."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from experiment.report.write import write_report
from tests.support.report_samples import metrics, write


def test_tables_hold_the_same_figures(tmp_path: Path) -> None:
    write(
        tmp_path, "Base_FP32", [("train", metrics(90.0))], baseline=None, seeds=(0, 1), spread=1.0
    )
    int8 = metrics(89.0, model_size_mb=1.0, validation=88.5)
    write(tmp_path, "Q_8", [("ptq", int8)], baseline="Base_FP32",
          seeds=(0, 1), spread=1.0)  # fmt: skip
    write_report(tmp_path)
    base, chain = csv.DictReader(io.StringIO((tmp_path / "summary.csv").read_text()))
    assert (chain["experiment"], chain["n"], chain["stages"]) == ("Q_8", "2", "ptq")
    assert float(chain["accuracy_mean"]) == 89.5
    assert float(chain["accuracy_std"]) == pytest.approx(0.5**0.5)
    assert float(chain["accuracy_points"]) == -1.0
    assert float(chain["validation_accuracy_points"]) == -1.5
    assert float(chain["model_size_mb_ratio"]) == 0.25
    assert base["accuracy_points"] == ""
    markdown = (tmp_path / "summary.md").read_text().splitlines()
    assert markdown[3].startswith(
        "| Q\\_8 | ptq | 89.00 ± 0.71 (2) | 89.50 ± 0.71 (2) | −1.00 | 1.000 ± 0.000 (2) |"
    )
    assert len({line.count(" | ") for line in markdown if "---" not in line}) == 1
    latex = (tmp_path / "summary.tex").read_text().splitlines()
    assert latex[0] == r"\begin{tabular}{llrrrrrrr}"
    assert latex[5].startswith(
        r"Q\_8 & ptq & 89.00 $\pm$ 0.71 (2) & 89.50 $\pm$ 0.71 (2) & $-$1.00 & 1.000"
    )
    assert latex[-2:] == [r"\bottomrule", r"\end{tabular}"]
