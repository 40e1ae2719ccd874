"""`python main.py sensitivity EXPERIMENT`: accuracy against what is pruned, part by part.

Writes `results/EXPERIMENT_sensitivity.json` and a plot beside it. The accuracies are of the
validation share, without finetuning; `ratios: 'auto'` in a `prune` stage makes the same scan.
With `--quantization` it is int8, a layer at a time, as `float_layers: 'auto'` searches it.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from experiment.commands.parser import Parser, suite_options
from experiment.report.sensitivity_plots import plot, plot_layers
from experiment.running.console import Console
from experiment.running.executor import StageRunner
from experiment.running.store import Store
from experiment.suite.chains import plan
from experiment.suite.messages import ConfigError
from experiment.suite.schema import load_suite
from machine.environment import environment
from machine.files import write_json
from machine.stop_signal import StopSignal
from machine.waiting import considerate_waiting
from methods.pruning.dimensions import TARGETS, Dimension
from methods.pruning.importance import CRITERIA, calibration_batches, importance
from methods.pruning.sensitivity import RATIOS, scan
from methods.quantization.backends import BACKENDS
from model import Network
from stages.pruning import PruneSpec
from stages.ptq import PtqSpec, search_float_layers
from stages.stage import Context
from stages.state import ModelState, build

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sensitivity_command(arguments: list[str], console: Console) -> int:
    """Run the subcommand; returns the exit code."""
    args = _parser().parse_args(arguments)
    suite = load_suite(args.config, overrides=args.set, only=[args.experiment])
    chain = next(c for c in plan(suite) if c.experiment.name == args.experiment)
    start = (chain.baseline or chain).steps[0]  # a chain is scanned where it starts
    quant_spec = _quant_spec(args.quantization) if args.quantization else None
    store, stop = Store(suite.model_dir, console.say), StopSignal()
    runner = StageRunner(store, suite.data_dir, suite.device, stop, console.say)
    with stop.listening(console.say):
        state, _ = runner.outcome(start)
    dataset = runner.dataset(chain.experiment.dataset_args)
    ctx = Context(dataset, suite.device, start.seed, say=console.say)
    what = {"experiment": args.experiment, "scanned": start.experiment.name, "split": "validation"}
    path = suite.results_dir / f"{args.experiment}_sensitivity.json"
    with considerate_waiting():
        if quant_spec is not None:
            path = path.with_stem(f"{args.experiment}_quantization_sensitivity")
            found, figure = _of_layers(state, quant_spec, ctx, start.experiment.name)
        else:
            found, figure = _of_dimensions(state, args, ctx, start.experiment.name)
    write_json(path, {**what, **found, "environment": environment(suite.device)})
    picture = path.with_suffix(".png")
    figure.savefig(picture, dpi=150)
    console.say(f"written to {path} and {picture}")
    return 0


def _of_dimensions(
    state: ModelState, args: argparse.Namespace, ctx: Context, name: str
) -> tuple[dict[str, Any], Figure]:
    """Accuracy against the ratio pruned, for the JSON and as a picture."""
    model = build(state)
    spec = PruneSpec(mode="structural", ratio=0, targets=args.targets, criterion=args.criterion)
    dims = _checked(spec, model)
    calibration = calibration_batches(ctx.loaders(batch_size=64).calibration, 8)
    scores = importance(model, dims, args.criterion, calibration, ctx.seed)
    curves = scan(
        state.model_args,
        state.weights,
        dims,
        scores,
        ctx.loaders().validation,
        args.ratios,
    )
    for dimension, points in curves.items():
        row = "  ".join(f"{ratio:.2f}: {accuracy:5.1f}" for ratio, accuracy in points)
        ctx.say(f"{dimension:34} {row}")
    found = {
        "criterion": args.criterion,
        "unit": "top-1 in percent, without finetuning",
        "curves": {
            name: [{"ratio": ratio, "accuracy": accuracy} for ratio, accuracy in points]
            for name, points in curves.items()
        },
    }
    return found, plot(curves, f"{name}: one dimension pruned at a time")


def _of_layers(
    state: ModelState, spec: PtqSpec, ctx: Context, name: str
) -> tuple[dict[str, Any], Figure]:
    """What int8 in each layer alone does, for the JSON and as a picture."""
    choice = search_float_layers(state, spec, ctx)
    for entry in choice.scan:
        ctx.say(f"{entry.layer:34} {entry.sqnr_db:6.1f} dB   {entry.accuracy:6.2f} %")
    found = {
        "backend": spec.backend,
        "unit": "SQNR of the logits in dB; top-1 in percent, one layer in int8",
        "max_accuracy_drop": spec.max_accuracy_drop,
        **choice.record(),
    }
    return found, plot_layers(choice, f"{name}: one layer in int8 at a time")


def _quant_spec(backend: str) -> PtqSpec:
    try:
        return PtqSpec(backend=backend, float_layers="auto", max_accuracy_drop=0.5)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError([f"--quantization {backend}: {reason}"]) from None


def _checked(spec: PruneSpec, model: Network) -> list[Dimension]:
    try:
        spec.check(model.model_args)
        return spec.dimensions(model)
    except ValueError as error:
        raise ConfigError([f"sensitivity: {error}"]) from None


def _parser() -> Parser:
    parser = Parser(
        "sensitivity",
        description="Validation accuracy against the ratio pruned, or with int8, part by part.",
        parents=[suite_options()],
    )
    parser.add_argument("experiment", help="a baseline, or a chain (its baseline is scanned)")
    parser.add_argument("--criterion", choices=CRITERIA, default="l1")
    parser.add_argument(
        "--targets", nargs="+", choices=TARGETS, default=["conv", "ffn", "head_dim"]
    )
    parser.add_argument(
        "--quantization",
        nargs="?",
        const="pt2e",
        metavar="BACKEND",
        help=f"int8 instead, a layer at a time: {', '.join(BACKENDS)} (default pt2e)",
    )
    parser.add_argument("--ratios", nargs="+", type=_ratio, default=list(RATIOS), metavar="R")
    return parser


def _ratio(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise ValueError(text)
    return value
