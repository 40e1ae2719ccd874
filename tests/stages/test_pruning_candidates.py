"""`prune` with candidates: all meet the cost, the least loss is chosen, and one changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dataset import Dataset
from machine.errors import Interrupted
from methods import costs
from model import HybridCNNTransformer, resolved_args
from stages.finetuning import FinetuneSpec, finetune
from stages.pruning import PruneSpec, prune
from stages.stage import Context
from stages.state import ModelState, build, initial_state
from tests.support.memory import Memory
from tests.support.tiny import TINY, tiny
from train_eval import evaluate

WIDE = {**TINY, "cnn_channels": [16, 32], "embed_dim": 32, "ffn_dim": 64}
EVERY = ["conv", "ffn", "head_dim", "embed"]
BETWEEN = {"epochs": 1, "batch_size": 256, "precision": "fp32"}


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> ModelState:
    """A network whose losses mean something."""
    ctx = Context(digits, torch.device("cpu"), seed=0, say=lambda text: None)
    spec = FinetuneSpec(epochs=2, batch_size=64, precision="fp32", learning_rate=4e-3)
    return finetune(initial_state(resolved_args(WIDE), seed=0), spec, ctx)


def spec_of(**options: Any) -> PruneSpec:
    return PruneSpec(
        **{"mode": "structural", "keep": {"macs": 0.5}, "targets": EVERY, "scope": "global"}
        | options
    )


def args_with(widths: dict[str, int]) -> dict[str, Any]:
    """The arguments that a candidate's widths stand for."""
    layers = [f"transformer.layers.{i}" for i in range(2)]
    return {
        **WIDE,
        "cnn_channels": [widths[f"cnn.blocks.{i}"] for i in range(2)],
        "embed_dim": widths["transformer.embed"],
        "ffn_dim": [widths[f"{layer}.ffn"] for layer in layers],
        "head_dim": [widths[f"{layer}.head_dim"] for layer in layers],
    }


def same(one: ModelState, other: ModelState) -> bool:
    return one.model_args == other.model_args and all(
        torch.equal(one.weights[n], v) for n, v in other.weights.items()
    )


@pytest.mark.parametrize(("scope", "round_to"), [("global", 1), ("global", 2), ("uniform", 1)])
def test_all_meet_the_cost_and_the_least_loss_is_chosen(
    scope: str, round_to: int, trained: ModelState, ctx: Context
) -> None:
    spec = spec_of(candidates=12, scope=scope, round_to=round_to, min_channels=4)
    chosen = prune(trained, spec, ctx)
    rows = ctx.details["candidates"]
    whole = costs.count_macs(build(trained))[0]
    assert len(rows) > 3 and len({str(row["widths"]) for row in rows}) == len(rows)
    for row in rows:
        network = HybridCNNTransformer(**args_with(row["widths"]))
        kept = costs.count_macs(network)[0] / whole
        assert kept == pytest.approx(row["kept"]) == pytest.approx(0.5, abs=0.02)
        assert kept <= max(rows[0]["kept"], 0.505)
    best = min(rows, key=lambda row: row["loss"])
    assert ctx.details["chosen"] == best["number"] != 0
    wanted = HybridCNNTransformer(**args_with(best["widths"])).model_args
    assert chosen.model_args == wanted
    judged = evaluate(build(chosen), ctx.loaders().validation)
    assert judged.loss == pytest.approx(best["loss"], abs=1e-5)
    assert judged.accuracy == pytest.approx(best["accuracy"])


def test_the_first_candidate_is_the_plain_cut(trained: ModelState, ctx: Context) -> None:
    plain = prune(trained, spec_of(), ctx)
    assert "candidates" not in ctx.details
    prune(trained, spec_of(candidates=3), ctx)
    first = ctx.details["candidates"][0]
    assert first["number"] == 0
    assert HybridCNNTransformer(**args_with(first["widths"])).model_args == plain.model_args
    loss = evaluate(build(plain), ctx.loaders().validation).loss
    assert first["loss_as_cut"] == pytest.approx(loss, abs=1e-5)


def test_of_the_chosen_the_statistics_alone_are_new(trained: ModelState, ctx: Context) -> None:
    chosen = prune(trained, spec_of(candidates=6), ctx)
    rows = ctx.details["candidates"]
    widths = next(row["widths"] for row in rows if row["number"] == ctx.details["chosen"])
    sizes = {d.name: d.width for d in spec_of().dimensions(build(trained))}
    ratios = {name: 1 - width / sizes[name] for name, width in widths.items()}
    plain = prune(trained, spec_of(keep=None, ratio=0.0, scope="uniform", ratios=ratios), ctx)
    assert plain.model_args == chosen.model_args
    new = {n for n, v in plain.weights.items() if not torch.equal(v, chosen.weights[n])}
    leaves = ("running_mean", "running_var", "num_batches_tracked")
    assert new == {f"cnn.blocks.{i}.norm.{leaf}" for i in range(2) for leaf in leaves}


def test_same_seed_same_bits_and_no_other(trained: ModelState, digits: Dataset) -> None:
    def run(seed: int) -> tuple[ModelState, list[Any]]:
        ctx = Context(digits, torch.device("cpu"), seed, say=lambda text: None)
        return prune(trained, spec_of(candidates=6), ctx), ctx.details["candidates"]

    (one, rows), (again, same_rows), (_, others) = run(0), run(0), run(1)
    assert same(one, again) and rows == same_rows != others


@pytest.mark.parametrize("stop_after", [2, 7, 10])
def test_interrupted_goes_on_to_the_same_bits(
    trained: ModelState, digits: Dataset, stop_after: int
) -> None:
    spec = spec_of(candidates=3, iterations=2, finetune=BETWEEN, criterion="taylor")
    memory, asked = Memory(), []

    def context(**more: Any) -> Context:
        return Context(digits, torch.device("cpu"), 0, say=lambda text: None, **more)

    def stop() -> bool:
        asked.append(1)
        return len(asked) == stop_after

    expected = prune(trained, spec, context())
    with pytest.raises(Interrupted):
        prune(trained, spec, context(snapshot=memory, stop_requested=stop))
    assert same(prune(trained, spec, context(snapshot=memory)), expected)


def test_one_candidate_is_in_no_key() -> None:
    assert spec_of(candidates=1).settings() == spec_of().settings()
    assert "candidates" not in spec_of().settings()
    assert spec_of(candidates=2).settings()["candidates"] == 2
    assert "calibration_batches" not in spec_of().settings()
    assert "calibration_batches" in spec_of(candidates=2).settings()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": None, "ratio": 0.5}, "candidates above 1 need keep"),
        ({"ratios": "auto", "scope": "uniform"}, "remove one of the two"),
        ({"mode": "mask"}, "needs mode 'structural'"),
    ],
)
def test_what_does_not_go_together_is_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        spec_of(candidates=2, **options)


@pytest.mark.parametrize(
    "options",
    [{"targets": ["embed"]}, {"scope": "uniform", "ratios": {"cnn.*": 0.5}, "targets": ["conv"]}],
)
def test_a_cut_that_is_shared_by_nothing_is_refused(options: dict[str, Any]) -> None:
    args = tiny().model_args
    with pytest.raises(ValueError, match="alone; set candidates to 1"):
        spec_of(candidates=2, **options).check(args)
    spec_of(**options).check(args)


def test_frozen_batch_norms_are_left_as_they_are() -> None:
    with pytest.raises(ValueError, match="frozen int8 weights"):
        spec_of(candidates=2).check_frozen()
    spec_of().check_frozen()
