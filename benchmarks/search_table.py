"""Every chain of a search's space, run once: the table that `benchmarks.search` replays.

    python -m benchmarks.search_table --seeds 0 1 2 3 --out table.jsonl

All orders of all subsets of the letters of configs/search_digits.py, at every strength, once in
full and once with a third of every training, one line a chain and seed; what chains have in common
is trained once. Nothing is timed, so that several processes may each make some seeds. A file that
is there is gone on with.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from dataset import Dataset, load_dataset
from experiment.running.measure import quality, static_metrics
from experiment.search.plan import Search, load_search
from experiment.search.space import Stages
from machine.errors import Failed
from stages import STAGES
from stages.deployment import Deployed, calibrated, deploy
from stages.stage import Context
from stages.state import ModelState, initial_state

CONFIG = Path(__file__).parents[1] / "configs" / "search_digits.py"
NAME = "Digits_Two_Points"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--kinds", nargs="+", choices=["full", "short"], default=["full", "short"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("data"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    search = load_search(CONFIG, NAME)
    dataset = load_dataset(search.baseline.dataset_args, args.data)
    for seed in args.seeds:
        Walk(args.out, dataset, seed, search).run(args.kinds)


class Walk:
    """All chains of a seed, what they have in common once."""

    def __init__(self, out: Path, dataset: Dataset, seed: int, search: Search):
        self.out, self.dataset, self.seed, self.search = out, dataset, seed, search
        self.device = torch.device("cpu")
        lines = out.read_text().splitlines() if out.exists() else []
        rows = [json.loads(line) for line in lines]
        self.done = {(r["seed"], r["kind"], r["chain"]) for r in rows}

    def run(self, kinds: Iterable[str]) -> None:
        baseline = self.search.baseline
        state, deployed, seconds, _ = self.stages(
            initial_state(baseline.model_args, self.seed), baseline.sequence
        )
        assert deployed is not None
        if (self.seed, "full", "") not in self.done:
            self.note("full", "", deployed, seconds, 0)
        for kind in kinds:
            self.below(state, "", kind)

    def below(self, state: ModelState | None, chain: str, kind: str) -> None:
        for letter, number in self.next(chain):
            name = f"{chain}{letter}{number}"
            if all((self.seed, kind, each) in self.done for each in self.all_below(name)):
                continue
            after, deployed, seconds, why = None, None, 0.0, "what it goes on from failed"
            sequence = self.search.stages[letter, number, kind]
            if state is not None:
                after, deployed, seconds, why = self.stages(state, sequence)
            epochs = sum(spec.epochs_trained for _, spec in sequence)
            if (self.seed, kind, name) not in self.done:
                self.note(kind, name, deployed, seconds, epochs, why)
            self.below(after, name, kind)

    def next(self, chain: str) -> Iterator[tuple[str, int]]:
        for letter, choices in self.search.space.choices.items():
            if letter not in chain:
                yield from ((letter, number) for number in range(len(choices)))

    def all_below(self, chain: str) -> Iterator[str]:
        yield chain
        for letter, number in self.next(chain):
            yield from self.all_below(f"{chain}{letter}{number}")

    def stages(
        self, state: ModelState, sequence: Stages
    ) -> tuple[ModelState | None, Deployed | None, float, str]:
        started = time.perf_counter()
        deployed = deploy(state)
        for stage, spec in sequence:
            ctx = Context(self.dataset, self.device, self.seed, say=lambda _: None)
            try:
                deployed = calibrated(STAGES[stage].run(state, spec, ctx), ctx)
            except (Failed, ValueError) as error:
                return None, None, time.perf_counter() - started, f"{stage}: {error}"
            state = deployed.state
        return state, deployed, time.perf_counter() - started, ""

    def note(
        self,
        kind: str,
        chain: str,
        deployed: Deployed | None,
        seconds: float,
        epochs: int,
        why: str = "",
    ) -> None:
        row: dict[str, Any] = {"seed": self.seed, "kind": kind, "chain": chain, "epochs": epochs}
        row["seconds"] = round(seconds, 3)
        if deployed is None:
            row["failed"] = why
        else:
            loaders = deployed.loaders(Context(self.dataset, self.device, self.seed))
            test = quality(deployed.network, loaders.test)
            found = quality(deployed.network, loaders.validation)
            costs = static_metrics(deployed, deployed.network)  # of the split that ran last
            row |= {
                "accuracy": found["accuracy"],
                "loss": found["loss"],
                "test_accuracy": test["accuracy"],
                **{name: costs[name] for name in ("bitops", "macs", "params", "model_size_mb")},
            }
        with self.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
