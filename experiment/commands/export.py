"""`python main.py export EXPERIMENT --format onnx|onnx-int8|aoti|openvino`: a network as files.

What is written is read again by its own runtime and compared with the network on the test split.
`--bundle` writes the file of the fastest engine with all that runs it without this project.
"""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.table import Table

from dataset import load_dataset
from engines import ENGINES
from experiment.commands.parser import Parser, suite_options
from experiment.export.about import describe
from experiment.export.bundle import BUNDLE, FACTS, facts, held, kind, write_bundle
from experiment.export.card import Origin
from experiment.export.compare import (
    ExportError,
    FileComparison,
    Subject,
    compare_file,
    export,
    reference,
)
from experiment.export.formats import FORMATS, missing
from experiment.outcomes.wish import Limit, parse_limit
from experiment.running.console import Console
from experiment.running.store import Store
from experiment.suite.chains import Chain, Step, plan
from experiment.suite.messages import ConfigError, stop_at
from experiment.suite.schema import load_suite
from methods.casting import FLOAT32
from methods.quantization.record import needs_vnni
from stages.deployment import deploy
from stages.stage import Context
from stages.state import ModelState


class Wanted(NamedTuple):
    """A file to be written."""

    format: str  # a key of FORMATS
    batch: int | None  # where it is fixed
    path: Path

    def is_there(self, about: dict[str, str]) -> bool:
        """Whether the file is there and says the same of itself. Raises ConfigError for another."""
        if not self.path.exists():
            return False
        try:
            found = FORMATS[self.format].read(self.path).about
        except Exception:  # whatever a runtime says of a file that is not its own
            found = {}
        if {**found, **self.about(about)} == found:
            return True
        what = f"{found['experiment']} {found['key'][:12]}" if "key" in found else "something else"
        raise ConfigError(
            [f"export: {self.path} is there and holds {what}; remove it, add --overwrite, or "
             "choose another folder with --output"]
        )  # fmt: skip

    def about(self, about: dict[str, str]) -> dict[str, str]:
        if self.batch is None:
            return about
        return {**about, "batch": str(self.batch), "threads": str(torch.get_num_threads())}


def export_command(arguments: list[str], console: Console) -> int:
    """Run the subcommand; returns the exit code: 1 where a file is not what it should be."""
    args = _parser().parse_args(arguments)
    _check_command(args)
    limits = [parse_limit(part.strip(), FACTS, "export --if") for part in _parts(args.limits)]
    suite = load_suite(args.config, overrides=args.set, only=[args.experiment])
    chain = _chain([c for c in plan(suite) if c.experiment.name == args.experiment], args.seed)
    step = _step(chain, args.stage)
    store = Store(suite.model_dir, console.say)
    _check_not_stopped(chain, step, store)
    stored = store.load(step.key)
    if stored is None:
        what = f"export: {step.label} is not in the store; run it first: {_run(args)}"
        raise ConfigError([what])
    state, record = stored
    _check_state(args, step, state)
    dataset = load_dataset(chain.experiment.dataset_args, suite.data_dir)
    about = describe(chain, step, state, record, dataset)

    def subject_() -> Subject:
        deployed = deploy(state)
        test = deployed.loaders(Context(dataset, deployed.device, step.seed)).test
        return Subject(deployed, test, about)

    if args.bundle:
        origin = _origin(args, step, record, store)
        path = Path(args.output or suite.model_dir / "exports" / f"{step.checkpoint}_bundle")
        return _bundle(args, limits, path.absolute(), step, origin, subject_, console)
    folder = Path(args.output) if args.output else suite.model_dir / "exports"
    wanted = _wanted(args, folder, step.checkpoint)
    there = {} if args.overwrite else {file: file.is_there(about) for file in wanted}
    subject = subject_()
    expected = reference(subject)
    found: dict[Path, FileComparison] = {}
    for file in wanted:
        form = FORMATS[file.format]
        kept = there.get(file, False)
        console.say(f"{file.format}: {'reading' if kept else 'writing'} {file.path}")
        try:
            if kept:
                runtime = form.read(file.path)
                found[file.path] = compare_file(runtime, subject, file.batch, expected)
            else:
                found[file.path] = export(subject, form, file.path, file.batch, expected)
        except ExportError as error:
            fate = "add --overwrite to make it anew" if kept else "not kept"
            print(f"export --format {file.format}: {file.path} {error}; {fate}", file=sys.stderr)
        else:
            for warning in _warnings(file, subject, found[file.path]):
                console.warn(warning)
    if found:
        console.rich.print(_table(found, subject.int8_layers))
    return 0 if len(found) == len(wanted) else 1


def _origin(args: Namespace, step: Step, record: dict[str, Any], store: Store) -> Origin:
    """The chain behind a step, with the metrics of its two ends. Raises ConfigError."""
    steps = [step]
    while steps[0].before is not None:
        steps.insert(0, steps[0].before)
    first = store.record(steps[0].key) if len(steps) > 1 else record
    if first is None:
        raise ConfigError(
            [f"export: {steps[0].label}, which {step.label} is compared with, is not in the "
             f"store; run it again: {_run(args)}"]
        )  # fmt: skip
    baseline = first["metrics"] if first is not record else None
    return Origin(steps, record["metrics"], baseline, _run(args))


def _bundle(
    args: Namespace,
    limits: Sequence[Limit],
    path: Path,
    step: Step,
    origin: Origin,
    subject: Callable[[], Subject],
    console: Console,
) -> int:
    """Write a bundle; returns the exit code: 1 where a condition or the comparison fails."""
    engine = args.engine or origin.metrics["inference_time_ms"]["batch_1"].get("engine")
    if engine is None:
        raise ConfigError(
            [f"export --bundle: {step.label} was measured by an earlier version, which tells no "
             "fastest engine; name one with --engine, or run it again with --remeasure"]
        )  # fmt: skip
    there = held(path)
    if there is not None and not (args.overwrite and there == BUNDLE):
        remedy = "remove it, add --overwrite," if there == BUNDLE else "remove it"
        raise ConfigError(
            [f"export --bundle: {path} is there and holds {there}; {remedy} or choose another "
             "folder with --output"]
        )  # fmt: skip
    lack = missing(FORMATS[kind(engine, step.leaving.int8).format])
    if lack is not None:
        raise ConfigError([f"export --bundle: {engine}: {lack}, or name another with --engine"])
    known = facts(origin.metrics, origin.baseline)
    for limit in limits:
        value = known.get(limit.metric)
        if value is None or not limit.allows(value):
            has = "was not measured" if value is None else f"is {value:.4g} on the test split"
            print(
                f"export --if: {step.label}: {limit.metric} {has}, and {limit} was asked for; "
                "nothing is written",
                file=sys.stderr,
            )
            return 1
    made = subject()
    console.say(f"bundle for {engine}: writing {path}")
    try:
        found = write_bundle(made, reference(made), engine, origin, path)
    except ExportError as error:
        print(f"export --bundle: {path}: its network {error}; not kept", file=sys.stderr)
        return 1
    (file,) = (file for file in sorted(path.glob("network.*")) if file.suffix != ".bin")
    wanted = Wanted(kind(engine, step.leaving.int8).format, None, file)
    for warning in _warnings(wanted, made, found):
        console.warn(warning)
    console.rich.print(_table({file: found}, made.int8_layers))
    return 0


def _run(args: Namespace) -> str:
    """The command that runs the experiment."""
    run = f"python main.py --config {args.config} --only {args.experiment}"
    return run + "".join(f" --set {override}" for override in args.set or [])


def _check_command(args: Namespace) -> None:
    problems = []
    for option, given in (("--if", args.limits), ("--engine", args.engine)):
        if given and not args.bundle:
            problems.append(f"export {option}: is for --bundle")
    for name in args.format or []:
        lack = missing(FORMATS[name])
        if lack is not None:
            problems.append(f"export --format {name}: {lack}")
    if args.batch and not any(FORMATS[name].compiled for name in args.format or []):
        problems.append("export --batch: is for --format aoti; the others take any batch size")
    stop_at(problems)


def _chain(chains: list[Chain], seed: int | None) -> Chain:
    """The chain of a seed; None is the first."""
    for chain in chains:
        if seed is None or chain.seed == seed:
            return chain
    allowed = ", ".join(str(chain.seed) for chain in chains)
    raise ConfigError([f"export --seed {seed}: was not run; allowed: {allowed}"])


def _step(chain: Chain, number: int | None) -> Step:
    """The stage of a number, from 1; None is the last."""
    if number is None:
        return chain.steps[-1]
    if 1 <= number <= len(chain.steps):
        return chain.steps[number - 1]
    allowed = ", ".join(f"{i} ({step.stage})" for i, step in enumerate(chain.steps, 1))
    raise ConfigError([f"export --stage {number}: is not a stage of it; allowed: {allowed}"])


def _check_not_stopped(chain: Chain, step: Step, store: Store) -> None:
    """Raise ConfigError for a stage that the chain never came to, also where another chain did."""
    stop = chain.stopped(store.record)
    if stop is not None and step not in chain.ahead(store.record):
        last = chain.steps.index(stop.step) + 1
        raise ConfigError(
            [f"export: {chain.name} was stopped after {stop.step.stage}: {stop.why}; choose a "
             f"stage up to there with --stage {last}, or remove its stop_if and run it again"]
        )  # fmt: skip


def _check_state(args: Namespace, step: Step, state: ModelState) -> None:
    problems = []
    if state.model_args["exits"]:
        problems.append(f"export: {step.label} leaves early, which no format holds")
    if state.precision != FLOAT32:
        problems.append(
            f"export: {step.label} is bfloat16, which no format here holds; export the chain "
            "without cast, and have its runtime compute in it (OpenVINO: "
            "INFERENCE_PRECISION_HINT 'bf16')"
        )
    for name in args.format or []:
        if name == "onnx-int8" and state.quant is None:
            problems.append(
                f"export --format onnx-int8: {step.label} is float32; name an experiment with ptq "
                "or qat, or choose --format onnx"
            )
        if name == "onnx" and state.quant is not None:
            problems.append(
                f"export --format onnx: {step.label} is int8; choose --format onnx-int8, or a "
                "stage before with --stage"
            )
    stop_at(problems)


def _wanted(args: Namespace, folder: Path, name: str) -> list[Wanted]:
    files = []
    for key in dict.fromkeys(args.format):
        form = FORMATS[key]
        if form.compiled:
            files += [
                Wanted(key, batch, folder / f"{name}_batch_{batch}{form.ending}")
                for batch in dict.fromkeys(args.batch or [1])
            ]
        else:
            files.append(Wanted(key, None, folder / f"{name}{form.ending}"))
    return files


def _warnings(file: Wanted, subject: Subject, found: FileComparison) -> list[str]:
    """What is to be known before an int8 file is used, here and elsewhere."""
    warnings, quant = [], subject.deployed.state.quant
    if quant is not None and needs_vnni(quant) and not FORMATS[file.format].compiled:
        warnings.append(
            f"{file.path.name}: on a processor without VNNI its int8 products saturate, in ONNX "
            "Runtime and OpenVINO alike; for such a machine quantize with backend 'pt2e' and "
            "reduce_range True"
        )
    lacking = subject.int8_layers - (found.int8_layers or 0)
    if found.int8_layers is not None and lacking:
        warnings.append(
            f"{file.path.name}: {lacking} of {subject.int8_layers} int8 layers run in float32 in "
            "its runtime here; ONNX Runtime has no int8 convolution whose output is not quantized"
        )
    return warnings


def _table(found: dict[Path, FileComparison], int8_layers: int) -> Table:
    table = Table(title="Written, and compared with the network on the test split")
    table.add_column("file", overflow="fold")
    numbers = ["MB", "largest logit difference", "other class %", "accuracy %", "network's %"]
    for heading in [*numbers, "in int8"] if int8_layers else numbers:
        table.add_column(heading, justify="right")
    for path, result in found.items():
        files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
        table.add_row(
            path.name,
            f"{sum(file.stat().st_size for file in files) / 1e6:.2f}",
            f"{result.largest:.2g} ({result.relative:.2%})",
            f"{100 * result.other_class:.2f}",
            f"{result.accuracy:.2f}",
            f"{result.network_accuracy:.2f}",
            *([_of(result.int8_layers, int8_layers)] if int8_layers else []),
        )
    return table


def _of(count: int | None, layers: int) -> str:
    return "–" if count is None else f"{count} of {layers}"


def _parser() -> Parser:
    parser = Parser(
        "export",
        description="A finished experiment's network as files that other programs run.",
        parents=[suite_options()],
    )
    parser.add_argument("experiment", help="a baseline or a chain that was run")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--format",
        nargs="+",
        choices=FORMATS,
        help="onnx: float32; onnx-int8: quantize/dequantize pairs; aoti: machine code for torch; "
        "openvino: its IR",
    )
    what.add_argument(
        "--bundle",
        action="store_true",
        help="a folder that classifies pictures without this project, by the fastest engine",
    )
    parser.add_argument(
        "--if",
        dest="limits",
        metavar="LIMITS",
        help='for --bundle: only within limits, as "accuracy_drop<=0.5, speedup>=2"',
    )
    parser.add_argument(
        "--engine", choices=ENGINES, help="for --bundle: another than the fastest at batch 1"
    )
    parser.add_argument("--stage", type=int, metavar="N", help="number of a stage; default: last")
    parser.add_argument("--seed", type=int, help="where it was run with several; default: first")
    parser.add_argument(
        "--batch", nargs="+", type=_size, metavar="B", help="aoti: batch sizes, a file each; 1"
    )
    parser.add_argument("--output", metavar="FOLDER", help="default: in MODEL_SAVE_DIR/exports")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files that hold something else"
    )
    return parser


def _parts(text: str | None) -> list[str]:
    return [] if text is None else text.split(",")


def _size(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65536:
        raise ArgumentTypeError(f"{text} should be a whole number from 1 to 65536")
    return int(text)
