"""Structural pruning against masks and against torch-pruning's stock pruner, finetuned alike.

Run: python -m benchmarks.pruning --root PATH_OF_CIFAR10_FOLDER    (about 25 min a seed, 2 cores)
     python -m benchmarks.pruning --quick                          (Digits, offline, about 2 min)

Every variant starts from the same checkpoint and is finetuned for as many epochs by the same recipe
with the same teacher, the unpruned baseline. The baseline is that of configs/cifar10_folder.py,
trained or taken from the store, or a checkpoint of its architecture (--baseline; several: one a
seed). A seed decides the calibration images, the candidates and the finetuning. Speed is the ratio
of medians of alternating runs, baseline over variant. Test accuracy is told and decides nothing:
recipes are to be compared by the column of validation accuracy.

With --json every run is in the file as soon as it is done, and a second call with the same settings
takes it from there; a run without times (--no-speed) is timed then, from the widths it noted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.pruning_rivals import stock_cut
from experiment.running.checkpoint import load_checkpoint
from experiment.running.executor import StageRunner
from experiment.running.store import Store
from experiment.suite.chains import plan
from experiment.suite.schema import load_suite
from machine.environment import environment
from machine.files import canonical_json, sha256, write_json
from machine.timing import latencies
from methods import costs
from model import build_network
from stages.deployment import deploy
from stages.finetuning import FinetuneSpec, finetune
from stages.pruning import PruneSpec, prune
from stages.stage import Context
from stages.state import ModelState, build
from train_eval import evaluate

HOME = Path(__file__).parents[1]
REMOVED = (0.3, 0.5, 0.7)  # share of the MACs
HEADING = (
    "MACs removed", "method", "seed", "MACs", "params k", "val %", "acc %", "drop", "b1 ×", "b64 ×",
)  # fmt: skip


def quiet(text: str) -> None:
    """Says nothing."""


@dataclasses.dataclass
class Bench:
    """What all runs of one seed share."""

    options: argparse.Namespace
    base: ModelState
    recipe: FinetuneSpec
    dataset: Any
    device: torch.device
    seed: int

    def context(self) -> Context:
        return Context(self.dataset, self.device, self.seed, say=quiet, teacher=self.base)

    def tuned(self, state: ModelState, epochs: int) -> tuple[ModelState, dict[str, Any]]:
        """After so many epochs of the recipe, and what its last epoch came to."""
        ctx = self.context()
        return finetune(state, self.recipe.model_copy(update={"epochs": epochs}), ctx), ctx.details

    def settings(self, method: str) -> dict[str, Any]:
        """All that a run's accuracy depends on, but for removed share, method and seed."""
        mine = {name: getattr(self.options, name) for name in ("targets", "round_to")}
        if self.options.scope != "global":
            mine["scope"] = self.options.scope
        best = {name: getattr(self.options, name) for name in ("criterion", "candidates", "cuts")}
        return {
            "finetune": self.recipe.settings(),
            "baseline": sha256(canonical_json(_digest(self.base))),
            "data": self.dataset.info.fingerprint,
            **({} if method.startswith("stock") else mine),
            **(best if method == "ours" else {}),
        }


def _digest(state: ModelState) -> dict[str, Any]:
    return {n: sha256(v.contiguous().numpy().tobytes()) for n, v in state.weights.items()}


# --- the cuts ------------------------------------------------------------------------------------


def cut(
    state: ModelState, bench: Bench, keep: float, criterion: str, candidates: int = 1
) -> tuple[ModelState, dict[str, Any]]:
    """Cut by this project, widths in the largest multiple of `--round-to` that meets the cost.

    Returns the state and what `prune` told: vector units like round widths.
    """
    refused: ValueError | None = None
    for round_to in bench.options.round_to:
        spec = PruneSpec(
            mode="structural",
            targets=bench.options.targets,
            keep={"macs": keep},
            criterion=criterion,  # type: ignore[arg-type]
            scope=bench.options.scope,
            round_to=round_to,
            candidates=candidates,
        )
        ctx = bench.context()
        try:
            pruned = prune(state, spec, ctx)
        except ValueError as error:
            refused = error
            continue
        told = ("ratio_found", "candidates", "chosen")
        found = {name: ctx.details[name] for name in told if name in ctx.details}
        return pruned, {"round_to": round_to, **found}
    assert refused is not None
    raise refused


def plain(criterion: str) -> Callable[[Bench, float, int], tuple[ModelState, dict[str, Any]]]:
    """One cut by a criterion, then finetuning."""

    def method(bench: Bench, keep: float, epochs: int) -> tuple[ModelState, dict[str, Any]]:
        pruned, told = cut(bench.base, bench, keep, criterion)
        tuned, details = bench.tuned(pruned, epochs)
        return tuned, {**told, **details}

    return method


def ours(bench: Bench, keep: float, epochs: int) -> tuple[ModelState, dict[str, Any]]:
    """`--candidates` for each of `--cuts`, an epoch between two cuts out of the same number."""
    state, cuts, told = bench.base, bench.options.cuts, {}
    whole = costs.planned_macs(state.model_args)[-1]
    for number in range(1, cuts + 1):
        due = 1 - (1 - keep) * number / cuts  # of the baseline's MACs, after this cut
        share = due * whole / costs.planned_macs(state.model_args)[-1]
        options = bench.options
        state, told = cut(state, bench, share, options.criterion, options.candidates)
        state, details = bench.tuned(state, epochs - cuts + 1 if number == cuts else 1)
    return state, {**told, **details}


def mask(bench: Bench, keep: float, epochs: int) -> tuple[ModelState, dict[str, Any]]:
    """Mode 'mask' at the ratio that a cut by l1 takes for the same MACs."""
    ratio = cut(bench.base, bench, keep, "l1")[1]["ratio_found"]
    masked = prune(bench.base, PruneSpec(ratio=ratio), bench.context())
    tuned, details = bench.tuned(masked, epochs)
    return tuned, {"ratio_found": ratio, **details}


def stock(round_to: int | None) -> Callable[[Bench, float, int], tuple[ModelState, dict[str, Any]]]:
    """torch-pruning's MagnitudePruner as in its README."""

    def method(bench: Bench, keep: float, epochs: int) -> tuple[ModelState, dict[str, Any]]:
        return bench.tuned(stock_cut(bench.base, keep, round_to), epochs)

    return method


METHODS = {
    "ours": ours,
    "taylor": plain("taylor"),
    "l1": plain("l1"),
    "lamp": plain("lamp"),
    "mask": mask,
    "stock": stock(None),
    "stock ×16": stock(16),
}
USUAL = ("ours", "taylor", "stock", "stock ×16")


# --- the runs ------------------------------------------------------------------------------------


def run(bench: Bench, removed: float, method: str, baseline: float) -> dict[str, Any]:
    """One network cut, finetuned and judged, as a row of the file."""
    test = bench.context().loaders().test
    tuned, told = METHODS[method](bench, 1 - removed, bench.options.epochs)
    smaller = deploy(tuned, bench.device).network
    accuracy = evaluate(smaller, test).accuracy
    last = told.pop("history")[-1]
    whole = costs.planned_macs(bench.base.model_args)[-1]
    return {
        "removed": removed,
        "method": method,
        "seed": bench.seed,
        "settings": bench.settings(method),
        "macs": costs.count_macs(build(tuned))[0],
        "macs_left": costs.count_macs(build(tuned))[0] / whole,
        "nonzero_params": sum(int(p.count_nonzero()) for p in smaller.parameters()),
        "validation_accuracy": last["validation_accuracy"],
        "validation_loss": last["validation_loss"],
        "baseline_accuracy": baseline,
        "accuracy": accuracy,
        "drop": baseline - accuracy,
        "speed": None,
        "model_args": tuned.model_args,
        "told": {
            n: told[n] for n in ("round_to", "ratio_found", "candidates", "chosen") if n in told
        },
    }


def timed(base: ModelState, row: dict[str, Any], dataset: Any, device: torch.device) -> dict:
    """Baseline's median time over that of the row's widths, by batch size; weights do not count."""
    images = next(iter(Context(dataset, device, 0).loaders().test))[0]
    nets = [
        build_network(args).eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for args in (base.model_args, row["model_args"])
    ]
    found = {}
    for count in (1, 64):
        batch = images[:count].contiguous(memory_format=torch.channels_last)
        one, other = latencies(nets, batch)
        found[str(count)] = one["median"] / other["median"]
    return found


def shown(row: dict[str, Any]) -> str:
    speed = row["speed"] or {}
    cells = [
        f"{row['removed']:.0%}",
        row["method"],
        str(row["seed"]),
        f"{row['macs_left']:.3f}",
        f"{row['nonzero_params'] / 1e3:.1f}",
        f"{row['validation_accuracy']:.1f}",
        f"{row['accuracy']:.2f}",
        f"{row['drop']:+.2f}",
        *(f"{speed[n]:.2f}" if n in speed else "–" for n in ("1", "64")),
    ]
    return "| " + " | ".join(cells) + " |"


# --- the summary ---------------------------------------------------------------------------------


def mean_and_std(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:+.2f} (1)"
    return f"{statistics.mean(values):+.2f} ± {statistics.stdev(values):.2f} ({len(values)})"


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Print mean ± std (n) of each method; return the drops at half the MACs and against stock.

    `drop_vs_stock`: share removed → [mean over the seeds of ours minus stock's, its standard error
    or None with one seed]; below 0 ours is better.
    """
    drops: dict[tuple[float, str], dict[int, float]] = {}
    for row in rows:
        drops.setdefault((row["removed"], row["method"]), {})[row["seed"]] = row["drop"]
    print("\n| MACs removed | method | drop, mean ± std (n) |\n|---|---|---|")
    for (removed, method), by_seed in sorted(drops.items()):
        print(f"| {removed:.0%} | {method} | {mean_and_std(list(by_seed.values()))} |")
    mine = next((m for m in METHODS if any(m == method for _, method in drops)), None)
    against: dict[str, list[float | None]] = {}
    for removed in sorted({removed for removed, _ in drops}):
        one, other = drops.get((removed, str(mine)), {}), drops.get((removed, "stock"), {})
        pairs = [one[seed] - other[seed] for seed in one if seed in other]
        if pairs:
            error = statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else None
            against[f"{removed:g}"] = [
                round(statistics.mean(pairs), 3),
                None if error is None else round(error, 3),
            ]
    half = list(drops.get((0.5, str(mine)), {}).values())
    return {
        "method": mine,
        "drop_at_half_macs": round(statistics.mean(half), 3) if half else None,
        "drop_vs_stock": against,
    }


# --- the command ---------------------------------------------------------------------------------


def options_given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", help="folder with train/ and test/")
    parser.add_argument("--quick", action="store_true", help="Digits instead of photographs")
    parser.add_argument("--baseline", metavar="FILE", nargs="+", help="instead of the suite's")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--removed", nargs="+", type=float, help="shares of the MACs")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=USUAL)
    parser.add_argument("--json", metavar="FILE", type=Path, help="runs, kept and gone on with")
    parser.add_argument("--no-speed", action="store_true", help="leave times for later")
    ours = parser.add_argument_group("ours")
    ours.add_argument("--targets", nargs="+", default=["conv", "ffn", "head_dim", "embed"])
    ours.add_argument("--round-to", nargs="+", type=int, default=[16, 8, 4, 1])
    ours.add_argument("--scope", choices=["global", "uniform"], default="global")
    ours.add_argument("--criterion", default="taylor")
    ours.add_argument("--candidates", type=int, default=32)
    ours.add_argument("--cuts", type=int, default=1, help="with an epoch of the same between them")
    tuning = parser.add_argument_group("finetuning, of all alike")
    tuning.add_argument("--epochs", type=int, help="in all (default 5, quick 4)")
    tuning.add_argument("--rate", type=float, default=4e-3, help="peak rate")
    tuning.add_argument("--optimizer", help="instead of the baseline's")
    tuning.add_argument("--batch-size", type=int, help="instead of the baseline's")
    tuning.add_argument("--label-smoothing", type=float, help="instead of the baseline's")
    tuning.add_argument("--teacher", choices=["none", "baseline"], default="baseline")
    tuning.add_argument("--alpha", type=float, default=0.9, help="the teacher's share of the loss")
    tuning.add_argument("--temperature", type=float, default=4.0)
    options = parser.parse_args()
    if not options.quick and not options.root:
        parser.error("give --root, or --quick")
    options.epochs = options.epochs or (4 if options.quick else 5)
    options.removed = options.removed or (REMOVED[1:2] if options.quick else REMOVED)
    if options.cuts > options.epochs:
        parser.error(
            f"--cuts {options.cuts}: there are {options.epochs} epochs; an epoch follows a cut"
        )
    if options.baseline and len(options.baseline) not in (1, len(options.seeds)):
        parser.error("--baseline: give one, or one a seed")
    return options


def recipe_of(spec: Any, options: argparse.Namespace) -> FinetuneSpec:
    """The baseline's recipe with what the options change."""
    names = [name for name in FinetuneSpec.model_fields if name in type(spec).model_fields]
    changes: dict[str, Any] = {"epochs": options.epochs, "learning_rate": options.rate}
    for name in ("optimizer", "batch_size", "label_smoothing"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    if options.teacher != "none":
        changes |= {name: getattr(options, name) for name in ("teacher", "alpha", "temperature")}
    return FinetuneSpec(**{**{name: getattr(spec, name) for name in names}, **changes})


def main() -> None:
    options = options_given()
    # It remarks on the position embedding, which it then prunes as it should.
    warnings.filterwarnings("ignore", message="Unwrapped parameters detected")
    config = "quickstart.py" if options.quick else "cifar10_folder.py"
    root = [] if options.quick else [f"dataset_args.root={options.root}"]
    suite = load_suite(HOME / "configs" / config, overrides=root)
    chain = plan(suite)[0]
    step, device = chain.steps[0], suite.device
    runner = StageRunner(Store(suite.model_dir), suite.data_dir, device, lambda: False, quiet)
    dataset = runner.dataset(chain.experiment.dataset_args)
    recipe = recipe_of(step.spec, options)
    print(json.dumps(environment(device)))
    print(json.dumps({"finetune": recipe.settings()}))
    print("| " + " | ".join(HEADING) + " |\n|" + "---|" * len(HEADING), flush=True)
    kept, rows = options.json, []
    known = json.loads(kept.read_text())["runs"] if kept and kept.exists() else []
    for place, seed in enumerate(options.seeds):
        files = options.baseline
        base = load_checkpoint(files[place % len(files)]) if files else runner.outcome(step)[0]
        bench = Bench(options, base, recipe, dataset, device, seed)
        test = bench.context().loaders().test
        baseline = evaluate(deploy(base, device).network, test).accuracy
        for removed in options.removed:
            for method in options.methods:
                about = {"removed": removed, "method": method, "seed": seed}
                about["settings"] = json.loads(canonical_json(bench.settings(method)))
                row = next((r for r in known if about.items() <= r.items()), None)
                if row is None:
                    row = run(bench, removed, method, baseline)
                    known.append(row)
                if row["speed"] is None and not options.no_speed:
                    row["speed"] = timed(base, row, dataset, device)
                if kept:
                    write_json(kept, {"environment": environment(device), "runs": known})
                rows.append(row)
                print(shown(row), flush=True)
    print(json.dumps(summary(rows)))


if __name__ == "__main__":
    main()
