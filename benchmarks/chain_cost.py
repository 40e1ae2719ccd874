"""What sharing saves: 12 chains with common beginnings, in one run against 12 runs of their own.

Run: python -m benchmarks.chain_cost [--quick]
Both sides do the same work on Digits, alternating, each time into empty folders. `--quick` runs one
round with fewer epochs (about 2 min on 2 cores).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

from experiment.running.console import Console
from experiment.suite.chains import plan
from experiment.suite.schema import load_suite
from machine.environment import environment
from main import run_suite

HOME = Path(__file__).parents[1]

STAGES = {"P": "prune", "F": "finetune", "Q": "qat"}
# Every order of prune, finetune and QAT, each also cut after its second stage.
ORDERS = [order[:n] for order in itertools.permutations("PFQ") for n in (2, 3)]


def write_suite(folder: Path, orders: list[tuple[str, ...]], epochs: int) -> Path:
    """The quickstart's network and data with these chains, writing below `folder`."""
    text = (HOME / "configs" / "quickstart.py").read_text()
    text += f"""
DEVICE = "cpu"
DATA_DIR, MODEL_SAVE_DIR, RESULTS_DIR = "{folder}/data", "{folder}/models", "{folder}/results"
DEFAULT_TRAINING_PARAMS["initial_train_epochs"] = {3 * epochs}
DEFAULT_COMPRESSION_PARAMS["finetune_epochs"] = {epochs}
DEFAULT_COMPRESSION_PARAMS["qat_epochs"] = {epochs}
EXPERIMENT_CONFIGS = EXPERIMENT_CONFIGS[:1]
"""
    for order in orders:
        names = ", ".join(repr(STAGES[letter]) for letter in order)
        text += f"EXPERIMENT_CONFIGS.append(chain('Chain_{'_'.join(order)}', {names}))\n"
    folder.mkdir(parents=True)
    path = folder / "suite.py"
    path.write_text(text)
    return path


def run(path: Path) -> tuple[float, int]:
    """Seconds and number of stages of a run into empty folders."""
    suite = load_suite(path)
    stages = {step.key for chain in plan(suite) for step in chain.steps}
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        results = run_suite(suite, "reuse", Console())
    if results.failures():
        raise RuntimeError(f"failed: {results.failures()}")
    return time.perf_counter() - started, len(stages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    rounds, epochs = (1, 1) if quick else (3, 4)
    shared, separate = [], []
    shared_stages = separate_stages = 0
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            seconds, shared_stages = run(write_suite(folder / "shared", ORDERS, epochs))
            shared.append(seconds)
            alone = [
                run(write_suite(folder / f"alone{i}", [order], epochs))
                for i, order in enumerate(ORDERS)
            ]
            separate.append(sum(seconds for seconds, _ in alone))
            separate_stages = sum(stages for _, stages in alone)
        print(f"round {number + 1}: shared {shared[-1]:.1f} s, separate {separate[-1]:.1f} s")
    device = load_suite(HOME / "configs" / "quickstart.py").device
    print(json.dumps(environment(device)))
    print(f"\n{'':22}{'stages run':>12}{'wall s (median)':>18}{'min':>8}{'max':>8}")
    rows = [("one run, shared", shared_stages, shared), ("12 runs", separate_stages, separate)]
    for label, stages, times in rows:
        print(
            f"{label:22}{stages:>12}{statistics.median(times):>18.1f}"
            f"{min(times):>8.1f}{max(times):>8.1f}"
        )
    ratios = [one / other for one, other in zip(shared, separate, strict=True)]
    result = {
        "wall_vs_separate": round(statistics.median(ratios), 3),
        "stages_vs_separate": round(shared_stages / separate_stages, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
