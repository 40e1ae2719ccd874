"""A table of figures loses no figure on a narrow terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console as RichConsole

from experiment.running.tables import TableRow, figure_tables


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_narrow_terminal_gets_every_figure(width: int) -> None:
    screen = io.StringIO()
    rich = RichConsole(file=screen, width=width, soft_wrap=True)
    figures = [f"{number}.125 (×{number}.50)" for number in range(9)]
    names = [str(number) for number in range(9)]
    rows = [TableRow(["A"], figures), TableRow(["B"], figures)]
    tables = figure_tables(rich, "Figures", ["stage"], names, rows)
    for table in tables:
        rich.print(table)
    printed = screen.getvalue()
    assert all(printed.count(figure) == 2 for figure in figures) and "…" not in printed
    assert max(map(len, printed.splitlines())) <= width
    assert printed.count("Figures") == 1 and len(tables) == {40: 9, 80: 3, 120: 2}[width]
