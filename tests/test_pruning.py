"""Structural pruning against masked networks, hand counts and torch-pruning's graph."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from experiment.running.store import Store
from machine.errors import Interrupted
from methods import costs
from methods.pruning import importance
from methods.pruning.amounts import Amount, Removed, choose, choose_for_cost
from methods.pruning.dimensions import TARGETS, Dimension, Member, cut, dimensions
from methods.pruning.sensitivity import ratios_for_drop
from model import HybridCNNTransformer
from networks.args import exit_places
from stages.deployment import calibrated, deploy
from stages.finetuning import FinetuneSpec, TrainSpec, finetune, train
from stages.pruning import PruneSpec, prune
from stages.ptq import PtqSpec, ptq
from stages.qat import QatSpec, qat
from stages.stage import Context, StageError
from stages.state import ModelState, build, initial_state, state_of
from tests.conftest import FUSIONS, TINY, tiny
from tests.test_measure import macs_by_hand
from tests.test_training import Memory

# --- a cut network is a masked network -----------------------------------------------------------


def masked(model: HybridCNNTransformer, removed: Removed) -> HybridCNNTransformer:
    """The whole network with the units' producers at zero; norms look at the rest alone."""
    tensors = model.state_dict()
    dead: dict[str, Tensor] = {}  # norm → its dead positions
    for dimension, units in removed:
        for member in dimension.members:
            owner, _, leaf = member.tensor.rpartition(".")
            module = model.get_submodule(owner)
            positions = member.index[units].flatten()
            if isinstance(module, nn.LayerNorm | nn.GroupNorm):
                dead[owner] = positions
            elif member.role != "in" and leaf != "running_var":
                tensors[member.tensor].movedim(member.axis, 0)[positions] = 0
        for layer in units.tolist() if dimension.target == "depth" else ():
            for name in ("attention.proj", "fc2"):
                for leaf in ("weight", "bias"):
                    tensors[f"transformer.layers.{layer}.{name}.{leaf}"].zero_()
    for owner, positions in dead.items():
        _norm_over_the_rest(model.get_submodule(owner), positions)
    return model


def _norm_over_the_rest(norm: nn.Module, dead: Tensor) -> None:
    width = norm.weight.shape[0]
    alive = torch.tensor([i for i in range(width) if i not in set(dead.tolist())])

    def forward(x: Tensor) -> Tensor:
        axis = -1 if isinstance(norm, nn.LayerNorm) else 1
        part = x.index_select(axis, alive)
        if isinstance(norm, nn.LayerNorm):
            done = F.layer_norm(part, (len(alive),), norm.weight[alive], norm.bias[alive], norm.eps)
        else:
            done = F.group_norm(part, 1, norm.weight[alive], norm.bias[alive], norm.eps)
        return torch.zeros_like(x).index_copy(axis, alive, done)

    norm.forward = forward  # type: ignore[method-assign]


def cut_of(model: HybridCNNTransformer, removed: Removed) -> HybridCNNTransformer:
    state = state_of(model)
    args, weights = cut(state.model_args, state.weights, removed)
    return build(ModelState(args, weights))  # loads strictly: every shape is as model_args says


def choice(model: HybridCNNTransformer, targets: Any, ratio: float) -> Removed:
    dims = dimensions(model, targets)
    scores = importance.importance(model, dims, "random", lambda: [], seed=1)
    return choose(dims, scores, ratio, Amount())


def assert_cut_equals_masked(args: dict[str, Any], targets: Any, ratio: float = 0.5) -> None:
    model = tiny(**args)
    removed = choice(model, targets, ratio)
    smaller = cut_of(model, removed)
    shape = model.model_args["image_size"]
    images = torch.randn(3, model.model_args["in_channels"], *shape)
    gone = [f"layer_{i}" for d, units in removed if d.target == "depth" for i in units.tolist()]
    left = [f"layer_{i}" for i in range(model.model_args["num_layers"])]
    left = [place for place in left if place not in gone]
    gone += left[-1:]  # an exit behind what is now the last layer
    rows = [place not in gone for place in model.model_args["exits"]]
    with torch.inference_mode():
        expected = masked(model, removed).every_logits(images)[[*rows, True]]
        torch.testing.assert_close(smaller.every_logits(images), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(smaller(images), smaller.every_logits(images)[-1])


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "args",
    [
        {},
        {"cnn_separable": True, "cnn_norm": "group", "pooling": "class_token"},
        {"cnn_norm": "none", "pooling": "sequence", "positional_encoding": "sinusoidal"},
    ],
    ids=["plain", "separable", "no-norm"],
)
def test_cut_equals_masked(fusion: str, target: str, args: dict[str, Any]) -> None:
    if fusion == "parallel" and target in ("heads", "head_dim", "embed", "depth"):
        assert not dimensions(tiny(fusion=fusion), [target])
    else:
        exits = exit_places(fusion, 2)
        assert_cut_equals_masked({**args, "fusion": fusion, "exits": exits}, [target])


@settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.data())
def test_cut_equals_masked_on_random_architectures(data: st.DataObject) -> None:
    draw = data.draw
    blocks, layers = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    args = {
        "fusion": draw(st.sampled_from(FUSIONS)),
        "in_channels": draw(st.sampled_from([1, 3])),
        "image_size": draw(st.sampled_from([8, 12])),
        "cnn_channels": draw(st.lists(st.integers(2, 9), min_size=blocks, max_size=blocks)),
        "cnn_pools": draw(st.lists(st.sampled_from([1, 2]), min_size=blocks, max_size=blocks)),
        "cnn_kernels": draw(st.sampled_from([1, 3])),
        "cnn_norm": draw(st.sampled_from(["batch", "group", "none"])),
        "cnn_activation": draw(st.sampled_from(["relu", "gelu", "silu", "hardswish"])),
        "cnn_separable": draw(st.booleans()),
        "embed_dim": draw(st.integers(4, 13)),
        "num_layers": layers,
        "num_heads": draw(st.lists(st.integers(1, 3), min_size=layers, max_size=layers)),
        "head_dim": draw(st.lists(st.integers(2, 5), min_size=layers, max_size=layers)),
        "ffn_dim": draw(st.lists(st.integers(2, 9), min_size=layers, max_size=layers)),
        "pooling": draw(st.sampled_from(["mean", "class_token", "sequence"])),
        "mlp_dims": draw(st.lists(st.integers(2, 9), min_size=1, max_size=3)),
    }
    args["exits"] = [p for p in exit_places(args["fusion"], layers) if draw(st.booleans())]
    targets = draw(st.lists(st.sampled_from(TARGETS), min_size=1, unique=True))
    assume(dimensions(HybridCNNTransformer(**{**TINY, **args}), targets))
    assert_cut_equals_masked(args, targets, draw(st.floats(0, 0.95)))


# --- independent references ----------------------------------------------------------------------


def test_groups_equal_torch_prunings_for_the_serial_fusion() -> None:
    tp = pytest.importorskip("torch_pruning")
    model = tiny(pooling="class_token")
    loose = [(p, 2) for n, p in model.named_parameters() if n.endswith(("embedding", "_token"))]
    graph = tp.DependencyGraph().build_dependency(
        model, torch.randn(1, 1, 8, 8), unwrapped_parameters=loose, verbose=False
    )
    roots = {
        "cnn.blocks.0": "cnn.blocks.0.conv",
        "cnn.blocks.1": "cnn.blocks.1.conv",
        "transformer.embed": "embed",
        "transformer.layers.1.ffn": "transformer.layers.1.fc1",
        "transformer.layers.1.head_dim": "transformer.layers.1.attention.qkv",
    }
    names = {module: name for name, module in model.named_modules()}
    for dimension in dimensions(model, TARGETS):
        if dimension.name not in roots:
            continue
        root = model.get_submodule(roots[dimension.name])
        conv = isinstance(root, nn.Conv2d)
        prune_out = tp.prune_conv_out_channels if conv else tp.prune_linear_out_channels
        theirs = set()
        for dependency, indices in graph.get_pruning_group(root, prune_out, idxs=[1]):
            module = dependency.target.module
            if module in names and not isinstance(module, nn.ReLU):
                consumer = "in_channels" in dependency.handler.__name__
                theirs |= {(names[module], consumer, i) for i in indices}
        ours = set()
        for member in dimension.members:
            owner = member.tensor.rpartition(".")[0]
            if type(model.get_submodule(owner)).__module__.startswith("torch.nn"):
                ours |= {(owner, member.role == "in", i) for i in member.index[1].tolist()}
        assert ours == theirs, dimension.name


@pytest.mark.parametrize("fusion", FUSIONS)
def test_counted_macs_equal_the_hand_formula_after_a_cut(fusion: str) -> None:
    model = tiny(fusion=fusion)
    smaller = cut_of(model, choice(model, ["conv", "ffn", "embed"], 0.4))
    args = {**smaller.model_args, "image_size": 8}
    if fusion != "parallel":  # the formula has heads as wide as the stream
        inner = args["num_heads"][0] * args["head_dim"][0]
        tokens, dim, layers = 16, args["embed_dim"], args["num_layers"]
        assert len(set(args["ffn_dim"])) == 1
        args["ffn_dim"] = args["ffn_dim"][0]
        difference = layers * (
            tokens * dim * 3 * (inner - dim)
            + 2 * tokens * tokens * (inner - dim)
            + tokens * dim * (inner - dim)
        )
    else:
        difference = 0
    assert costs.count_macs(smaller)[0] == macs_by_hand(args) + difference


def test_criteria_by_hand() -> None:
    weights = {
        "a.weight": torch.tensor([[1.0, -2.0], [0.5, 0.0], [3.0, 4.0]]),
        "norm.weight": torch.tensor([0.1, -0.7, 0.3]),
        "b.weight": torch.tensor([[1.0, 0.0, -1.0]]),
    }
    index = torch.arange(3)[:, None]
    members = tuple(
        Member(f"{name}.weight", axis, role, index)
        for name, axis, role in (("a", 0, "out"), ("norm", 0, "norm"), ("b", 1, "in"))
    )
    dimension = Dimension("d", "conv", 3, "cnn_channels", 0, members)
    assert importance.l1(dimension, weights).tolist() == [2.0, 0.25, 4.0]
    expected = [(5**0.5 + 1) / 2, 0.25, 3.0]
    assert importance.l2(dimension, weights).tolist() == pytest.approx(expected)
    assert importance.bn_scale(dimension, weights).tolist() == pytest.approx([0.1, 0.7, 0.3])
    distances = torch.cdist(weights["a.weight"], weights["a.weight"]).sum(1)
    torch.testing.assert_close(importance.fpgm(dimension, weights), distances)
    lamp = importance.lamp(torch.tensor([1.0, 3.0, 2.0]))
    assert lamp.tolist() == pytest.approx([1 / 14, 1.0, 4 / 13])


def _batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(16, 1, 8, 8, generator=generator),
            torch.randint(0, 10, (16,), generator=generator),
        )
        for _ in range(count)
    ]


def test_taylor_is_the_first_order_change_of_the_loss() -> None:
    """Against a finite difference: shrink one unit's consumers a little."""
    model = tiny()
    ((images, labels),) = _batches(1)
    dims = dimensions(model, ["conv", "ffn", "heads", "embed"])
    scores = importance.importance(model, dims, "taylor", lambda: _batches(1))
    model = model.double()
    tensors, step = model.state_dict(), 1e-5

    def loss() -> float:
        with torch.no_grad():
            return F.cross_entropy(model(images.double()), labels).item()

    for dimension, score in zip(dims, scores, strict=True):
        before = {m.tensor: tensors[m.tensor].clone() for m in dimension.members}
        base = loss()
        for member in dimension.members:
            if member.role == "in":
                part = tensors[member.tensor].movedim(member.axis, 0)
                part[member.index[1]] *= 1 - step
        slope = abs(loss() - base) / step
        for name, value in before.items():
            tensors[name].copy_(value)
        assert score[1].item() == pytest.approx(slope, rel=2e-3, abs=1e-6), dimension.name


def test_activation_equals_a_plain_hook() -> None:
    model = tiny()
    seen = []
    model.cnn.blocks[0].activation.register_forward_hook(lambda m, i, out: seen.append(out))
    dims = dimensions(model, ["conv"])
    scores = importance.importance(model, dims, "activation", _batches)
    expected = sum(out.abs().mean((0, 2, 3)) for out in seen)
    torch.testing.assert_close(scores[0], expected)


@pytest.mark.parametrize("criterion", importance.CRITERIA)
def test_every_criterion_scores_every_target_or_says_no(criterion: Any) -> None:
    for fusion, target in itertools.product(FUSIONS, TARGETS):
        model = tiny(fusion=fusion)
        dims = dimensions(model, [target])
        if not dims:
            continue
        spec = PruneSpec(mode="structural", ratio=0.5, criterion=criterion, targets=[target])
        try:
            spec.check(model.model_args)
        except ValueError:
            assert criterion in ("bn_scale", "fpgm")
            continue
        for dimension, score in zip(
            dims, importance.importance(model, dims, criterion, _batches), strict=True
        ):
            assert score.shape == (dimension.size,)
            assert torch.isfinite(score).all() and (score >= 0).all()


# --- how much ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_ratio_zero_changes_nothing(scope: Any, ctx: Context) -> None:
    state = state_of(tiny())
    spec = PruneSpec(mode="structural", ratio=0.0, targets=list(TARGETS), scope=scope)
    same = prune(state, spec, ctx)
    assert same.model_args == state.model_args
    assert all(torch.equal(same.weights[n], v) for n, v in state.weights.items())


@pytest.mark.parametrize("cost", ["macs", "params"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_cost_is_met_within_two_percent(cost: Any, share: float, ctx: Context) -> None:
    model = HybridCNNTransformer(
        **{**TINY, "cnn_channels": [32, 64], "embed_dim": 64, "ffn_dim": 128}
    )
    state = state_of(model)
    spec = PruneSpec(
        mode="structural", keep={cost: share}, targets=["conv", "ffn", "head_dim", "embed"]
    )
    smaller = build(prune(state, spec, ctx))
    if cost == "macs":
        found = costs.count_macs(smaller)[0] / costs.count_macs(model)[0]
    else:
        counts = [sum(p.numel() for p in m.parameters()) for m in (smaller, model)]
        found = counts[0] / counts[1]
    assert found == pytest.approx(share, abs=0.02)


def test_latency_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that counts MACs: the bisection is what is tested."""
    monkeypatch.setattr(costs, "latency", lambda m, x: {"median": costs.count_macs(m)[0] * len(x)})
    model = tiny(cnn_channels=[32, 64])
    state, dims = state_of(model), dimensions(tiny(cnn_channels=[32, 64]), ["conv"])
    scores = importance.importance(model, dims, "l1", lambda: [])
    keep = {"latency_ms": 0.5, "batch": 4}
    removed, _ = choose_for_cost(
        lambda ratio: choose(dims, scores, ratio, Amount()), state.model_args, state.weights, keep
    )
    left = costs.count_macs(cut_of(model, removed))[0] / costs.count_macs(model)[0]
    assert left == pytest.approx(0.5, abs=0.02)


def test_an_impossible_cost_is_refused_with_the_nearest(ctx: Context) -> None:
    spec = PruneSpec(mode="structural", keep={"macs": 0.05}, targets=["heads"])
    with pytest.raises(ValueError, match=r"not possible with these targets.*nearest is 0\.\d+"):
        prune(state_of(tiny()), spec, ctx)


def test_limits_hold(ctx: Context) -> None:
    spec = PruneSpec(
        mode="structural",
        ratio=0.7,
        targets=["conv", "ffn", "embed"],
        min_channels=4,
        round_to=4,
        protect=["cnn.blocks.1"],
        ratios={"transformer.layers.1.*": 0.0},
    )
    args = prune(state_of(tiny()), spec, ctx).model_args
    assert args["cnn_channels"] == [4, 16]
    assert args["ffn_dim"] == [8, 24]
    assert args["embed_dim"] == 4


def test_global_scope_takes_from_where_it_is_weak() -> None:
    model = tiny()
    with torch.no_grad():
        model.cnn.blocks[1].conv.weight[:8] *= 1e-3
        model.embed.weight[:, :8] *= 1e-3
    dims = dimensions(model, ["conv"])
    scores = importance.importance(model, dims, "l1", lambda: [])
    removed = choose(dims, scores, 8 / 24, Amount(uniform=False))
    assert [len(units) for _, units in removed] == [0, 8]
    assert sorted(removed[1][1].tolist()) == list(range(8))


def test_head_size_shrinks_by_each_heads_own_choice() -> None:
    model = tiny()
    (dimension,) = [d for d in dimensions(model, ["head_dim"]) if ".0." in d.name]
    scores = torch.tensor([0.0, 9, 9, 9, 9, 9, 9, 9, 9.0, 9, 9, 0, 9, 9, 9, 9])
    removed = choose([dimension], [scores], 1 / 8, Amount())
    assert removed[0][1].tolist() == [0, 11]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"protect": ["cnn.block.*"]}, "'cnn.block.*' matches nothing to prune; there are: cnn."),
        ({"ratios": {"nothing": 0.5}}, "'nothing' matches nothing"),
        ({"targets": ["depth"], "criterion": "fpgm"}, "'fpgm' does not score transformer.layers"),
    ],
)
def test_patterns_that_match_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as error:
        PruneSpec(mode="structural", ratio=0.5, **options).check(tiny().model_args)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "mask", "ratio": 0.5, "targets": ["conv"]},
        {"mode": "mask", "ratio": 0.5, "criterion": "l2"},
        {"mode": "mask", "ratio": 0.5, "min_channels": 4},
        {"mode": "mask"},
        {"mode": "structural", "ratio": 0.5, "iterations": 2},
        {
            "mode": "structural",
            "ratio": 0.5,
            "iterations": 2,
            "targets": ["depth"],
            "protect": ["x"],
            "finetune": {"epochs": 1},
        },
        {"mode": "structural", "keep": {"macs": 0.5, "params": 0.5}},
        {"mode": "structural", "keep": {"macs": 1.5}},
        {"mode": "structural", "keep": {"macs": 0.5, "batch": 4}},
        {"mode": "structural", "ratio": None},
        {"mode": "structural", "ratio": 0.5, "targets": []},
        {"mode": "structural", "ratio": 0.5, "scope": "global", "ratios": {"a": 0.5}},
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        PruneSpec(**options)


def test_a_scan_finds_the_dimension_that_costs_nothing(ctx: Context) -> None:
    """A trained network with one dimension made idle by hand: 'auto' takes from there first."""
    spec = TrainSpec(epochs=8, learning_rate=8e-3, precision="fp32", batch_size=64)
    state = train(initial_state({**TINY, "num_layers": 1, "ffn_dim": 64}, 0), spec, ctx)
    weights = {name: value.clone() for name, value in state.weights.items()}
    weights["transformer.layers.0.fc2.weight"].zero_()
    state = ModelState(state.model_args, weights)
    auto = PruneSpec(mode="structural", ratios="auto", ratio=0.4, targets=["conv", "ffn"])
    pruned = prune(state, auto, ctx)
    curves = dict(ctx.details["sensitivity"])
    idle = [accuracy for _, accuracy in curves["transformer.layers.0.ffn"]]
    assert max(idle) == min(idle)
    assert min(accuracy for _, accuracy in curves["cnn.blocks.1"]) < max(idle) - 5
    assert pruned.model_args["cnn_channels"] == [8, 16]
    assert (8 + 16 + pruned.model_args["ffn_dim"][0]) / 88 == pytest.approx(0.6, abs=0.02)


def test_ratios_for_a_drop_by_hand() -> None:
    curves = {"a": [(0.0, 90.0), (0.5, 80.0), (0.9, 85.0)], "b": [(0.0, 90.0), (0.5, 90.0)]}
    assert ratios_for_drop(curves, 5.0) == pytest.approx({"a": 0.25, "b": 0.5}, abs=2e-3)
    assert ratios_for_drop(curves, 20.0) == pytest.approx({"a": 0.9, "b": 0.5}, abs=2e-3)


# --- with the other stages -----------------------------------------------------------------------

HALF = PruneSpec(mode="structural", ratio=0.5, targets=["conv", "ffn", "head_dim", "embed"])


def test_prunes_again_quantizes_and_saves(ctx: Context, tmp_path: Path) -> None:
    once = prune(state_of(tiny(embed_dim=32, num_heads=2)), HALF, ctx)
    assert ctx.details["widths"]["embed_dim"] == [32, 16]
    assert ctx.details["macs"][1] < 0.5 * ctx.details["macs"][0]
    twice = prune(once, HALF, ctx)
    assert twice.model_args["embed_dim"] == 8
    assert twice.model_args["head_dim"] == [4, 4]
    final = ptq(twice, PtqSpec(calibration_batches=1, backend="x86"), ctx)
    store = Store(tmp_path)
    store.put("k", final, {"metrics": {}})
    images = torch.randn(4, 1, 8, 8)
    with torch.inference_mode():
        expected = deploy(final)(images)
        found = store.load("k")
        assert found is not None
        assert torch.equal(deploy(found[0])(images), expected)
    torch.save((images, expected), tmp_path / "case.pt")
    script = (
        "import sys, torch, utils\n"
        "images, expected = torch.load(sys.argv[2], weights_only=True)\n"
        "with torch.inference_mode():\n"
        "    assert torch.equal(utils.load_model(sys.argv[1])(images), expected)\n"
        "assert 'torch_pruning' not in sys.modules\n"
    )
    command = [sys.executable, "-c", script, str(store.path("k")), str(tmp_path / "case.pt")]
    home = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_masters_of_a_qat_network_are_cut(ctx: Context) -> None:
    trained = qat(state_of(tiny()), QatSpec(epochs=1, batch_size=256, backend="x86"), ctx)
    pruned = calibrated(prune(trained, HALF, ctx), ctx)
    assert pruned.quant is not None and pruned.quant.scheme == "qat"
    assert pruned.model_args["cnn_channels"] == [4, 8]
    with torch.inference_mode():
        assert torch.isfinite(deploy(pruned)(torch.randn(2, 1, 8, 8))).all()


BETWEEN = {"epochs": 1, "batch_size": 256, "precision": "fp32"}


@pytest.mark.parametrize("schedule", ["linear", "geometric", "cubic"])
def test_iterations_end_at_the_ratio(schedule: Any, ctx: Context) -> None:
    spec = PruneSpec(
        mode="structural",
        ratio=0.5,
        iterations=3,
        schedule=schedule,
        targets=["conv"],
        finetune=BETWEEN,  # type: ignore[arg-type]
    )
    assert prune(state_of(tiny()), spec, ctx).model_args["cnn_channels"] == [4, 8]
    assert len(ctx.details["history"]) == 1  # of the last finetune


def test_sparsity_shrinks_batch_norms_scales(ctx: Context) -> None:
    state = state_of(tiny())

    def scales(sparsity: float) -> float:
        spec = FinetuneSpec(sparsity=sparsity, **{**BETWEEN, "epochs": 2})  # type: ignore[arg-type]
        tuned = finetune(state, spec, ctx)
        return sum(tuned.weights[f"cnn.blocks.{i}.norm.weight"].abs().sum().item() for i in (0, 1))

    assert scales(0.1) < scales(0.0) - 0.05
    with pytest.raises(ValueError, match="sparsity needs batch norm"):
        FinetuneSpec(sparsity=0.1).check(tiny(cnn_norm="group").model_args)


@pytest.mark.parametrize("options", [{"ratio": 0.5}, {"keep": {"macs": 0.5}}])
def test_own_ratios_are_reached_once_over_all_iterations(
    options: dict[str, Any], ctx: Context
) -> None:
    spec = PruneSpec(
        mode="structural",
        iterations=3,
        ratios={"cnn.*": 0.25},
        targets=["conv", "ffn", "head_dim", "embed"],
        finetune=BETWEEN,  # type: ignore[arg-type]
        **options,
    )
    model = tiny(embed_dim=32, ffn_dim=64)
    pruned = prune(state_of(model), spec, ctx)
    assert pruned.model_args["cnn_channels"] == [6, 12]
    left = costs.count_macs(build(pruned))[0] / costs.count_macs(model)[0]
    assert "ratio" in options or left == pytest.approx(0.5, abs=0.02)


def test_global_ties_take_exactly_the_ratio() -> None:
    dims = dimensions(tiny(), ["conv"])
    removed = choose(dims, [torch.ones(8), torch.ones(16)], 0.25, Amount(uniform=False))
    assert sum(len(units) for _, units in removed) == 6


def test_masked_channels_are_the_first_to_be_cut(ctx: Context) -> None:
    hidden = prune(state_of(tiny()), PruneSpec(ratio=0.25), ctx)
    dead = {i for i, row in enumerate(hidden.weights["cnn.blocks.1.conv.weight"]) if not row.any()}
    model = build(hidden)
    for criterion in ("l1", "lamp", "fpgm"):
        dims = dimensions(model, ["conv"])
        scores = importance.importance(model, dims, criterion, _batches)
        removed = choose(dims, scores, 0.25, Amount())
        assert set(removed[1][1].tolist()) == dead


def test_latency_of_a_quantized_network_is_refused(ctx: Context) -> None:
    quantized = ptq(state_of(tiny()), PtqSpec(calibration_batches=1), ctx)
    spec = PruneSpec(mode="structural", keep={"latency_ms": 0.5})
    with pytest.raises(StageError, match="prune before it is"):
        prune(quantized, spec, ctx)


@pytest.mark.parametrize("stop_after", [2, 6, 9])
def test_interrupted_iterations_go_on_to_the_same_bits(digits: Any, stop_after: int) -> None:
    spec = PruneSpec(
        mode="structural",
        ratio=0.5,
        iterations=3,
        criterion="taylor",
        finetune=BETWEEN,  # type: ignore[arg-type]
    )
    state = state_of(tiny())

    def context(**more: Any) -> Context:
        return Context(digits, torch.device("cpu"), 0, say=lambda text: None, **more)

    expected = prune(state, spec, context())
    memory, asked = Memory(), []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == stop_after

    with pytest.raises(Interrupted):
        prune(state, spec, context(snapshot=memory, stop_requested=stop))
    found = prune(state, spec, context(snapshot=memory))
    assert found.model_args == expected.model_args
    assert all(torch.equal(found.weights[n], v) for n, v in expected.weights.items())
