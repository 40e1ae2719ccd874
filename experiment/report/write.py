"""`results/report.html`: one page of everything in a results folder, without any network.

Made from the JSON alone, at the end of every run and by `python main.py --report`. Beside it:
`summary.csv`, `summary.md`, `summary.tex` and `figures/`. Every text of the results is escaped,
and the page's content security policy lets nothing run or load but what is written here.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from experiment.report.page import page
from experiment.report.pictures import draw_pictures
from experiment.report.reader import Folder, read_folder
from experiment.report.rows import JUDGE, rows_of
from experiment.report.tables import csv_table, latex_table, markdown_table
from machine.files import write_atomically

HERE = Path(__file__).parent
REPORT_NAME = "report.html"
SCRIPTS = (
    "table.js",
    "drawing.js",
    "charts.js",
    "engines.js",
    "searches.js",
)  # each uses what comes before it
FEW_NETWORKS = 24  # of more, the picture of engines begins with baselines and Pareto fronts


def write_report(results_dir: Path) -> list[Path]:
    """Write the page, the tables and the pictures of a results folder; returns their paths.

    A folder without results gives a page that says so, and no pictures. Raises OSError where the
    folder cannot be written.
    """
    folder = read_folder(results_dir)
    rows = rows_of(folder)
    texts = {
        REPORT_NAME: html(folder),
        "summary.csv": csv_table(rows),
        "summary.md": markdown_table(rows),
        "summary.tex": latex_table(rows),
    }
    files = {
        results_dir / name: text.encode(errors="backslashreplace") for name, text in texts.items()
    }
    for path, content in files.items():
        write_atomically(path, content)
    return [*files, *draw_pictures(rows, results_dir / "figures")]


def html(folder: Folder) -> str:
    """The page; equal results give equal bytes."""
    context = page(folder)
    rows = context["rows"]
    plotly, js = _plotly(), _own_script()
    statuses = sorted({row["status"] for row in rows})
    return _template().render(
        **context,
        css=Markup((HERE / "page.css").read_text()),
        plotly=Markup(plotly),
        js=Markup(js),
        hashes=Markup(" ".join(f"'sha256-{_digest(script)}'" for script in (plotly, js))),
        cost_options=[(c["key"], c["label"]) for c in context["data"]["costs"]],
        split_options=[(name, name) for name in context["splits"]],
        reach_options=_reaches(context["data"]["experiments"]),
        status_options=[("", "all"), *((status, status) for status in statuses)],
        few_networks=FEW_NETWORKS,
        chain_options=_chain_options(rows),
        scan_options=[
            (i, item["title"]) for i, item in enumerate(context["data"]["sensitivities"])
        ],
    )


def _reaches(experiments: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """How far below the best the chart goes; all at first, unless one chain is far below."""
    options = [(0, "all"), *((n, f"at most {n} points below the best") for n in (2, 5, 10, 20))]
    accuracies = [e["final"][JUDGE][0] for e in experiments if JUDGE in e["final"]]
    if accuracies and max(accuracies) - min(accuracies) > 30:
        options.sort(key=lambda option: option[0] != 20)
    return options


def _chain_options(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """All experiments; the longest chain on a Pareto front is shown first."""
    first = max(
        rows,
        default=None,
        key=lambda row: (row["status"] == "done", row["fronts"] != "", row["sequence"].count("→")),
    )
    return [
        (row["name"], f"{row['name']}: {row['sequence']}")
        for row in sorted(rows, key=lambda row: row is not first)
    ]


def breakable(name: str) -> Markup:
    """A name that may go on in the next line after '_', '-' and '.'."""
    return Markup(re.sub(r"([_.-])", r"\1<wbr>", str(escape(name))))


@functools.cache
def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["breakable"] = breakable
    return environment.get_template("page.html.j2")


def _own_script() -> str:
    return "".join((HERE / name).read_text() for name in SCRIPTS)


@functools.cache
def _plotly() -> str:
    """The drawing library as the plotly package carries it."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
