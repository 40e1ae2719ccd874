"""What docs/results/ says of records: generated lines, and whether each figure is its record's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from benchmarks.records.numbers import Number, numbers_in
from benchmarks.records.record import TABLE, Record, load, names, published
from machine.errors import Refused

BEGIN, END = "<!-- claims: written by python -m benchmarks.records claims -->", "<!-- end -->"
GENERATED = re.compile(
    r"^<!-- [^\n]*written by python -m .*?^<!-- end -->$", re.MULTILINE | re.DOTALL
)
LINE = re.compile(r"^Record: \[([\w-]+)\].*$", re.MULTILINE)
BOLD = re.compile(r"\*\*(.+?)\*\*|(`\{\"[^`]*\}`)", re.DOTALL)  # and a benchmark's last line
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


class Unfounded(NamedTuple):
    """A number of a page that no record of its section has."""

    page: str
    line: int
    number: str
    why: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.number} {self.why}"


def measured(record: Record) -> str:
    """At which commit, in words that a page has."""
    if record.measured_at is not None:
        return f"measured at {short(record.measured_at)}"
    return f"commit {short(record.commit or 'unknown')}"


def short(commit: str) -> str:
    number, _, dirty = commit.partition("-")
    return number[:7] + (f"-{dirty}" if dirty else "")


def record_line(name: str, record: Record) -> str:
    """The line by which a section names its record."""
    parts = [f"n = {record.n}", measured(record), record.date, record.machine]
    told = ", ".join(part for part in parts if part)
    end = "; only the table was kept" if record.raw == TABLE else ""
    return f"Record: [{name}](../../records/{name}), {told}{end}."


def claims_table(records: dict[str, Record]) -> str:
    """The table of all claims, by page and name."""
    columns = ("claim", "figures (95 % interval)", "n", "machine", "date", "commit", "record")
    rows = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name, record in sorted(records.items(), key=lambda item: (item[1].page, item[0])):
        figures = "; ".join(f"{label(key)}: {record.figures[key].told()}" for key in record.main)
        page = Path(record.page).name
        cells = [
            f"[{record.claim}]({page})",
            figures,
            str(record.n),
            record.machine or "",
            record.date or "",
            measured(record),
            f"[{name}](../../records/{name})",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def label(key: str) -> str:
    return key.replace("_", " ")


def taken(home: Path) -> dict[str, Record]:
    """The records that have figures, by name."""
    records = {name: load(home, name) for name in names(home)}
    return {name: record for name, record in records.items() if record.taken}


def fresh(home: Path) -> dict[str, str]:
    """Page → its text with the table of claims and the lines of records as they are to be."""
    records, texts = taken(home), {}
    for path in sorted((home / "docs" / "results").glob("*.md")):
        text = path.read_text()

        def line(match: re.Match[str]) -> str:
            known = records.get(match[1])
            return match[0] if known is None else record_line(match[1], known)

        text = LINE.sub(line, text)
        if BEGIN in text:
            before, _, rest = text.partition(BEGIN)
            if END not in rest:
                raise Refused(f"{path.relative_to(home)}: no line {END} after {BEGIN}")
            after = rest.partition(END)[2]
            text = f"{before}{BEGIN}\n{claims_table(records)}\n{END}{after}"
        texts[str(path.relative_to(home))] = text
    return texts


def unfounded(home: Path, page: str, text: str) -> list[Unfounded]:
    """The numbers of a page that are not figures of their section's records.

    Looked at are, in a table, all cells but the first of each row and the header, and elsewhere
    what is bold or a benchmark's last line in backticks; of these the numbers with a decimal
    point, a comma or a unit. One is right where it is a value, a deviation or an interval's end of
    a figure, rounded. Of a record whose published table alone was kept, rows count too: all
    numbers of a page's row that are no figure must be in one of them.
    """
    for part in (FENCE, GENERATED):  # what is generated has tests of its own
        text = part.sub(lambda passed: re.sub(r"[^\n]", "", passed[0]), text)
    found, start = [], 1
    here = re.findall(r"records/([\w-]+)\)", text)
    for number, section in enumerate(re.split(r"^(?=## )", text, flags=re.MULTILINE)):
        own = re.findall(r"records/([\w-]+)\)", section)
        found += in_section(home, page, section, start, own or (here if number == 0 else []))
        start += section.count("\n")
    return found


def in_section(home: Path, page: str, section: str, start: int, own: list[str]) -> list[Unfounded]:
    records = {name: load(home, name) for name in dict.fromkeys(own) if name in names(home)}
    values = [value for record in records.values() for value in record.values()]
    rows = [row for name, record in records.items() for row in published(home, name, record)]
    everything = [number.value for row in rows for number in row]
    why = f"is no figure of {', '.join(records)}" if records else "stands where no record is named"
    found = []

    def missing(numbers: list[Number], known: list[float]) -> list[Number]:
        return [n for n in numbers if n.tells and not n.shows(values) and not n.shows(known)]

    header = True
    for place, line in enumerate(section.split("\n"), start):
        if not line.startswith("|"):
            header = True
            continue
        if header or not set(line) - set("|-: "):
            header = False
            continue
        cells = re.split(r"(?<!\\)\|", line)[2:-1]
        numbers = [number for cell in cells for number in numbers_in(cell)]
        kept = [[number.value for number in row] for row in rows] or [[]]
        wrong = min((missing(numbers, row) for row in kept), key=len)
        found += [Unfounded(page, place, number.text, why) for number in wrong]
    prose = re.sub(r"^\|.*$", "", section, flags=re.MULTILINE)
    for match in BOLD.finditer(prose):
        place = start + prose.count("\n", 0, match.start())
        said = match[1] or match[2].strip("`")
        found += [
            Unfounded(page, place, n.text, why) for n in missing(numbers_in(said), everything)
        ]
    return found
