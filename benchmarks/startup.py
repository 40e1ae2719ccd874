"""How long a command takes to answer, in turn with an older checkout and with the import of torch.

Run: python -m benchmarks.startup --against FOLDER [--rounds 5]
FOLDER is a checkout of another commit (`git worktree add FOLDER ea4b9de`). Both run the quickstart
once, each in a folder of its own (2 min in all); then every command is timed as a whole process,
one round after another, here and there in turn. About 6 min on 2 cores. The last line has how many
times as fast this checkout is by the medians, and its dry run and its cached rerun over the import
of torch alone.
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

from machine.processor import cpu_model

HOME = Path(__file__).parents[1]
SUITE = "configs/quickstart.py"
COMMANDS = {
    "help": ["--help"],
    "show": ["show", "Digits_P_F_Q"],
    "compare": ["compare", "Digits_P_F_Q", "Digits_Q"],
    "store_ls": ["store", "ls"],
    "report": ["--report"],
    "dry_run": ["--dry-run"],
    "cached": [],
}
OVER_IMPORT = ("dry_run", "cached")  # what has to import torch


def command(home: Path, words: list[str]) -> list[str]:
    """A command of the checkout `home`; its suite's folders begin where it runs."""
    return [sys.executable, str(home / "main.py"), *words, "--config", str(home / SUITE)]


def seconds(command: list[str], folder: Path) -> float:
    """Wall time of a process that must succeed."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    taken = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(
            f"{' '.join(command)} in {folder}: exit code {done.returncode}\n{done.stderr}"
        )
    return taken


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    if not (options.against / "main.py").is_file():
        parser.error(f"--against: {options.against} is no checkout; git worktree add makes one")
    sides = {"here": HOME, "there": options.against.resolve()}
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        for side, home in sides.items():
            (Path(folder) / side).mkdir()
            seconds(command(home, COMMANDS["cached"]), Path(folder) / side)
        for _ in range(options.rounds):
            taken = seconds([sys.executable, "-c", "import torch"], Path(folder))
            times.setdefault(("import torch", "here"), []).append(taken)
            for name, words in COMMANDS.items():
                for side, home in sides.items():
                    taken = seconds(command(home, words), Path(folder) / side)
                    times.setdefault((name, side), []).append(taken)
    median = {key: statistics.median(values) for key, values in times.items()}
    print(f"{cpu_model()}, {os.cpu_count()} cores, {options.rounds} rounds, seconds (least, most)")
    print("| command | here | there |\n|---|---|---|")
    for name in ("import torch", *COMMANDS):
        row = [
            f"{median[name, side]:.2f} ({min(times[name, side]):.2f}, {max(times[name, side]):.2f})"
            if (name, side) in times
            else ""
            for side in sides
        ]
        print(f"| {name} | {' | '.join(row)} |")
    ratios = {
        name: median[name, "there"] / median[name, "here"]
        for name in COMMANDS
        if name not in OVER_IMPORT
    }
    for name in OVER_IMPORT:
        ratios[f"{name}_vs_import"] = median[name, "here"] / median["import torch", "here"]
    print(json.dumps({name: round(ratio, 2) for name, ratio in ratios.items()}))


if __name__ == "__main__":
    main()
