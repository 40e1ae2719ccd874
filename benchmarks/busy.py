"""How fast training is beside other work and alone, against the settings that one could choose.

Run: python -m benchmarks.busy [--seconds 8] [--rounds 3]
Trains the quickstart's baseline, a process a side, one after another: as it is by default, with
OpenMP's threads spinning, spinning less, asleep, and with one thread. Each round does that alone
and beside as many busy loops as there are processors. About 10 min on 2 cores, which nothing else
should use. The last line has the default over the best of the others.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from dataset import load_dataset
from experiment.suite.chains import plan
from experiment.suite.schema import load_suite
from machine.errors import Interrupted
from machine.processor import cpu_model
from machine.waiting import SET_BY_USER, considerate_waiting
from stages import STAGES
from stages.stage import Context
from stages.state import initial_state

SUITE = Path(__file__).parents[1] / "configs" / "quickstart.py"
DEFAULT = "default"
SIDES = {  # what is set in the environment; a setting of the user's is left alone
    DEFAULT: {},
    "spinning": {"GOMP_SPINCOUNT": "300000"},  # libgomp's own
    "spinning less": {"GOMP_SPINCOUNT": "30000"},
    "asleep": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
WARM_SECONDS = 2.0  # before steps are counted


def images_a_second(seconds: float) -> float:
    """Throughput of the quickstart's baseline in this process."""
    suite = load_suite(SUITE)
    step = plan(suite)[0].steps[0]
    taken: list[float] = []  # times at which steps ended

    def stop() -> bool:
        taken.append(time.perf_counter())
        return taken[-1] - taken[0] > WARM_SECONDS + seconds

    dataset = load_dataset(step.experiment.dataset_args, suite.data_dir)
    ctx = Context(dataset, suite.device, 0, stop_requested=stop, say=lambda line: None)
    spec: Any = step.spec.model_copy(update={"epochs": 10_000})
    with suppress(Interrupted), considerate_waiting():  # which is how `stop` ends it
        STAGES[step.stage].run(initial_state(step.experiment.model_args, 0), spec, ctx)
    counted = [moment for moment in taken if moment - taken[0] > WARM_SECONDS]
    return spec.batch_size * (len(counted) - 1) / (counted[-1] - counted[0])


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Inside, so many processes do nothing as fast as they can."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measured(side: str, seconds: float) -> float:
    """`images_a_second` in a process of its own, whose environment is the side's."""
    chosen = ("OMP_NUM_THREADS", *SET_BY_USER)
    env = {name: value for name, value in os.environ.items() if name not in chosen}
    words = [sys.executable, "-m", "benchmarks.busy", "--here", "--seconds", str(seconds)]
    done = subprocess.run(
        words, env=env | SIDES[side], cwd=SUITE.parents[1], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise SystemExit(f"{side}: exit code {done.returncode}\n{done.stderr}")
    return float(done.stdout.splitlines()[-1])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", action="store_true", help="one side, in this process")
    options = parser.parse_args(arguments)
    if options.here:
        print(images_a_second(options.seconds))
        return
    loads = {"idle": 0, "busy": len(os.sched_getaffinity(0))}
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.rounds):
        for load, loops in loads.items():
            with busy_loops(loops):
                for side in SIDES:
                    speed = measured(side, options.seconds)
                    found.setdefault((side, load), []).append(speed)
    median = {key: statistics.median(values) for key, values in found.items()}
    print(
        f"{cpu_model()}, {loads['busy']} processors, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; images/s, {options.rounds} rounds (least, most)"
    )
    print(f"| side | alone | beside {loads['busy']} busy loops |\n|---|---|---|")
    for side in SIDES:
        row = [
            f"{median[side, load]:,.0f} ({min(found[side, load]):,.0f}, "
            f"{max(found[side, load]):,.0f})"
            for load in loads
        ]
        print(f"| {side} | {' | '.join(row)} |")
    best = {load: max(median[s, load] for s in SIDES if s != DEFAULT) for load in loads}
    ratios = {f"{load}_vs_best": median[DEFAULT, load] / best[load] for load in ("busy", "idle")}
    print(json.dumps({name: round(ratio, 2) for name, ratio in ratios.items()}))


if __name__ == "__main__":
    main()
