"""Structural pruning of one baseline, against masks and against torch-pruning's stock pruner.

Run: python -m benchmarks.pruning --root PATH_OF_CIFAR10_FOLDER    (about 25 min on 2 cores)
     python -m benchmarks.pruning --quick                          (Digits, offline, about 2 min)

Every variant starts from the same checkpoint, is finetuned alike, and is timed in turn with the
baseline: speed is the ratio of medians of alternating runs. The baseline is that of
configs/cifar10_folder.py, trained or taken from the store, or a checkpoint of its architecture.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp

from dataset import load_dataset
from experiment.running.checkpoint import load_checkpoint
from experiment.running.step import run_step
from experiment.running.store import Store
from experiment.suite.chains import plan
from experiment.suite.schema import load_suite
from machine.environment import environment
from machine.timing import latencies
from methods import costs
from model import HybridCNNTransformer
from stages.deployment import deploy
from stages.finetuning import FinetuneSpec
from stages.fitting import fit
from stages.pruning import PruneSpec, prune
from stages.stage import Context
from stages.state import ModelState, build
from train_eval import evaluate

HOME = Path(__file__).parents[1]

CRITERIA = ("l1", "taylor", "lamp")
STOCK = "stock MagnitudePruner"
REMOVED = (0.3, 0.5, 0.7)  # share of the MACs


def quiet(text: str) -> None:
    """Says nothing."""


def ours(
    state: ModelState, keep: float, criterion: str, targets: list[Any], ctx: Context
) -> tuple[ModelState, float, int]:
    """Cut by this project, widths in the largest multiple of 16 or less that meets the cost.

    Returns the state, the ratio found and that multiple: vector units like round widths.
    """
    for round_to in (16, 8, 4, 1):
        spec = PruneSpec(
            mode="structural",
            targets=targets,
            keep={"macs": keep},
            criterion=criterion,  # type: ignore[arg-type]
            scope="global",
            round_to=round_to,
        )
        try:
            return prune(state, spec, ctx), ctx.details["ratio_found"], round_to
        except ValueError as error:
            refused = error
    raise refused


def stock(state: ModelState, keep: float, round_to: int | None = None) -> ModelState:
    """torch-pruning's MagnitudePruner as in its README, at the ratio that leaves `keep` MACs."""
    whole = costs.count_macs(build(state))[0]
    low, high, best = 0.0, 0.95, None
    for _ in range(12):
        ratio = (low + high) / 2
        model = build(state)
        pruner = tp.pruner.MagnitudePruner(
            model,
            costs.example_image(model),
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=[model.head],
            num_heads={
                layer.attention.qkv: layer.attention.num_heads for layer in model.transformer.layers
            },
            prune_head_dims=True,
            round_to=round_to,
        )
        pruner.step()
        found = described(model)
        left = costs.count_macs(build(found))[0] / whole
        if best is None or abs(left - keep) < best[0]:
            best = (abs(left - keep), found)
        low, high = (ratio, high) if left > keep else (low, ratio)
    assert best is not None
    return best[1]


def described(model: HybridCNNTransformer) -> ModelState:
    """The state of a network that torch-pruning has cut, its widths read from its tensors."""
    args = dict(model.model_args)
    args["cnn_channels"] = [block.conv.out_channels for block in model.cnn.blocks]
    layers = model.transformer.layers
    args["embed_dim"] = model.embed.out_features
    args["ffn_dim"] = [layer.fc1.out_features for layer in layers]
    args["head_dim"] = [
        layer.attention.proj.in_features // layer.attention.num_heads for layer in layers
    ]
    return ModelState(args, {n: v.detach().clone() for n, v in model.state_dict().items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", help="folder with train/ and test/")
    parser.add_argument("--baseline", metavar="FILE", help="a checkpoint instead of the suite's")
    parser.add_argument("--quick", action="store_true", help="Digits instead of photographs")
    parser.add_argument("--epochs", type=int, help="of finetuning (default 5, quick 4)")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak rate of finetuning")
    parser.add_argument("--targets", nargs="+", default=["conv", "ffn", "head_dim"])
    parser.add_argument("--removed", nargs="+", type=float, help="shares of the MACs")
    parser.add_argument("--only", nargs="+", default=[""], help="methods that begin so")
    options = parser.parse_args()
    if options.quick:
        suite = load_suite(HOME / "configs" / "quickstart.py")
    elif options.root:
        root = f"dataset_args.root={options.root}"
        suite = load_suite(HOME / "configs" / "cifar10_folder.py", overrides=[root])
    else:
        parser.error("give --root, or --quick")
    epochs = options.epochs or (4 if options.quick else 5)
    # It remarks on the position embedding, which it then prunes as it should.
    warnings.filterwarnings("ignore", message="Unwrapped parameters detected")
    chain = plan(suite)[0]
    experiment, step = chain.experiment, chain.steps[0]
    dataset = load_dataset(experiment.dataset_args, suite.data_dir)
    device, store = suite.device, Store(suite.model_dir)
    if options.baseline:
        base = load_checkpoint(options.baseline)
    else:
        base, _, _ = run_step(step, None, store, lambda: dataset, device, say=quiet)
    recipe = FinetuneSpec(
        **{name: getattr(step.spec, name) for name in FinetuneSpec.model_fields if name != "epochs"}
    ).model_copy(update={"epochs": epochs, "learning_rate": options.rate})
    test = Context(dataset, device, 0).loaders().test
    images = next(iter(test))[0]
    batches = {n: images[:n].contiguous(memory_format=torch.channels_last) for n in (1, 64)}
    network, whole = deploy(base, device).network, costs.count_macs(build(base))[0]
    accuracy = evaluate(network, test).accuracy
    params = sum(p.numel() for p in network.parameters())
    print(json.dumps(environment(device)))
    print(f"baseline: {accuracy:.2f} %, {whole / 1e6:.2f} M MACs, {params / 1e3:.1f} k parameters")
    print(f"finetuning: {epochs} epochs, peak rate {recipe.learning_rate}, seed 0")
    heading = ("MACs removed", "method", "MACs", "params k", "acc %", "drop", "b1 ×", "b64 ×")
    print("| " + " | ".join(heading) + " |\n|" + "---|" * len(heading), flush=True)

    rows: dict[tuple[float, str], dict[str, Any]] = {}
    shares = options.removed or (REMOVED[1:2] if options.quick else REMOVED)
    for removed in shares:
        variants: dict[str, ModelState] = {}
        ratio = 0.0
        for criterion in CRITERIA:
            ctx = Context(dataset, device, 0, say=quiet)
            state, found, multiple = ours(base, 1 - removed, criterion, options.targets, ctx)
            variants[f"{criterion}, widths ×{multiple}"] = state
            ratio = found if criterion == "l1" else ratio
        ctx = Context(dataset, device, 0, say=quiet)
        variants[f"mask, ratio {ratio:.2f}"] = prune(base, PruneSpec(ratio=ratio), ctx)
        variants[STOCK] = stock(base, 1 - removed)
        if removed == 0.5:
            variants[f"{STOCK}, round_to=16"] = stock(base, 1 - removed, 16)
        for name, state in variants.items():
            if not name.startswith(tuple(options.only)):
                continue
            tuned = fit(state, recipe, epochs, Context(dataset, device, 0, say=quiet))
            smaller = deploy(tuned, device).network
            found = evaluate(smaller, test).accuracy
            times = {n: latencies([network, smaller], x) for n, x in batches.items()}
            speed = {n: one["median"] / other["median"] for n, (one, other) in times.items()}
            rows[removed, name] = {"drop": accuracy - found, "speed": speed}
            macs = costs.count_macs(build(tuned))[0]
            count = sum(int(p.count_nonzero()) for p in smaller.parameters())
            cells = [
                f"{removed:.0%}",
                name,
                f"{macs / whole:.3f}",
                f"{count / 1e3:.1f}",
                f"{found:.2f}",
                f"{accuracy - found:+.2f}",
                f"{speed[1]:.2f}",
                f"{speed[64]:.2f}",
            ]
            print("| " + " | ".join(cells) + " |", flush=True)
    half = {name: row for (removed, name), row in rows.items() if removed == 0.5}
    mine = [row for name, row in half.items() if name.startswith(CRITERIA)]
    if STOCK not in half or not mine:
        return
    best = min(mine, key=lambda row: row["drop"])
    result = {
        "speedup_at_half_macs_b64": round(best["speed"][64], 3),
        "accuracy_drop_at_half_macs": round(best["drop"], 3),
        "drop_vs_stock_pruner": round(best["drop"] - half[STOCK]["drop"], 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
