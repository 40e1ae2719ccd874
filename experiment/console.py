"""What the user sees while a suite runs: settings, plan, each stage's figures, a closing table."""

from __future__ import annotations

import statistics
from typing import Any

from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text
from rich.tree import Tree
from tqdm import tqdm

from experiment.chain import Chain, Step
from experiment.results import SUMMARY_NAME, Results, experiment_sequence
from experiment.schema import Suite
from experiment.store import Store

STATUS_STYLE = {"done": "green", "failed": "red", "skipped": "yellow", "interrupted": "yellow"}


class Console:
    """All printing of a run goes through here, so that bars and lines do not tear each other."""

    def __init__(self) -> None:
        self.rich = RichConsole(highlight=False, soft_wrap=True)
        if not self.rich.is_terminal:
            self.rich.width = 160  # a log file has no width; rich would guess 80

    def say(self, text: str) -> None:
        """A line as it is, above any running bar."""
        with tqdm.external_write_mode():
            self.rich.print(Text(text))

    def settings(self, suite: Suite, environment: dict[str, Any], chains: list[Chain]) -> None:
        """The global settings, before the first experiment."""
        isa = " ".join(environment["isa"]) or "none of int8/bf16"
        self.say(f"suite       {suite.source}: {len(suite.experiments)} experiments")
        self.say(f"device      {environment['device']}, {environment['threads']} threads, {isa}")
        self.say(f"torch       {environment['torch']}, Python {environment['python']}")
        self.say(
            f"folders     data {suite.data_dir} | checkpoints {suite.model_dir} | "
            f"results {suite.results_dir}"
        )
        stages = {step.key for chain in chains for step in chain.steps}
        self.say(f"stages      {len(stages)} different ones in {len(chains)} chains")

    def begin(self, chain: Chain) -> None:
        experiment = chain.experiment
        data, model, training = experiment.data, experiment.model_args, experiment.training
        self.say("")
        self.rich.print(Text(f"━━ {chain.name}", style="bold"))
        start = f"from {experiment.baseline}: " if experiment.baseline else ""
        self.say(f"   {start}{experiment_sequence(experiment)}")
        self.say(
            f"   {data.name}, {len(data.classes)} classes, {data.in_channels}×{data.image_size[0]}×"
            f"{data.image_size[1]} | {model['fusion']}, CNN {model['cnn_channels']}, "
            f"{model['num_layers']} layers of width {model['embed_dim']} | batch "
            f"{training.batch_size}, {training.optimizer}, {training.scheduler}, seed {chain.seed}"
        )

    def stage(self, chain: Chain, position: int, step: Step) -> None:
        options = _spec_differences(step)
        self.say(f"   [{position + 1}/{len(chain.steps)}] {step.stage} {options}".rstrip())
        for warning in step.spec.warnings():
            self.warn(warning)

    def warn(self, text: str) -> None:
        with tqdm.external_write_mode():
            self.rich.print(Text(f"       warning: {text}", style="yellow"))

    def stage_done(
        self, step: Step, record: dict[str, Any], cached: bool, baseline: dict[str, Any] | None
    ) -> None:
        """The stage's numbers, and the baseline's beside them."""
        metrics = record["metrics"]
        reference = baseline["metrics"] if baseline else None
        how = "from the store" if cached else f"{record['seconds']:.1f} s"
        line = (
            f"       accuracy {metrics['accuracy']:.2f} %{_points(metrics, reference)}"
            f" | loss {_number(metrics['loss'], 4)}"
            f" | {metrics['model_size_mb']:.3f} MB{_ratio(metrics, reference, 'model_size_mb')}"
            f" | nonzero {metrics['nonzero_params'] / 1e3:.1f} of {metrics['params'] / 1e3:.1f} k"
            f" | {metrics['macs'] / 1e6:.2f} M MACs"
            f" | {_latency(metrics, 1):.3f} ms at 1, {_latency(metrics, 64):.2f} ms at 64"
        )
        if reference is not None:
            line += f" (baseline {_latency(reference, 1):.3f}, {_latency(reference, 64):.2f})"
        self.say(f"{line} | {how}")
        for warning in metrics.get("warnings", []):
            self.warn(warning)

    def failed(self, chain: Chain, step: Step, error: BaseException) -> None:
        text = f"   FAILED in {step.stage}: {type(error).__name__}: {error}"
        self.rich.print(Text(text, style="red"))

    def skipped(self, chain: Chain, reason: str) -> None:
        self.rich.print(Text(f"   skipped: {reason}", style="yellow"))

    def closing(self, results: Results) -> None:
        """The summary table over all experiments."""
        table = Table(title="Results (change against the baseline)", title_justify="left")
        table.add_column("experiment", overflow="fold", min_width=12)
        table.add_column("stages", overflow="fold")
        for heading in ("accuracy %", "size MB", "M BitOps", "ms at 1", "ms at 64"):
            table.add_column(heading, justify="right")
        table.add_column("status")
        rows = results.summary()["experiments"]
        rows = [row for row in rows if row["experiment"] in results.experiments]
        for row in rows:
            final, change = row["final"], row.get("against_baseline", {})
            cells = [
                _cell(final, "accuracy", 1, 2, change.get("accuracy_points"), points=True),
                _cell(final, "model_size_mb", 1, 3, change.get("model_size_mb_ratio")),
                _cell(final, "bitops", 1e6, 0, change.get("bitops_ratio")),
                _cell(final, "latency_ms_batch_1", 1, 3, change.get("latency_ms_batch_1_ratio")),
                _cell(final, "latency_ms_batch_64", 1, 2, change.get("latency_ms_batch_64_ratio")),
            ]
            status = Text(row["status"], style=STATUS_STYLE.get(row["status"], ""))
            table.add_row(row["experiment"], " → ".join(row["sequence"]), *cells, status)
        self.say("")
        self.rich.print(table)
        for row in rows:
            for error in row["errors"]:
                self.say(f"{row['experiment']}: {row['status']}: {error['message']}")
        self.say(f"written to {results.folder}/: one JSON an experiment, and {SUMMARY_NAME}")

    def dry_run(self, chains: list[Chain], store: Store) -> None:
        """The plan as a tree: what shares a beginning hangs on one branch."""
        root = Tree("plan")
        branches: dict[str | None, Tree] = {None: root}
        counts = {"cached": 0, "resumable": 0, "to run": 0}
        known, seconds = 0.0, _seconds_by_stage(store)
        for chain in chains:
            for position, step in enumerate(chain.steps):
                if step.key not in branches:
                    status = _status(step, store)
                    counts[status] += 1
                    note = ""
                    if status != "cached" and step.stage in seconds:
                        expected = seconds[step.stage] * getattr(step.spec, "epochs", 1)
                        known += expected
                        note = f" ≈ {expected:.0f} s"
                    text = f"{step.stage} {_spec_differences(step)} [{status}{note}]"
                    parent = branches.get(step.parent, root)
                    branches[step.key] = parent.add(
                        Text(f"{text} → {store.folder}/{step.checkpoint}.pth")
                    )
                if position == len(chain.steps) - 1:
                    branches[step.key].add(Text(f"= {chain.name}", style="bold"))
        self.rich.print(root)
        line = ", ".join(f"{count} {status}" for status, count in counts.items())
        self.say(f"{line}{f'; about {known:.0f} s by earlier runs' if known else ''}")
        self.say("dry run: nothing was trained or written")


def _status(step: Step, store: Store) -> str:
    if store.has(step.key):
        return "cached"
    return "resumable" if store.snapshot(step.key).exists() else "to run"


def _seconds_by_stage(store: Store) -> dict[str, float]:
    """Median seconds of each kind of stage in the store, an epoch where it has epochs."""
    spent: dict[str, list[float]] = {}
    for record in store.records():
        epochs = record["settings"]["spec"].get("epochs", 1)
        spent.setdefault(record["stage"], []).append(record["seconds"] / epochs)
    return {stage: statistics.median(values) for stage, values in spent.items()}


def _spec_differences(step: Step) -> str:
    """The options of a stage that tell most: what it has and training_args has not."""
    training = step.experiment.training.model_dump()
    return " ".join(
        f"{name}={value}"
        for name, value in step.spec.settings().items()
        if training.get(name) != value
        and value not in ([], None)
        and not (name == "precision" and training[name] == "auto")
    )


def _number(value: float | None, digits: int) -> str:
    return "not finite" if value is None else f"{value:.{digits}f}"


def _points(metrics: dict[str, Any], reference: dict[str, Any] | None) -> str:
    return f" ({metrics['accuracy'] - reference['accuracy']:+.2f})" if reference else ""


def _ratio(metrics: dict[str, Any], reference: dict[str, Any] | None, name: str) -> str:
    return f" (×{metrics[name] / reference[name]:.2f})" if reference and reference[name] else ""


def _latency(metrics: dict[str, Any], batch: int) -> float:
    return metrics["inference_time_ms"][f"batch_{batch}"]["median"]


def _cell(
    final: dict[str, Any],
    name: str,
    scale: float,
    digits: int,
    change: float | None,
    points: bool = False,
) -> str:
    if name not in final:
        return "–"
    mean, std, n = final[name]["mean"], final[name]["std"], final[name]["n"]
    text = f"{mean / scale:,.{digits}f}"
    if std is not None:
        text += f" ± {std / scale:,.{digits}f} ({n})"
    if change is not None:
        text += f" ({change:+.2f})" if points else f" (×{change:.2f})"
    return text
