"""A table of every chain of a search's space, and what a search that is replayed on it has spent.

A chain is written as letters with the number of the strength of each, such as D0P2Q0; "" is the
baseline. It is run at a seed, either in full or short (a third of every training). What chains have
in common is trained once, as a store of checkpoints would have it.
"""

from __future__ import annotations

import itertools
import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from configs import search_digits
from experiment.outcomes.wish import Wish
from experiment.study.recommend import best_of

PACKED = Path(__file__).parent / "search_table.json.xz"
COSTS = ("bitops", "macs", "params", "model_size_mb")
COLUMNS: dict[str, int | None] = {  # with the decimals that are kept
    **{"seed": None, "kind": None, "chain": None, "epochs": None, "seconds": 2, "failed": None},
    **{"accuracy": 4, "loss": 5, "test_accuracy": 4},
    **{"bitops": None, "macs": None, "params": None, "model_size_mb": 6},
}
Node = tuple[int, str, str]  # seed, kind, chain
Row = dict[str, Any]  # chain, kind, loss, and what experiment.study.recommend reads of a row


def pack(files: Sequence[Path], target: Path = PACKED) -> None:
    """One compressed file of what `benchmarks.search_table` wrote. Raises ValueError as Table."""
    rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    rows.sort(key=lambda row: (row["seed"], row["kind"], row["chain"]))
    columns: dict[str, list[Any]] = {
        name: [None if row.get(name) is None else _kept(row[name], places) for row in rows]
        for name, places in COLUMNS.items()
    }
    seeds = " ".join(map(str, sorted(set(columns["seed"]))))
    short = " ".join(map(str, sorted({row["seed"] for row in rows if row["kind"] == "short"})))
    about = {
        "commands": [
            f"python -m benchmarks.search_table --seeds {seeds} --kinds full --out table.jsonl",
            *(
                f"python -m benchmarks.search_table --seeds {there} --kinds short --out table.jsonl"
                for there in filter(None, [short])
            ),
            "python -m benchmarks.search --pack table.jsonl",
        ],
        "search": search_digits.SEARCHES[0],
        "baseline_epochs": search_digits.DEFAULT_TRAINING_PARAMS["initial_train_epochs"],
    }
    Table(about, columns)  # refuses what is incomplete
    target.write_bytes(lzma.compress(json.dumps([about, columns]).encode(), preset=9))


def load(path: Path = PACKED) -> Table:
    return Table(*json.loads(lzma.decompress(path.read_bytes())))


def beginnings(chain: str) -> Iterator[str]:
    """What a chain goes on from, without the baseline, and the chain itself."""
    yield from (chain[:end] for end in range(2, len(chain) + 1, 2))


class Table:
    """What every chain came to at every seed in full, and at some in short too.

    Raises:
        ValueError: A chain is missing at a seed, or is there twice.
    """

    def __init__(self, about: dict[str, Any], columns: dict[str, list[Any]]):
        self.about = about
        written: dict[Node, dict[str, Any]] = {}
        for values in zip(*columns.values(), strict=True):
            own = dict(zip(columns, values, strict=True))
            node = (own["seed"], own["kind"], own["chain"])
            if node in written:
                raise ValueError(f"{node} is there twice")
            written[node] = own
        self.seeds = sorted({seed for seed, _, _ in written})
        self.with_short = [s for s in self.seeds if any(n[:2] == (s, "short") for n in written)]
        self.chains = sorted({chain for _, _, chain in written if chain})
        ends = [chain for chain in self.chains if len(chain) == 2]
        self.letters = {end[0]: 0 for end in ends}  # how many strengths each has
        for end in ends:
            self.letters[end[0]] += 1
        self.epochs: dict[Node, int] = {}  # of a chain's last letter
        self.rows: dict[Node, Row | None] = {}  # None where a stage failed
        self.grid_epochs: dict[int, int] = dict.fromkeys(self.seeds, 0)  # a seed's full chains
        for node in (
            *itertools.product(self.seeds, ["full"], ["", *self.chains]),
            *itertools.product(self.with_short, ["short"], self.chains),
        ):
            if node not in written:
                raise ValueError(f"{node} is missing")
            seed, kind, _ = node
            own, baseline = written[node], written[seed, "full", ""]["accuracy"]
            failed = own["failed"] is not None
            self.rows[node] = None if failed else _row(own, baseline)
            self.epochs[node] = 0 if failed else own["epochs"]  # refused before any training
            self.grid_epochs[seed] += self.epochs[node] * (kind == "full")
        self.truths = {
            chain: row for chain in self.chains if (row := self.mean(chain, self.seeds))
        }  # over all seeds; without chains that fail at one

    def mean(self, chain: str, seeds: Sequence[int]) -> Row | None:
        """A chain's figures on the average of some seeds; None where it fails at one."""
        rows = [row for seed in seeds if (row := self.rows[seed, "full", chain])]
        if len(rows) < len(seeds):
            return None
        if len(rows) == 1:
            return rows[0]
        metrics = {
            name: {"mean": fmean(row["metrics"][name]["mean"] for row in rows)}
            for name in rows[0]["metrics"]
        }
        drop = fmean(row["accuracy_drop"] for row in rows)
        return {"chain": chain, "kind": "full", "accuracy_drop": drop, "metrics": metrics}


class Ledger:
    """Which nodes were run, in their order, and the epochs that they took."""

    def __init__(self, table: Table, own: int):
        self.table = table
        self.nodes: dict[Node, None] = {}
        self.seeds = {own}  # whose baselines are there; that of the search's seed always was
        self.epochs = 0

    def price(self, seed: int, kind: str, chain: str) -> int:
        """Epochs that running a chain would add."""
        new = [node for node in _nodes(seed, kind, chain) if node not in self.nodes]
        baseline = 0 if seed in self.seeds else self.table.about["baseline_epochs"]
        return baseline + sum(self.table.epochs[node] for node in new)

    def charge(self, seed: int, kind: str, chain: str) -> None:
        self.epochs += self.price(seed, kind, chain)
        self.seeds.add(seed)
        self.nodes |= dict.fromkeys(_nodes(seed, kind, chain))


@dataclass(frozen=True)
class Pick:
    """What a search would choose now."""

    chain: str
    drop: float  # points that the search believes it to lose


class Replay:
    """A search at one seed: it sees what it runs, and every epoch is counted."""

    def __init__(self, table: Table, seed: int, wish: Wish):
        self.table, self.seed, self.wish = table, seed, wish
        self.ledger = Ledger(table, seed)
        self.cap = table.grid_epochs[seed]  # epochs after which the search is over

    @property
    def epochs(self) -> int:
        """Spent so far."""
        return self.ledger.epochs

    def run(self, chain: str, kind: str = "full", seed: int | None = None) -> Row | None:
        """Run a chain, and what it goes on from, unless it was; None where a stage failed."""
        at = self.seed if seed is None else seed
        self.ledger.charge(at, kind, chain)
        return self.table.rows[at, kind, chain]

    def price(self, chain: str, kind: str = "full", seed: int | None = None) -> int:
        """Epochs that running a chain would add."""
        return self.ledger.price(self.seed if seed is None else seed, kind, chain)

    def others(self) -> list[int]:
        """The table's further seeds, the next one first."""
        index = self.table.seeds.index(self.seed)
        return self.table.seeds[index + 1 :] + self.table.seeds[:index]

    def seen(self, kind: str = "full") -> list[Row]:
        """Rows of what was run at the search's seed; beginnings of chains were measured too."""
        nodes = [node for node in self.ledger.nodes if node[:2] == (self.seed, kind)]
        return [row for node in nodes if (row := self.table.rows[node])]

    def pick(self, seeds: int = 1) -> Pick | None:
        """The best of what was run in full, each taken at the mean of the seeds where it was run.

        It is run at further seeds until the best was run at `seeds` of them.
        """
        while True:
            at: dict[str, list[int]] = {}
            for seed, kind, chain in self.ledger.nodes:
                if kind == "full":
                    at.setdefault(chain, []).append(seed)
            rows = [row for chain, own in at.items() if (row := self.table.mean(chain, own))]
            best = best_of(self.wish, rows)
            if best is None:
                return None
            own = at[best["chain"]]
            if len(own) >= seeds:
                return Pick(best["chain"], best["accuracy_drop"])
            self.run(best["chain"], seed=next(s for s in self.others() if s not in own))


def _nodes(seed: int, kind: str, chain: str) -> list[Node]:
    return [(seed, kind, part) for part in beginnings(chain)]


def _kept(value: Any, places: int | None) -> Any:
    return value if places is None else round(value, places)


def _row(own: dict[str, Any], baseline: float) -> Row:
    """A line of the table as a row of a study's chains."""
    return {
        "chain": own["chain"],
        "kind": own["kind"],
        "loss": own["loss"],
        "accuracy_drop": baseline - own["accuracy"],
        "metrics": {name: {"mean": own[name]} for name in ("accuracy", *COSTS)},
    }
