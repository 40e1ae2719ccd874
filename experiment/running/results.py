"""`results/*.json`: what each experiment did, rewritten atomically after every stage."""

from __future__ import annotations

import json
import shlex
import sys
import traceback
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from experiment.running.executor import Done, Follower
from experiment.running.metrics import against, final_metrics, not_its_baseline, seeds_at_end
from experiment.suite.chains import Chain, Step, Stop
from experiment.suite.records import Experiment, Suite
from machine.environment import environment, git_commit
from machine.files import write_atomically, write_json

SUMMARY_NAME = "_all_experiments_summary.json"


class Results(Follower):
    """The JSON of one run of a suite, written after every stage."""

    def __init__(self, suite: Suite, chains: list[Chain]):
        self.folder, self.checkpoints = suite.results_dir, suite.model_dir
        self.chains = chains
        shared = {
            "suite": suite.source,
            "command": shlex.join(["python", *sys.argv]),
            "git_commit": git_commit(),
            "environment": environment(suite.device),
            "started": _now(),
        }
        self.shared = shared
        names = {experiment.name for experiment in suite.experiments}
        self.others = _earlier_results(suite.results_dir, names)
        self.experiments: dict[str, dict[str, Any]] = {
            experiment.name: {
                "experiment": experiment.name,
                "status": "waiting",
                "baseline": experiment.baseline,
                "config": experiment.config(),
                "data": experiment.data.plain(),
                "seeds": list(experiment.seeds),
                "stages": [],
                "final": {},
                "errors": [],
                "stopped": [],
                "remarks": list(experiment.remarks),
                **shared,
            }
            for experiment in suite.experiments
        }

    def path(self, experiment: str) -> Path:
        return self.folder / _file_of(experiment)

    def begin(self, chain: Chain) -> None:
        if self.of(chain)["status"] == "waiting":  # a failed seed is not forgotten over the next
            self.of(chain)["status"] = "running"

    def stage_done(self, chain: Chain, done: Done) -> None:
        """Note a finished stage; one that was computed now is written out at once."""
        step, record = done.step, done.record
        kept = [
            "stage",
            "key",
            "parent",
            "parent_sha256",
            "checkpoint_sha256",
            "seconds",
            "resumed",
            "metrics",
            "quant",
            "exits",
            "details",
            "finished",
        ]
        entry = {name: record[name] for name in kept} | {
            # None: made before these were noted
            "precision": record.get("precision"),
            "measuring_seconds": record.get("measuring_seconds"),
            "crowded_share": record.get("crowded_share"),
            "seed": step.seed,
            "cached": done.cached,
            "checkpoint": str(self.checkpoints / f"{step.checkpoint}.pth"),
            "spec": step.spec.settings(),
        }
        self.of(chain)["stages"].append(entry)
        if not done.cached:  # the chain's end writes what the store had
            self.write(chain.experiment.name)

    def finish(self, chain: Chain) -> None:
        """A chain ran to its end."""
        self._end(chain)

    def stopped(self, chain: Chain, stop: Stop) -> None:
        """A chain was not worth going on with, by its own words; that is no failure."""
        self.of(chain)["stopped"].append(
            {"seed": chain.seed, "stage": stop.step.stage, "why": stop.why}
        )
        self._end(chain)

    def _end(self, chain: Chain) -> None:
        """The experiment is done with its last seed, or stopped where one of them was."""
        result = self.of(chain)
        result["final"] = final_metrics(result)
        if result["status"] == "running" and chain.seed == chain.experiment.seeds[-1]:
            result["status"] = "stopped" if result["stopped"] else "done"
        self.write(chain.experiment.name)

    def fail(self, chain: Chain, step: Step, error: BaseException) -> None:
        """Record a failed stage; the traceback goes to a file beside the JSON."""
        trace = self.folder / f"{chain.experiment.name}_traceback.txt"
        write_atomically(
            trace, "".join(traceback.format_exception(error)).encode(errors="backslashreplace")
        )
        result = self.of(chain)
        result["status"] = "failed"
        result["errors"].append(
            {
                "seed": chain.seed,
                "stage": step.stage,
                "error": type(error).__name__,
                "message": str(error),
                "traceback_file": str(trace),
            }
        )
        self.write(chain.experiment.name)

    def skip(self, chain: Chain, reason: str) -> None:
        result = self.of(chain)
        result["status"] = "skipped" if not result["stages"] else "failed"
        result["errors"].append({"seed": chain.seed, "stage": None, "message": reason})
        self.write(chain.experiment.name)

    def interrupt(self) -> None:
        """Mark what was running or waiting when the user stopped the run."""
        for name, result in self.experiments.items():
            if result["status"] in ("running", "waiting"):
                result["status"] = "interrupted"
                self.write(name)

    def failures(self) -> list[str]:
        """Names of the experiments that came neither to their end nor to their `stop_if`."""
        ends = ("done", "stopped")
        return [name for name, r in self.experiments.items() if r["status"] not in ends]

    def of(self, chain: Chain) -> dict[str, Any]:
        return self.experiments[chain.experiment.name]

    def write(self, experiment: str) -> None:
        result = self.experiments[experiment]
        result["written"] = _now()
        if result["status"] != "interrupted" or result["stages"]:
            write_json(self.path(experiment), result)
        write_json(self.folder / SUMMARY_NAME, self.summary())

    def summary(self) -> dict[str, Any]:
        """One row an experiment, with its change against its baseline.

        Those that other runs left in the folder come first.
        """
        rows = []
        everything = {**self.others, **self.experiments}
        for name, result in everything.items():
            row = {
                "experiment": name,
                "status": result["status"],
                "baseline": result["baseline"],
                "sequence": [stage for item in result["config"]["sequence"] for stage in item],
                "seeds": result["seeds"],
                "final": result["final"],
                "errors": result["errors"],
                "stopped": result.get("stopped", []),  # not in older files
                "results_file": self.path(name).name,
            }
            if result["baseline"] is not None and result["final"]:
                base = everything.get(result["baseline"])
                reason = not_its_baseline(result, base)
                if base is not None and reason is None:
                    # of the chain's own seeds, so that seeds do not count as a change
                    its = final_metrics(base, seeds_at_end(result))
                    row["against_baseline"] = against(result["final"], its)
                else:
                    row["not_compared"] = reason
            rows.append(row)
        return {**self.shared, "written": _now(), "experiments": rows}


def _earlier_results(folder: Path, names: set[str]) -> dict[str, dict[str, Any]]:
    """Results that other runs wrote into the folder; what is no such file is passed over."""
    found = {}
    for path in sorted(folder.glob("*_results.json")):
        try:
            result = json.loads(path.read_text())
            if result["experiment"] not in names and path.name == _file_of(result["experiment"]):
                final_metrics(result)
                found[result["experiment"]] = result
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def _file_of(experiment: str) -> str:
    return f"{experiment}_results.json"


def experiment_sequence(experiment: Experiment) -> str:
    return " → ".join(name for name, _ in experiment.sequence)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
