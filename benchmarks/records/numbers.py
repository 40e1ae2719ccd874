"""Numbers as texts show them: what a page says, and what a benchmark's log printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

NUMBER = re.compile(r"(?<![\w.])([+−-]?)(\d[\d,]*\d|\d)(\.\d+)?(e[+-]?\d+)?(?P<version>(?:\.\d+)*)")
UNIT = re.compile(r"\s?(%|×|ms\b|[kMG]\b|[kMG]B\b)")
# What holds no figure: code, targets of links, numbers of papers.
ASIDE = re.compile(r"`[^`]*`|\]\([^)]*\)|arXiv[: ]\d+\.\d+")


class Number(NamedTuple):
    """A number as it is shown."""

    text: str
    value: float
    half: float  # half of its last digit's worth, by which rounding may have moved it
    tells: bool  # whether it can only be a figure: it has a decimal point, a comma or a unit

    def shows(self, values: Iterable[float]) -> bool:
        """Whether it is one of `values`, rounded; signs apart, as in '0.5 points lower'."""
        return any(abs(abs(v) - abs(self.value)) <= self.half * (1 + 1e-9) for v in values)


def numbers_in(text: str) -> list[Number]:
    """The numbers of a text, versions as 2.14.1 left out."""
    found = []
    for match in NUMBER.finditer(ASIDE.sub(" ", text)):
        sign, whole, decimals, exponent = match.group(1, 2, 3, 4)
        if match["version"]:
            continue
        written = f"{whole.replace(',', '')}{decimals or ''}{exponent or ''}"
        half = 0.5 * 10.0 ** (int((exponent or "e0")[1:]) - len((decimals or ".")[1:]))
        unit = UNIT.match(match.string, match.end()) or match.string[: match.start()].endswith("×")
        tells = bool(decimals or exponent or "," in whole or unit)
        value = float(written) * (-1 if sign in ("−", "-") else 1)
        found.append(Number(match[0], value, half, tells))
    return found


def from_log(text: str) -> dict[str, Any]:
    """What a benchmark printed: its environment, its Markdown tables, the JSON of its last line.

    A row is a dict of its cells by column, a column without a name being 'row'; a cell that is a
    number and nothing else is one. Raises ValueError where there is neither table nor JSON.
    """
    lines = text.rstrip().splitlines()
    tables: list[list[dict[str, Any]]] = []
    header: list[str] | None = None
    for line in lines:
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if header is None:
            header = [cell or "row" for cell in cells]
            tables.append([])
        elif set("".join(cells)) - set("-: "):
            tables[-1].append(dict(zip(header, map(cell_value, cells), strict=True)))
    objects = [value for value in map(as_object, lines) if value is not None]
    found: dict[str, Any] = {"environment": next((o for o in objects if "platform" in o), None)}
    found |= {"tables": tables, "last": as_object(lines[-1]) if lines else None}
    if not tables and found["last"] is None:
        raise ValueError("has no table, and its last line is no JSON")
    return {name: value for name, value in found.items() if value}


def cell_value(cell: str) -> float | str:
    whole = re.fullmatch(r"[+−-]?\d[\d,]*(\.\d+)?", cell)
    return float(cell.replace(",", "").replace("−", "-")) if whole else cell


def as_object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line) if line.startswith("{") else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
