"""Two workers with a thread each against one process with two threads: twelve chains of Digits.

Run: python -m benchmarks.executors [--quick]
The chains of chain_cost.py (16 stages), alternating, each time into empty folders. Starting Ray and
its workers counts. About 7 min on 2 cores: 58.0 s against 67.5 s (medians of 3), of which Ray takes
8 s to start. `--quick` runs one round with fewer epochs, where that is a larger part.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.chain_cost import ORDERS, write_suite
from experiment.suite.schema import load_suite
from machine.environment import environment

HOME = Path(__file__).parents[1]

SIDES = {
    "1 process × 2 threads": ("2", []),
    "2 workers × 1 thread": ("1", ["--executor", "ray", "--workers", "2"]),
}


def run(path: Path, threads: str, arguments: list[str]) -> tuple[float, float, int]:
    """Seconds in all, seconds until the first stage was done, and the number of stages."""
    command = [sys.executable, "main.py", "--config", str(path), "--quiet", *arguments]
    started_at, started = time.time(), time.perf_counter()
    done = subprocess.run(
        command,
        cwd=HOME,
        env={**os.environ, "OMP_NUM_THREADS": threads},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    written = [p.stat().st_mtime for p in path.parent.glob("models/store/*.pth")]
    return seconds, min(written) - started_at, len(written)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    rounds, epochs = (1, 1) if quick else (3, 8)
    taken: dict[str, list[float]] = {side: [] for side in SIDES}
    first: dict[str, list[float]] = {side: [] for side in SIDES}
    stages = 0
    for number in range(rounds):
        for side, (threads, arguments) in SIDES.items():
            with tempfile.TemporaryDirectory() as name:
                path = write_suite(Path(name) / "run", ORDERS, epochs)
                seconds, until_first, stages = run(path, threads, arguments)
            taken[side].append(seconds)
            first[side].append(until_first)
            print(f"round {number + 1}: {side} {seconds:.1f} s", flush=True)
    print(json.dumps(environment(load_suite(HOME / "configs" / "quickstart.py").device)))
    print(
        f"\n{stages} stages{'':13}{'wall s (median)':>18}{'min':>8}{'max':>8}{'first stage s':>16}"
    )
    for side, times in taken.items():
        print(
            f"{side:22}{statistics.median(times):>18.1f}{min(times):>8.1f}{max(times):>8.1f}"
            f"{statistics.median(first[side]):>16.1f}"
        )
    one, two = taken.values()
    ratios = [a / b for a, b in zip(one, two, strict=True)]
    print(json.dumps({"throughput_vs_one_process": round(statistics.median(ratios), 3)}))


if __name__ == "__main__":
    main()
