"""What benchmarks/int8.py measured, on each kind of processor, as one page to cite.

Run: python -m benchmarks.int8_page records/int8_cpus/raw/*.json     (seconds)

Every figure of the page is one of a file or comes from these alone, the finding in its first lines
included. A file is a Record: of a run, or of a table that was published before there were records.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.inference import PEERS, TIES, cells
from machine.errors import Refused
from machine.files import write_atomically

PAGE = Path(__file__).parents[1] / "docs/results/int8-on-cpus.md"
BEGIN = "<!-- written by python -m benchmarks.int8_page -->"
Z = 1.96  # standard errors to either side that hold 95 of 100
NONE = "–"  # not measured


class Strict(BaseModel):
    """Plain data without a key too many."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Accuracy(Strict):
    """Test images that a variant puts into the right class, beside float's in eager PyTorch."""

    images: int = Field(ge=1)
    right: int = Field(ge=0)
    lost: int = Field(ge=0)  # right in float alone
    won: int = Field(ge=0)  # right here alone

    def share(self) -> tuple[float, float, float]:
        """Percent right, and Wilson's interval of 95 % for it."""
        n, found = self.images, self.right / self.images
        middle = (found + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * math.sqrt(found * (1 - found) / n + Z**2 / (4 * n**2))
        return 100 * found, 100 * (middle - half), 100 * (middle + half)

    def points_lost(self) -> tuple[float, float, float]:
        """Points below float, and their interval of 95 %: the same images, so a paired one.

        As Agresti and Min (Statistics in Medicine 24, 2005) have it: half an image more in each
        cell of the table of two by two.
        """
        n, off, either = self.images + 2, self.lost - self.won, self.lost + self.won + 1
        half = Z * math.sqrt(either - off**2 / n) / n
        points = 100 * off / self.images
        return points, 100 * (off / n - half), 100 * (off / n + half)


class Cell(Strict):
    """A variant of a network at a batch size and number of threads; None: not measured."""

    network: str
    batch: int = Field(ge=1)
    threads: int = Field(ge=1)
    variant: str  # a row of benchmarks.engines.VARIANTS
    median: float | None = Field(None, gt=0)  # ms
    p95: float | None = Field(None, gt=0)  # ms
    error: float | None = Field(None, ge=0)  # of logits: see benchmarks.inference.error
    accuracy: Accuracy | None = None  # of the largest batch size alone
    ready_seconds: float | None = Field(None, ge=0)
    skipped: str | None = None  # why there is no time

    @property
    def place(self) -> tuple[str, int, int]:
        return self.network, self.batch, self.threads


class Size(Strict):
    """How large a network is."""

    macs: int | None = None
    params: int | None = None


class Record(Strict):
    """One processor, one version of the code."""

    processor: str
    isa: list[str]
    date: str = Field(pattern=r"^\d{4}-\d\d(-\d\d)?$")  # of the first cell
    commits: list[str]  # of the code that measured, or of the text that published it
    source: str  # the command, or where the table was published
    versions: dict[str, str | None]
    weights: str  # what the networks were trained on, and so what accuracy stands for
    outdated: str = ""  # why the finding does not count it
    remarks: str = ""
    networks: dict[str, Size]
    cells: list[Cell]

    def rows(self) -> list[dict[str, Any]]:
        """As benchmarks.inference has them."""
        return [cell.model_dump(exclude_none=True) for cell in self.cells]


class Best(NamedTuple):
    """A place with our fastest int8, the fastest peer and the fastest float: cells and ratios."""

    record: Record
    ours: Cell
    peer: Cell
    plain: Cell | None  # None: not measured
    vs_peer: float
    vs_float: float | None


def load(path: Path) -> Record:
    """Raises Refused for what is no Record."""
    try:
        return Record.model_validate_json(path.read_bytes())
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise Refused(
            f"{path}: {where}: {first['msg']}; such a file is written by python -m benchmarks.int8"
        ) from None


def kind(record: Record) -> str:
    """By what the processor multiplies int8 with."""
    flags = set(record.isa)
    if any(flag.startswith("amx") for flag in flags):
        return "AMX"
    return "VNNI without AMX" if flags & {"avx512_vnni", "avx_vnni"} else "no VNNI"


def bests(record: Record) -> list[Best]:
    """Every place where ours and a peer's int8 were timed."""
    by_name = {(*cell.place, cell.variant): cell for cell in record.cells}
    found = []
    for row in cells(record.rows()):
        place = row["network"], row["batch"], row["threads"]
        ours, peer = (by_name[(*place, row[kind])] for kind in ("ours", "peer"))
        plain = by_name.get((*place, row["float"]))
        found.append(Best(record, ours, peer, plain, row["vs_peer"], row["vs_float"]))
    return found


def accuracy_of(record: Record, cell: Cell | None) -> Accuracy | None:
    """That of the cell's variant, at whichever batch size it was taken."""
    if cell is None:
        return None
    same = (
        other.accuracy
        for other in record.cells
        if (other.network, other.variant) == (cell.network, cell.variant)
    )
    return next(filter(None, same), None)


def finding(found: Sequence[Best]) -> str:
    """The page's first lines, of what is not outdated."""
    found = [best for best in found if not best.record.outdated]
    if not found:
        return "No file that is not outdated has ours and a peer's int8: nothing can be said."
    text = (
        "Our int8 on its fastest engine against the fastest int8 of ONNX Runtime's quantizer and "
        f"of NNCF with OpenVINO: no slower (within {1 - TIES:.0%})"
    )
    for name in dict.fromkeys(kind(best.record) for best in found):
        own = [best for best in found if kind(best.record) == name]
        ratios = [best.vs_peer for best in own]
        faster = [best.vs_float for best in own if best.vs_float is not None]
        worst = min(own, key=lambda best: best.vs_peer)
        text += (
            f" in {even(own)} cells on processors with {name}, {spread(ratios)} times as fast "
            f"(median, range; the worst is {place(worst.ours)}) and {spread(faster)} times as fast "
            "as the fastest network without int8;"
        )
    text = f"{text[:-1]}."
    for whose, side in ("ours", "ours"), ("the fastest peer's", "peer"):
        known = (accuracy_of(best.record, getattr(best, side)) for best in found)
        accuracies = list(filter(None, known))
        if accuracies:
            most = max(accuracies, key=lambda each: each.points_lost()[0])
            text += (
                f" The most that {whose} loses of a trained network's top-1 accuracy is "
                f"{points(most)} points (n = {most.images:,})."
            )
    return text


def even(found: Sequence[Best]) -> str:
    """'24 of 28': where ours is no slower than the fastest peer."""
    return f"{sum(best.vs_peer >= TIES for best in found)} of {len(found)}"


def place(cell: Cell) -> str:
    return f"{cell.network}, batch {cell.batch}, {threads(cell.threads)}"


def threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def points(accuracy: Accuracy | None) -> str:
    """'0.12 (−0.20 to 0.44)'"""
    if accuracy is None:
        return NONE
    lost, low, high = (f"{value:.2f}".replace("-", "−") for value in accuracy.points_lost())
    return f"{lost} ({low} to {high})"


def percent(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return NONE
    found, low, high = accuracy.share()
    return f"{found:.2f} ({low:.1f}–{high:.1f})"


def ms(cell: Cell | None) -> str:
    """'0.584 (0.701)': median and 95th percentile; or why there is none."""
    if cell is None or cell.median is None:
        return (cell and cell.skipped) or NONE
    spread = f" ({cell.p95:.3g})" if cell.p95 is not None else ""
    return f"{cell.median:.3g}{spread}"


def off(cell: Cell) -> str:
    return NONE if cell.error is None else f"{cell.error:.3f}"


def with_engine(cell: Cell | None) -> str:
    """'0.584 (0.701) openvino': the time, and what runs it."""
    if cell is None:
        return NONE
    form, _, runtime = cell.variant.partition(", ")
    if cell.variant in PEERS:
        runtime = cell.variant.removeprefix("int8 ")
    return f"{ms(cell)} {runtime}{', bf16' * (form == 'bf16')}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def overview(records: Sequence[Record]) -> list[str]:
    """A row a file."""
    rows = []
    for record in records:
        found = bests(record)
        peer = [best.vs_peer for best in found]
        plain = [best.vs_float for best in found if best.vs_float is not None]
        rows.append(
            (
                f"[{title(record)}](#{anchor(title(record))})",
                kind(record),
                even(found),
                *(spread(values) for values in (peer, plain)),
                f"no: {record.outdated}" if record.outdated else "yes",
            )
        )
    head = ("processor", "int8 by", "cells no slower", "× best peer, median (range)", "× float")
    head = (*head, "counted above")
    return table(head, rows)


def spread(values: Sequence[float]) -> str:
    if not values:
        return NONE
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def short(commit: str) -> str:
    """'8d8d442-dirty' of git's long name."""
    name, dash, dirty = commit.partition("-")
    return f"{name[:7]}{dash}{dirty}"


def title(record: Record) -> str:
    return f"{record.processor}, {record.date}"


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    kept = (c for c in heading.lower() if c.isalnum() or c in "_- ")
    return "".join(kept).replace(" ", "-")


def section(record: Record) -> list[str]:
    """Who is the fastest where, then every variant."""
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    commits = ", ".join(map(short, record.commits))
    source = f"Commit {commits}; {record.source}"
    about = (f"{', '.join(record.isa)}; {versions}", record.weights, source, record.outdated)
    text = " ".join(f"{sentence.rstrip('.')}." for sentence in (*about, record.remarks) if sentence)
    rows = []
    for best in bests(record):
        plain = accuracy_of(record, best.plain)
        rows.append(
            (
                *(best.ours.network, str(best.ours.batch), str(best.ours.threads)),
                *(with_engine(cell) for cell in (best.plain, best.ours, best.peer)),
                *(f"{ratio:.2f}" if ratio else NONE for ratio in (best.vs_peer, best.vs_float)),
                f"{off(best.ours)} / {off(best.peer)}",
                percent(plain),
                *(points(accuracy_of(record, cell)) for cell in (best.ours, best.peer)),
            )
        )
    head = (
        *("network", "batch", "threads", "float", "ours", "best peer", "× peer", "× float"),
        *("logits off, ours / peer", "float right, %", "points lost, ours", "peer"),
    )
    lines = [f"## {title(record)}", "", text, ""]
    return [*lines, *table(head, rows), "### All variants", "", *variants(record)]


def variants(record: Record) -> list[str]:
    """A row a network, number of threads and variant, a column a batch size."""
    batches = sorted({cell.batch for cell in record.cells})
    groups: dict[tuple[str, int, str], dict[int, Cell]] = {}
    for cell in record.cells:
        groups.setdefault((cell.network, cell.threads, cell.variant), {})[cell.batch] = cell
    rows = []
    for (network, count, variant), by_batch in groups.items():
        last = by_batch[max(by_batch)]
        size = record.networks[network]
        macs = f" ({size.macs / 1e6:.1f} M MACs)" if size.macs else ""
        accuracy = accuracy_of(record, last)
        rows.append(
            (
                *(f"{network}{macs}", str(count), variant),
                *(ms(by_batch.get(batch)) for batch in batches),
                *(off(last), percent(accuracy), points(accuracy)),
            )
        )
    times = (f"batch {batch}, ms" for batch in batches)
    head = ("network", "threads", "variant", *times, "logits off", "right, %", "points lost")
    return table(head, rows)


def page(records: Sequence[Record]) -> str:
    """The whole page, with the newest measurements first."""
    records = sorted(records, key=lambda record: (record.date, title(record)), reverse=True)
    found = [best for record in records for best in bests(record)]
    how = (
        'Small networks for images, run by PyTorch, Inductor, ONNX Runtime and OpenVINO. "Ours" '
        "is one int8 graph, on the fastest of these engines; a peer quantizes the same weights by "
        'the same calibration images with its own tool. "Float" is the fastest network without '
        "int8, in bfloat16 where the processor multiplies it. All variants of a cell are timed in "
        'turn in one process; times are medians in ms (95th percentile). "Logits off" is the '
        "distance of the logits from float's, over how far these are from their mean; a variant "
        "that is off by more than half is not timed. Accuracy is top-1 on test images, with its "
        "binomial interval of 95 %, at the largest batch size; points lost are against eager "
        "float32 on the same images, with a paired interval. – is not measured. Latency and top-1 "
        "side by side, for all to run again, is what "
        "[openvino#35023](https://github.com/openvinotoolkit/openvino/issues/35023) asks for; it "
        "asks it of a ViT on Intel's integrated GPUs, which are not here."
    )
    lines = ["# int8 of small networks on CPUs", "", finding(found), "", BEGIN, how, ""]
    lines += ["```", "make bench", "python -m benchmarks.int8_page records/int8_cpus/raw/*.json"]
    lines += ["```", "", "## Processors", "", *overview(records)]
    for record in records:
        lines += section(record)
    return "\n".join(lines).rstrip() + "\n<!-- end -->\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="as python -m benchmarks.int8 writes")
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    try:
        text = page([load(path) for path in options.files])
    except Refused as error:
        parser.exit(2, f"{error}\n")
    write_atomically(options.output, text.encode())
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
