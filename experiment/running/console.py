"""All printing: lines, warnings and tables, above a running bar where there is one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.prompt import Confirm
from rich.text import Text
from tqdm import tqdm

from experiment.running.tables import TableRow, figure_tables

if TYPE_CHECKING:
    from experiment.running.progress import Progress


class Console:
    """All printing of a run goes through here, so that bars and lines do not tear each other.

    A quiet one has no bars and shows only what is out of the ordinary, and closing tables; without
    `warnings` not even what stages warn of, which their records have.
    """

    def __init__(self, quiet: bool = False, *, warnings: bool = True) -> None:
        self.quiet, self.warnings = quiet, warnings
        self.progress: Progress | None = None
        self.chain = ""  # that runs now
        # Bound to what is the output now, so that it prints where another package is silenced.
        self.rich = RichConsole(
            file=sys.stdout, highlight=False, soft_wrap=True, markup=False, emoji=False
        )
        if not self.rich.is_terminal:
            self.rich.width = 200  # a log file has no width; rich would guess 80

    def say(self, text: str) -> None:
        """A line as it is, above any running bar; not in a quiet console."""
        if not self.quiet:
            self.show(Text(text))

    def note(self, text: str) -> None:
        """A line that a quiet console shows as well."""
        self.show(Text(text))

    def show(self, what: RenderableType) -> None:
        """Print above any running bar."""
        with tqdm.external_write_mode():
            self.rich.print(what)
        if self.progress is not None:
            self.progress.refresh()

    def ask(self, question: str, *, default: bool) -> bool:
        """Ask until the answer is y, n, yes or no; none is `default`. Raises EOFError."""
        return _Question.ask(Text(question), console=self.rich, default=default)

    def figures(
        self, title: str, names: Sequence[str], figures: Sequence[str], rows: Sequence[TableRow]
    ) -> None:
        """A table of figures; as several, where it is wider than the terminal."""
        for table in figure_tables(self.rich, title, names, figures, rows):
            self.show(table)

    def warn(self, text: str) -> None:
        if not self.warnings:
            return
        where = "       " if not self.quiet else f"{self.chain}: " if self.chain else ""
        self.show(Text(f"{where}warning: {text}", style="yellow"))


class _Question(Confirm):
    def process_response(self, value: str) -> bool:
        value = value.strip().lower()
        return super().process_response(value[:1] if value in ("yes", "no") else value)


class NoTerminal:
    """A stream that says it is no terminal, which is what tqdm asks before it draws."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def isatty(self) -> bool:
        return False
