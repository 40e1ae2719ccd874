"""What the user sees while a suite runs: settings, plan, each stage's figures, a closing table."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.text import Text
from rich.tree import Tree

from experiment.running.console import Console, NoTerminal
from experiment.running.executor import Done, Follower
from experiment.running.metrics import FIGURES, FOOTPRINT, LATENCIES, moved_times, summarised
from experiment.running.progress import Forecast, Progress
from experiment.running.results import SUMMARY_NAME, Results, experiment_sequence
from experiment.running.store import Store
from experiment.running.tables import (
    BESIDE_BASELINE,
    STATUS_STYLE,
    TableRow,
    cell,
    headings,
    number,
    options,
    shown_columns,
)
from experiment.suite.chains import Chain, Step, Stop
from experiment.suite.records import Suite
from experiment.suite.stop_if import stop_in_words
from model import HYBRID, architecture_of

NOTEWORTHY_SHARE = 0.1  # of a stage's time beside other work, from which on it is told


class RunView(Follower):
    """Shows a run on a console as it goes; if `brief`, only chains with something to be run."""

    def __init__(self, console: Console, *, brief: bool = False) -> None:
        self.console, self.brief = console, brief
        self.silent = False  # about the present chain, of which all is stored
        self.progress: Progress | None = None

    @contextmanager
    def following(self, chains: list[Chain], store: Store) -> Iterator[None]:
        """Inside, these chains run: a bar over them all, below it those of a stage."""
        quiet = contextlib.redirect_stderr(NoTerminal(sys.stderr))  # where bars find no terminal
        with quiet if self.console.quiet else contextlib.nullcontext():
            self.progress = self.console.progress = Progress(chains, store)
            try:
                yield
            finally:
                self.progress.close()
                self.progress = self.console.progress = None

    def settings(self, suite: Suite, environment: dict[str, Any], chains: list[Chain]) -> None:
        """The global settings, before the first experiment."""
        if self.brief:
            return
        isa = " ".join(environment["isa"]) or "none of int8/bf16"
        self.console.say(f"suite       {suite.source}: {len(suite.experiments)} experiments")
        self.console.say(
            f"device      {environment['device']}, {environment['threads']} threads "
            f"({environment['waiting']}), {isa}"
        )
        self.console.say(f"torch       {environment['torch']}, Python {environment['python']}")
        self.console.say(
            f"folders     data {suite.data_dir} | checkpoints {suite.model_dir} | "
            f"results {suite.results_dir}"
        )
        stages = {step.key for chain in chains for step in chain.steps}
        self.console.say(f"stages      {len(stages)} different ones in {len(chains)} chains")
        self.data(chains)
        self.remarks(suite)

    def data(self, chains: list[Chain]) -> None:
        """A line for each data set, and what to know of it."""
        for data in dict.fromkeys(chain.experiment.data for chain in chains):
            self.console.say(f"data        {data.name}: {data.summary()}")
            for warning in data.warnings:
                self.console.show(Text(f"{data.name}: warning: {warning}", style="yellow"))

    def remarks(self, suite: Suite) -> None:
        """What the check of the suite found odd."""
        for remark in suite.remarks():
            self.console.warn(remark)

    def begin(self, chain: Chain) -> None:
        self.console.chain, experiment = chain.name, chain.experiment
        data, model, training = experiment.data, experiment.model_args, experiment.training
        where = f"  ({self.progress.begin_chain()})" if self.progress is not None else ""
        stored = self.progress is not None and not self.progress.lacks(chain)
        self.silent = self.brief and stored
        if self.silent or self.console.quiet:
            return
        self.console.say("")
        self.console.show(Text.assemble((f"━━ {chain.name}", "bold"), where))
        start = f"from {experiment.baseline}: " if experiment.baseline else ""
        self.console.say(f"   {start}{experiment_sequence(experiment)}{_may_be_stopped(chain)}")
        self.console.say(
            f"   {data.name}, {len(data.classes)} classes, {data.in_channels}×{data.image_size[0]}×"
            f"{data.image_size[1]} | {network_in_words(model)} | batch "
            f"{training.batch_size}, {training.optimizer}, {training.scheduler}, seed {chain.seed}"
        )

    def stage(self, chain: Chain, position: int, step: Step) -> None:
        if self.progress is not None:
            self.progress.begin_stage(step)
        if self.silent:
            return
        options = spec_differences(step)
        self.console.say(f"   [{position + 1}/{len(chain.steps)}] {step.stage} {options}".rstrip())
        for warning in step.spec.warnings():
            self.console.warn(warning)

    def stage_done(self, chain: Chain, done: Done) -> None:
        """The stage's numbers, and the baseline's beside them."""
        step, record, cached, baseline = done
        if self.progress is not None:
            self.progress.end_stage(step, None if cached else record)
        if self.silent:
            return
        metrics = record["metrics"]
        reference = baseline["metrics"] if baseline else None
        how = "from the store" if cached else f"{record['seconds']:.1f} s"
        if not cached and record["crowded_share"] >= NOTEWORTHY_SHARE:
            how += f", {record['crowded_share']:.0%} of it beside other work"
        line = (
            f"       accuracy {metrics['accuracy']:.2f} %{_points(metrics, reference)}"
            f"{_balanced(metrics, reference)}"
            f" | validation {metrics['validation']['accuracy']:.2f} %"
            f" | loss {number(metrics['loss'], 4)}"
            f" | {metrics['model_size_mb']:.3f} MB{_ratio(metrics, reference, 'model_size_mb')}"
            f" | nonzero {metrics['nonzero_params'] / 1e3:.1f} of {metrics['params'] / 1e3:.1f} k"
            f" | {metrics['macs'] / 1e6:.2f} M MACs"
            f" | {_measured_here(metrics)}"
        )
        self.console.say(f"{line} | {how}")
        shown = step.spec.warnings()  # before the stage ran
        own = [text for text in record["details"].get("warnings", []) if text not in shown]
        moved = moved_times(metrics, reference) if reference is not None else None
        for warning in [*own, *metrics.get("warnings", []), *([moved] if moved else [])]:
            if not (cached and self.console.quiet):  # it was shown when the stage ran
                self.console.warn(warning)

    def stopped(self, chain: Chain, stop: Stop) -> None:
        if self.progress is not None:
            self.progress.leave_out(chain, chain.steps.index(stop.step) + 1)
        if not (self.silent or self.console.quiet):  # which the closing lines tell of as well
            text = f"   stopped after {stop.step.stage}: {stop.why}"
            self.console.show(Text(text, style=STATUS_STYLE["stopped"]))

    def fail(self, chain: Chain, step: Step, error: BaseException) -> None:
        if self.progress is not None:
            self.progress.give_up(chain, chain.steps.index(step))
        where = f"{chain.name}: " if self.console.quiet else "   "
        text = f"{where}FAILED in {step.stage}: {type(error).__name__}: {error}"
        self.console.show(Text(text, style="red"))

    def skip(self, chain: Chain, reason: str) -> None:
        if self.progress is not None:
            self.progress.give_up(chain)
        where = f"{chain.name}: " if self.console.quiet else "   "
        self.console.show(Text(f"{where}skipped: {reason}", style="yellow"))

    def at_once(self, stages: int) -> None:
        if self.progress is not None:
            self.progress.at_once = stages

    def done_by_worker(self, step: Step) -> None:
        if self.progress is not None:
            self.progress.computed(step)

    def closing(self, results: Results) -> None:
        """The summary table over all experiments."""
        everything, ran = results.summary()["experiments"], results.experiments.keys()
        rows = [row for row in everything if row["experiment"] in results.experiments]
        table = []
        names = shown_columns([row["final"] for row in rows])
        for row in rows:
            change = row.get("against_baseline", {})
            figures = [cell(row["final"], change, name) for name in names]
            status = Text(row["status"], style=STATUS_STYLE.get(row["status"], ""))
            about = row["experiment"], " → ".join(row["sequence"])
            table.append(TableRow(about, [*figures, status]))
        self.console.say("")
        self.console.figures(
            f"Results ({BESIDE_BASELINE})",
            ("experiment", "stages"),
            (*headings(names), "status"),
            table,
        )
        for row in everything:  # an earlier run's chain may have lost its baseline to this run
            if "not_compared" in row and {row["experiment"], row["baseline"]} & ran:
                self.console.note(f"{row['experiment']}: no change shown: {row['not_compared']}")
        for row in rows:
            for error in row["errors"]:
                self.console.note(f"{row['experiment']}: {row['status']}: {error['message']}")
            for entry in row["stopped"]:
                words = stop_in_words(entry, of_several=len(row["seeds"]) > 1)
                self.console.note(f"{row['experiment']}: {words}")
        self.console.note(
            f"written to {results.folder}/: one JSON an experiment, and {SUMMARY_NAME}"
        )

    def dry_run(self, chains: list[Chain], store: Store) -> None:
        """The plan as a tree: what shares a beginning hangs on one branch."""
        root = Tree("plan")
        branches: dict[str | None, Tree] = {None: root}
        counts = {"cached": 0, "resumable": 0, "to run": 0}
        records = {record["key"]: record for record in store.records()}
        known, forecast = 0.0, Forecast(records.values())
        for chain in chains:
            stop, ahead = chain.stopped(records.get), chain.ahead(records.get)
            end = _may_be_stopped(chain)
            if stop is not None:
                end = f", stopped after {stop.step.stage}: {stop.why}"
            for step in ahead:
                if step.key not in branches:
                    status = _status(step, store)
                    counts[status] += 1
                    note = ""
                    expected = forecast.seconds(step)
                    if status != "cached" and expected is not None:
                        known += expected
                        note = f" ≈ {expected:.0f} s"
                    text = f"{step.stage} {spec_differences(step)} [{status}{note}]"
                    parent = branches.get(step.parent, root)
                    branches[step.key] = parent.add(
                        Text(f"{text} → {store.folder}/{step.checkpoint}.pth")
                    )
            branches[ahead[-1].key].add(Text(f"= {chain.name}{end}", style="bold"))
        self.data(chains)
        self.console.show(root)
        line = ", ".join(f"{count} {status}" for status, count in counts.items())
        self.console.note(f"{line}{f'; about {known:.0f} s by earlier runs' if known else ''}")
        self.console.note("dry run: nothing was trained or written")


def _status(step: Step, store: Store) -> str:
    if store.has(step.key):
        return "cached"
    return "resumable" if store.snapshot(step.key).exists() else "to run"


def _may_be_stopped(chain: Chain) -> str:
    """What a plan says of a chain's `stop_if`; nothing where it has none."""
    stop_if = chain.experiment.stop_if
    return f", stopped if {stop_if}" if stop_if.bounds else ""


def network_in_words(model_args: dict[str, Any]) -> str:
    """A network in half a line: 'serial, CNN [16, 32], 2 layers of width 64'."""
    if architecture_of(model_args) == HYBRID:
        return (
            f"{model_args['fusion']}, CNN {model_args['cnn_channels']}, "
            f"{model_args['num_layers']} layers of width {model_args['embed_dim']}"
        )
    known = ("architecture", "image_size", "in_channels", "num_classes", "exits", "shapes")
    own = {k: v for k, v in model_args.items() if k not in known and v is not None}
    return ", ".join([architecture_of(model_args), *(f"{k} {v}" for k, v in own.items())])


def spec_differences(step: Step) -> str:
    return options(step.spec.settings(), step.experiment.training.model_dump())


def _points(
    metrics: dict[str, Any], reference: dict[str, Any] | None, name: str = "accuracy"
) -> str:
    if reference is None or name not in reference:
        return ""
    return f" ({metrics[name] - reference[name]:+.2f})"


def _balanced(metrics: dict[str, Any], reference: dict[str, Any] | None) -> str:
    """The mean over classes, where these are of unequal sizes."""
    name = "balanced_accuracy"
    if name not in metrics:
        return ""
    return f", balanced {metrics[name]:.2f} %{_points(metrics, reference, name)}"


def _ratio(metrics: dict[str, Any], reference: dict[str, Any] | None, name: str) -> str:
    return f" (×{metrics[name] / reference[name]:.2f})" if reference and reference[name] else ""


def _measured_here(metrics: dict[str, Any]) -> str:
    """What this machine takes: 'ms at 1: 0.502 onnxruntime (×0.77 of openvino), ...'."""
    stats = summarised([metrics])
    told = []
    for name in (name for name in (*LATENCIES, *FOOTPRINT) if name in stats):
        ratio = stats[name].get("ratio")
        change = {f"{name}_ratio": ratio} if ratio else {}
        told.append(f"{FIGURES[name].heading}: {cell(stats, change, name)}")
    return ", ".join(told) or "not timed"
