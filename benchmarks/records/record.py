"""A record: one folder of records/ with the command, the raw output and what they come to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.records.figures import Figure, raw
from benchmarks.records.numbers import Number, numbers_in
from experiment.suite.keys import code_of
from experiment.suite.messages import unknown
from experiment.suite.sources import Location, Sources
from machine.errors import Refused
from machine.files import write_atomically
from stages import STAGES

HOME = Path(__file__).parents[2]
TABLE = "published table"


class Code(BaseModel):
    """What code a record rests on."""

    model_config = ConfigDict(extra="forbid")

    stages: list[str] = []  # names of STAGES, each with all that it rests on
    folders: list[str] = []  # folders and files, as 'methods/pruning', with what is in them alone
    digest: str | None = None  # of this code as the figures were taken; `take` writes it

    def now(self, sources: Sources) -> str:
        """The digest of this code as it is: that of stages' keys, comments and docstrings aside.

        Raises Refused for a stage, folder or file that is not there.
        """
        for stage in self.stages:
            if stage not in STAGES:
                raise Refused(f"code.stages: {unknown(stage, STAGES, 'a stage')}")
        for part in self.folders:
            if not (sources.home / part).exists():
                raise Refused(f"code.folders: there is no {part}")
        rows = [STAGES[stage] for stage in self.stages]
        holds = {
            "int8": any(row.spec.quantizes for row in rows),
            "exits": any(row.spec.adds_exits for row in rows),
            "bf16": any(row.spec.casts for row in rows),
            "teacher": "distill" in self.stages,
        }
        facts = frozenset(fact for fact, held in holds.items() if held)
        digests = [code_of(*row, facts, sources) for row in rows]
        parts = [part.rstrip("/").removesuffix(".py").replace("/", ".") for part in self.folders]
        within = tuple(f"{part}." for part in parts)

        def follows(module: str, meant: Location) -> bool:
            return meant.within(within)

        return " ".join([*digests, *([sources.digest([], parts, follows)] if parts else [])])


class Record(BaseModel):
    """records/NAME/record.json. Everything below `main` is written by `take`."""

    model_config = ConfigDict(extra="forbid")

    claim: str  # one sentence
    page: str = Field(pattern=r"^docs/results/[\w-]+\.md$")
    code: Code = Code()
    note: str | None = None  # what else a reader has to know
    raw: Literal["output", "published table"] = "output"  # the latter where no output was kept
    figures: dict[str, Figure] = Field(min_length=1)
    main: list[str] = Field(min_length=1)  # the figures that the claim is about

    n: int | None = None  # independent repetitions of the first of `main`
    seeds: list[int] = []
    date: str | None = None
    commit: str | None = None
    measured_at: str | None = None  # the commit, where code has changed since
    machine: str | None = None  # in a few words
    environment: dict[str, Any] = {}  # versions among it

    @property
    def taken(self) -> bool:
        return all(figure.found is not None for figure in self.figures.values())

    def changed(self, sources: Sources) -> bool:
        """Whether its code is another than that which its figures were taken with."""
        return self.code.digest is None or self.code.digest != self.code.now(sources)

    def files(self) -> list[str]:
        """The raw files that its figures stand in."""
        return sorted({name for figure in self.figures.values() for name in figure.files()})

    def values(self) -> list[float]:
        """All that a page may quote: values, deviations and intervals of its figures."""
        found = [figure.found for figure in self.figures.values() if figure.found is not None]
        parts = [(f.value, f.std, f.low, f.high) for f in found]
        return [value for part in parts for value in part if value is not None]


def names(home: Path) -> list[str]:
    return sorted(path.parent.name for path in (home / "records").glob("*/record.json"))


def folder_of(home: Path, name: str) -> Path:
    """The folder of a record. Raises Refused for one that is not there."""
    if name not in names(home):
        raise Refused(unknown(name, names(home), "a record") if names(home) else "no records")
    return home / "records" / name


def load(home: Path, name: str) -> Record:
    """A record, checked. Raises Refused, a line a mistake."""
    path = folder_of(home, name) / "record.json"
    where = path.relative_to(home)
    try:
        record = Record(**json.loads(path.read_text()))
    except ValidationError as error:
        lines = [f"{where}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise Refused("\n".join(lines)) from None
    except (ValueError, TypeError) as error:
        raise Refused(f"{where}: {error}") from None
    check(str(where), record)
    return record


def check(where: str, record: Record) -> None:
    """What no field can tell by itself. Raises Refused, a line a mistake."""
    lines = [
        f"main: {unknown(key, record.figures, 'a figure')}"
        for key in record.main
        if key not in record.figures
    ]
    for key, figure in record.figures.items():
        if record.raw == TABLE or figure.found is None or figure.tolerance is not None:
            continue
        if figure.found.low is None:
            lines.append(f"figures.{key}: has no interval, so it needs a tolerance in its unit")
    if lines:
        raise Refused("\n".join(f"{where}: {line}" for line in lines))


def save(home: Path, name: str, record: Record) -> None:
    given = record.model_dump(mode="json", exclude_defaults=True)
    path = folder_of(home, name) / "record.json"
    write_atomically(path, (json.dumps(given, indent=2, ensure_ascii=False) + "\n").encode())


def published(home: Path, name: str, record: Record) -> Iterator[list[Number]]:
    """The numbers of each row of the tables of a record of which only these were kept."""
    if record.raw != TABLE:
        return
    for file in record.files():
        content = raw(folder_of(home, name) / "raw", file)
        for row in [row for table in content.get("tables", []) for row in table]:
            yield [number for cell in row.values() for number in in_cell(cell)]
        for part in ("last", "said"):
            yield [number for cell in content.get(part, {}).values() for number in in_cell(cell)]


def in_cell(cell: Any) -> list[Number]:
    return numbers_in(cell if isinstance(cell, str) else json.dumps(cell))
