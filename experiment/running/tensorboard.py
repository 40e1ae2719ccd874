"""`--tensorboard`: curves of every stage, its figures, and hparams with the chain's final metrics.

Look at them with `tensorboard --logdir RESULTS_DIR/tensorboard`: a run for each chain and seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiment.running.executor import Done, Follower
from experiment.running.metrics import measured
from experiment.running.results import Results
from experiment.suite.chains import Chain
from experiment.suite.messages import ConfigError
from machine.files import shown

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


FOLDER = "tensorboard"


class Board(Follower):
    """Writes what `results` hold. Raises ConfigError where tensorboard cannot be imported."""

    def __init__(self, results: Results):
        try:
            import torch.utils.tensorboard  # noqa: F401
        except Exception as error:  # whatever a half-installed package raises
            raise ConfigError([f"--tensorboard: {error}; pip install tensorboard"]) from None
        self.results, self.folder = results, results.folder / FOLDER
        self.written: dict[Path, int] = {}  # run → its stages that are in

    def stage_done(self, chain: Chain, done: Done) -> None:
        self.write(self.results.of(chain))

    def write(self, result: dict[str, Any]) -> None:
        """Bring an experiment's runs up to date. What an earlier suite wrote there goes."""
        from torch.utils.tensorboard import SummaryWriter

        for seed in result["seeds"]:
            stages = [stage for stage in result["stages"] if stage["seed"] == seed]
            name = result["experiment"] + (f"_seed{seed}" if len(result["seeds"]) > 1 else "")
            folder = self.folder / name
            before = self.written.get(folder, 0)
            if len(stages) == before:
                continue
            if before == 0:
                for path in folder.glob("events.out.tfevents.*"):
                    path.unlink()
            with SummaryWriter(str(folder)) as writer:
                for position in range(before, len(stages)):
                    _write_stage(writer, position + 1, stages[position])
                if len(stages) == len(result["config"]["sequence"]):
                    final = {f"final/{k}": v for k, v in measured(stages[-1]["metrics"]).items()}
                    writer.add_hparams(hparams(result["config"], seed), final, run_name=".")
            self.written[folder] = len(stages)


def _write_stage(writer: SummaryWriter, position: int, stage: dict[str, Any]) -> None:
    """Curves against the epoch, and the stage's figures against its place in the chain."""
    for row in stage["details"].get("history", []):
        for name, value in row.items():
            if name != "epoch" and value is not None:
                writer.add_scalar(f"{position}_{stage['stage']}/{name}", value, row["epoch"])
    for name, value in measured(stage["metrics"]).items():
        writer.add_scalar(f"stages/{name}", value, position)


def hparams(config: dict[str, Any], seed: int) -> dict[str, bool | int | float | str]:
    """An experiment's configuration, flat: its sequence, every section's and stage's options."""
    stages = [pair for item in config["sequence"] for pair in item.items()]
    flat = {"sequence": " → ".join(name for name, _ in stages), "seed": seed}
    for section in ("dataset_args", "model_args", "training_args", "deployment_args"):
        flat |= {f"{section}.{key}": value for key, value in config[section].items()}
    for position, (name, spec) in enumerate(stages, 1):
        flat |= {f"{position}_{name}.{key}": value for key, value in spec.items()}
    return {
        key: value if isinstance(value, bool | int | float) else shown(str(value))
        for key, value in flat.items()
        if value is not None
    }
