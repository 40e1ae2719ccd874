"""`python main.py sensitivity EXPERIMENT`: accuracy against what is pruned, part by part.

Writes `results/EXPERIMENT_sensitivity.json` and a plot beside it. The accuracies are of the
validation share, without finetuning; `ratios: 'auto'` in a `prune` stage makes the same scan.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from dataset import load_dataset
from experiment.chain import plan, run_step
from experiment.command_line import Parser
from experiment.console import Console
from experiment.executor import StopSignal
from experiment.measure import environment
from experiment.messages import ConfigError
from experiment.schema import load_suite
from experiment.store import Store
from files import write_json
from model import HybridCNNTransformer
from stages.dimensions import TARGETS, Dimension
from stages.importance import CRITERIA, calibration_batches, importance
from stages.pruning import PruneSpec
from stages.sensitivity import RATIOS, Curves, scan
from stages.state import Context, build


def sensitivity_command(arguments: list[str], console: Console) -> int:
    """Run the subcommand; returns the exit code."""
    args = _parser().parse_args(arguments)
    suite = load_suite(args.config, overrides=args.set, only=[args.experiment])
    chain = next(c for c in plan(suite) if c.experiment.name == args.experiment)
    start = (chain.baseline or chain).steps[0]  # a chain is scanned where it starts
    store, stop = Store(suite.model_dir, console.say), StopSignal()
    dataset = load_dataset(chain.experiment.dataset_args, suite.data_dir)
    with stop.listening(console.say):
        state, _, _ = run_step(
            start,
            None,
            store,
            lambda: dataset,
            suite.device,
            stop_requested=stop,
            say=console.say,
        )
    model = build(state)
    spec = PruneSpec(mode="structural", ratio=0, targets=args.targets, criterion=args.criterion)
    dims = _checked(spec, model)
    ctx = Context(dataset, suite.device, start.seed)
    calibration = calibration_batches(ctx.loaders(batch_size=64).calibration, 8)
    scores = importance(model, dims, args.criterion, calibration, start.seed)
    curves = scan(state, dims, scores, ctx.loaders(batch_size=256).validation, args.ratios)
    path = suite.results_dir / f"{args.experiment}_sensitivity.json"
    write_json(
        path,
        {
            "experiment": args.experiment,
            "scanned": start.experiment.name,
            "criterion": args.criterion,
            "split": "validation",
            "unit": "top-1 in percent, without finetuning",
            "curves": {
                name: [{"ratio": ratio, "accuracy": accuracy} for ratio, accuracy in points]
                for name, points in curves.items()
            },
            "environment": environment(suite.device),
        },
    )
    picture = path.with_suffix(".png")
    plot(curves, picture, f"{start.experiment.name}: one dimension pruned at a time")
    for name, points in curves.items():
        row = "  ".join(f"{ratio:.2f}: {accuracy:5.1f}" for ratio, accuracy in points)
        console.say(f"{name:34} {row}")
    console.say(f"written to {path} and {picture}")
    return 0


def _checked(spec: PruneSpec, model: HybridCNNTransformer) -> list[Dimension]:
    try:
        spec.check(model.model_args)
        return spec.dimensions(model)
    except ValueError as error:
        raise ConfigError([f"sensitivity: {error}"]) from None


def plot(curves: Curves, path: Path, title: str) -> None:
    """Accuracy against ratio, a line a dimension, as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot(
        title=title, xlabel="share of units removed", ylabel="validation accuracy (%)"
    )
    markers = itertools.cycle("os^vD*Px")
    # Okabe and Ito's colours, which the colour-blind tell apart; the line style says the kind.
    colours = itertools.cycle(
        ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000"]
    )
    for name, points in curves.items():
        style = "-" if name.startswith("cnn") else "--"
        ratios, accuracies = zip(*points, strict=True)
        axes.plot(ratios, accuracies, style, marker=next(markers), color=next(colours), label=name)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)


def _parser() -> Parser:
    parser = Parser(
        prog="python main.py sensitivity",
        description="Validation accuracy against the ratio pruned, a dimension at a time.",
    )
    parser.add_argument("experiment", help="a baseline, or a chain (its baseline is scanned)")
    parser.add_argument("--config", default="config.py", metavar="FILE")
    parser.add_argument("--set", action="append", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--criterion", choices=CRITERIA, default="l1")
    parser.add_argument(
        "--targets", nargs="+", choices=TARGETS, default=["conv", "ffn", "head_dim"]
    )
    parser.add_argument("--ratios", nargs="+", type=_ratio, default=list(RATIOS), metavar="R")
    return parser


def _ratio(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise ValueError(text)
    return value
