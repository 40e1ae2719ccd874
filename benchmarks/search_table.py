"""Every chain of a search's space, run once: the table that `benchmarks.search` replays.

    python -m benchmarks.search_table --seeds 0 1 2 3 --out table.jsonl

All orders of all subsets of the letters of configs/search_digits.py, at every strength, once in
full and once with a third of every training, one line a chain and seed; what chains have in common
is trained once. Nothing is timed, so that several processes may each make some seeds. A file that
is there is gone on with. Hours: 0.5 a seed on a core with AVX2.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from dataset import Dataset, load_dataset
from experiment.running.measure import quality, static_metrics
from experiment.suite.chains import plan
from experiment.suite.config_file import config_values
from experiment.suite.records import Experiment
from experiment.suite.schema import suite_of
from machine.errors import Failed
from stages import STAGES
from stages.deployment import Deployed, calibrated, deploy
from stages.stage import Context, StageSpec
from stages.state import ModelState, initial_state

CONFIG = Path(__file__).parents[1] / "configs" / "search_digits.py"
SHORT = 1 / 3  # of the epochs of each stage
Sequence = list[tuple[str, StageSpec]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--kinds", nargs="+", choices=["full", "short"], default=["full", "short"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("data"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    values = config_values(CONFIG)
    search = vars(_module())["SEARCHES"][0]
    choices = {letter: _choices(search, letter) for letter in search["stages"]}
    baseline, letters = _specs(values, search, choices)
    dataset = load_dataset(baseline.dataset_args, args.data)
    for seed in args.seeds:
        Walk(args.out, dataset, seed, letters).run(baseline, args.kinds)


def _module() -> Any:
    import configs.search_digits

    return configs.search_digits


def _choices(search: dict[str, Any], letter: str) -> list[dict[str, Any]]:
    """Every strength of a letter, as options of its first stage."""
    own = search["strengths"].get(letter, {})
    found = []
    for combination in itertools.product(*own.values()):
        options: dict[str, Any] = {}
        for place, value in zip(own, combination, strict=True):
            *path, last = place.split(".")
            inner = options
            for part in path:
                inner = inner.setdefault(part, {})
            inner[last] = value
        found.append(options)
    return found


def _specs(
    values: dict[str, Any], search: dict[str, Any], choices: dict[str, list[dict[str, Any]]]
) -> tuple[Experiment, dict[str, list[dict[str, Sequence]]]]:
    """The baseline, and of each letter the stages of every strength, in full and short."""
    configs, names = [], {}
    for letter, options in choices.items():
        written = search["stages"][letter]
        written = written if isinstance(written, list) else [written]
        for number, own in enumerate(options):
            for short in (False, True):
                items = []
                for index, item in enumerate(written):
                    stage, given = next(iter(item.items()))
                    given = {**given, **(own if index == 0 else {})}
                    if short and "epochs" in given:
                        given["epochs"] = max(1, round(SHORT * given["epochs"]))
                    items.append({stage: given})
                name = f"{letter}{number}{'s' if short else 'f'}"
                names[letter, number, short] = name
                configs.append({
                    "name": name,
                    "load_fp32_baseline_from_experiment": search["baseline"],
                    "compression_args": {"sequence": items},
                })  # fmt: skip
    suite = suite_of(
        {**values, "EXPERIMENT_CONFIGS": [*values["EXPERIMENT_CONFIGS"], *configs]}, ""
    )
    found = {chain.experiment.name: chain.experiment for chain in plan(suite)}
    letters = {
        letter: [
            {
                kind: list(found[names[letter, number, kind == "short"]].sequence)
                for kind in ("full", "short")
            }
            for number in range(len(options))
        ]
        for letter, options in choices.items()
    }
    return found[search["baseline"]], letters


class Walk:
    """All chains of a seed, what they have in common once."""

    def __init__(
        self,
        out: Path,
        dataset: Dataset,
        seed: int,
        letters: dict[str, list[dict[str, Sequence]]],
    ):
        self.out, self.dataset, self.seed, self.letters = out, dataset, seed, letters
        self.device = torch.device("cpu")
        lines = out.read_text().splitlines() if out.exists() else []
        rows = [json.loads(line) for line in lines]
        self.done = {(r["seed"], r["kind"], r["chain"]) for r in rows}

    def run(self, baseline: Experiment, kinds: Iterable[str]) -> None:
        state = initial_state(baseline.model_args, self.seed)
        state, deployed, seconds, _ = self.stages(state, list(baseline.sequence))
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
            sequence = self.letters[letter][number][kind]
            if state is not None:
                after, deployed, seconds, why = self.stages(state, sequence)
            epochs = sum(spec.epochs_trained for _, spec in sequence)
            if (self.seed, kind, name) not in self.done:
                self.note(kind, name, deployed, seconds, epochs, why)
            self.below(after, name, kind)

    def next(self, chain: str) -> Iterator[tuple[str, int]]:
        for letter, options in self.letters.items():
            if letter not in chain:
                yield from ((letter, number) for number in range(len(options)))

    def all_below(self, chain: str) -> Iterator[str]:
        yield chain
        for letter, number in self.next(chain):
            yield from self.all_below(f"{chain}{letter}{number}")

    def stages(
        self, state: ModelState, sequence: Sequence
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
