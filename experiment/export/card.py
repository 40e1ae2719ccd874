"""The model card of a bundle: what its network is, how good, how fast, how made, and its limits."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from experiment.export.compare import FileComparison, Subject
from experiment.running.metrics import FIGURES, metric, ratio_in_turn
from experiment.suite.chains import Step

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Origin:
    """Where a bundle's network comes from, for its card."""

    steps: Sequence[Step]  # from the float baseline's first to its own
    metrics: dict[str, Any]  # of its record
    baseline: dict[str, Any] | None  # those of the float baseline; None where it is one itself
    command: str  # that makes it anew


def card(subject: Subject, origin: Origin, engine: str, file: str, found: FileComparison) -> str:
    """Markdown. `engine` is whose file the bundle holds, `found` how that compares."""
    about, metrics = subject.about, origin.metrics
    times = metrics["inference_time_ms"]
    images = metrics["validation"]["images"]
    machines = dict.fromkeys(_machine(time) for time in times.values())
    layers = f"{found.int8_layers} of {subject.int8_layers} int8 layers ran in int8 there."
    return _template().render(
        about=about,
        classes=len(json.loads(about["classes"])),
        size="×".join(map(str, json.loads(about["image_size"]))),
        file=file,
        batch=about.get("batch"),
        baseline=origin.baseline and origin.steps[0].experiment.name,
        figures=list(_figures(metrics, origin.baseline)),
        splits=f"Accuracy is of {len(subject.test.index)} test images, which chose nothing; "
        f"validation accuracy of {images} images of the training data.",
        times=[_row(batch, metrics, origin.baseline is not None) for batch in times],
        machine="; ".join(machines),
        engine=engine,
        stages=[(step.stage, _options(step.spec.settings())) for step in origin.steps],
        fingerprint=origin.steps[-1].settings["data"]["fingerprint"],
        command=origin.command,
        found=found,
        int8=layers if subject.int8_layers and found.int8_layers is not None else "",
        limits=_limits(subject, engine),
    )


def _figures(metrics: dict[str, Any], baseline: dict[str, Any] | None) -> Any:
    for name, figure in FIGURES.items():
        value = metric(metrics, name)
        if value is not None and not figure.timed:
            theirs = metric(baseline, name) if baseline else None
            yield figure.label, figure.text(value), "–" if theirs is None else figure.text(theirs)


def _row(batch: str, metrics: dict[str, Any], compared: bool) -> list[str]:
    time = metrics["inference_time_ms"][batch]
    ratio = ratio_in_turn(metrics, f"latency_ms_{batch}")
    its = f" (by {time['baseline_engine']})" if "baseline_engine" in time else ""
    speedup = [f"{1 / ratio:.2f}{its}" if ratio else "–"] if compared else []
    cells = batch.removeprefix("batch_"), f"{time['median']:.3f}", f"{time['p95']:.3f}"
    return [*cells, time.get("engine", "–"), *speedup]


def _machine(time: dict[str, Any]) -> str:
    flags = f" ({' '.join(time['isa'])})" if time["isa"] else ""
    return f"{time['device']}{flags}, {time['threads']} threads"


def _options(settings: dict[str, Any]) -> str:
    """As they are written in a config; a bar would end the table's cell."""
    return f"`{json.dumps(settings, ensure_ascii=False)}`".replace("|", "\\|")


def _limits(subject: Subject, engine: str) -> list[str]:
    about = subject.about
    limits = [
        f"It knows its {len(json.loads(about['classes']))} classes alone, and gives one of them to "
        "any picture.",
        f"Its accuracy is that on {about['dataset']}; pictures from elsewhere may fare worse.",
        "Probabilities are the network's own and were not calibrated: take them for a ranking.",
        f"It was trained once, with seed {about['seed']}; another seed gives another accuracy.",
        "Times hold for the machine that is named; on another one another engine may be fastest.",
    ]
    if engine == "inductor":
        limits.append(
            "network.pt2 is machine code for the kind of processor that made it, for "
            f"{about['threads']} threads, and runs in the pinned version of torch alone."
        )
    if about["needs_vnni"] == "true":
        limits.append(
            "It needs an x86 processor with VNNI (AVX512-VNNI or AVX-VNNI): without it sums of "
            "int8 products are cut off, and classes may be wrong; classify.py says so there."
        )
    elif about["weights"] == "int8":
        limits.append("It does not need VNNI: its weights or activations have 7 bits.")
    return limits


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("card.md.j2")
