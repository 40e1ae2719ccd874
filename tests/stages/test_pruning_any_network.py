"""The pruning stage on networks that are no hybrid: what is checked before, and what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from methods import costs
from model import blueprint, resolved_args
from stages.distillation import DistillSpec, distill
from stages.pruning import PruneSpec, prune
from stages.stage import Context
from stages.state import ModelState, build, initial_state
from tests.support.chains import FAST
from tests.support.user_nets import TINY_NET, user_file

DIGITS = {"image_size": 8, "in_channels": 1}
VIT = {"patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}


@pytest.fixture
def start(tmp_path: Path) -> ModelState:
    args = {"architecture": f"{user_file(tmp_path)}:TinyNet", "width": 16, **DIGITS}
    return initial_state(resolved_args(args), 0)


def cutting(**options: Any) -> PruneSpec:
    return PruneSpec(mode="structural", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.3},
        {"keep": {"macs": 0.5}},
        {"keep": {"params": 0.5}, "criterion": "taylor"},
        {"ratio": 0.5, "ratios": {"right": 0.9}, "protect": ["first"], "round_to": 2},
    ],
    ids=str,
)
def test_widths_without_weights_are_those_that_come_out(
    options: dict[str, Any], start: ModelState, ctx: Context
) -> None:
    spec = cutting(**options)
    spec.check(start.model_args)
    spec.check_target(start.model_args, False, True)
    assert spec.foresees(start.model_args)
    pruned = prune(start, spec, ctx)
    assert spec.outgoing(start.model_args) == pruned.model_args != start.model_args
    assert build(pruned)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    if "macs" in options.get("keep", {}):
        found = costs.planned_macs(pruned.model_args)[-1] / costs.planned_macs(start.model_args)[-1]
        assert found == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "options",
    [
        {"scope": "global", "criterion": "l2", "ratio": 0.3},
        {"ratios": "auto", "ratio": 0.3},
        {"iterations": 2, "finetune": FAST, "ratio": 0.5},
        {"ratio": 0.3, "criterion": "activation"},
    ],
    ids=str,
)
def test_all_ways_to_choose(options: dict[str, Any], start: ModelState, ctx: Context) -> None:
    pruned = prune(start, cutting(**options), ctx)
    assert set(ctx.details["widths"]) <= {"first", "left", "right"}
    if "iterations" in options:
        assert ctx.details["widths"] == {n: [16, 8] for n in ("first", "left", "right")}
    assert len(build(pruned).state_dict()["head.weight"]) == 10


def test_candidates_share_a_cost_in_several_ways(start: ModelState, ctx: Context) -> None:
    spec = cutting(keep={"macs": 0.5}, candidates=8)
    spec.check(start.model_args)
    spec.check_target(start.model_args, False, True)
    pruned, rows = prune(start, spec, ctx), ctx.details["candidates"]
    found = costs.count_macs(build(pruned))[0] / costs.count_macs(build(start))[0]
    chosen = min(rows, key=lambda row: row["loss"])
    assert len(rows) > 1 and chosen["kept"] == pytest.approx(found)
    assert found == pytest.approx(0.5, abs=0.02)
    for name, width in chosen["widths"].items():
        assert ctx.details["widths"].get(name, [16, 16])[1] == width


def test_prunes_again_and_teaches(start: ModelState, ctx: Context) -> None:
    once = prune(start, cutting(ratio=0.5), ctx)
    twice = prune(once, cutting(ratio=0.5), ctx)
    assert twice.model_args["shapes"]["head.weight"] == [10, 8]
    student = distill(twice, DistillSpec(width=0.5, init="teacher", teacher="current", **FAST), ctx)
    assert student.model_args == twice.model_args  # widths are eights at least
    taught = distill(
        once,
        DistillSpec(
            student={"architecture": "hybrid", "cnn_channels": [8], "cnn_pools": [2]}, **FAST
        ),
        ctx,
    )
    assert taught.model_args["cnn_channels"] == [8] and ctx.details["widths"] == {}


def test_what_is_refused_before_anything_runs(start: ModelState, tmp_path: Path) -> None:
    vit = resolved_args({"architecture": "torchvision:VisionTransformer", **VIT, **DIGITS})
    counting = user_file(tmp_path, TINY_NET + LOOKS, "looks.py")
    looks = resolved_args({"architecture": f"{counting}:Looks", "width": 8, **DIGITS})
    for args, options, said in [
        (start.model_args, {"targets": ["heads"]}, "'heads' is of networks that say themselves"),
        (vit, {"targets": ["heads", "ffn"]}, "'heads' is of networks that say themselves"),
        (vit, {"targets": ["embed"]}, "leaves conv_proj as it is: the cut network does not run"),
        (start.model_args, {"targets": ["ffn"]}, "the network has none of these"),
        (start.model_args, {"protect": ["nothing"]}, "matches nothing to prune; there are: first"),
        (start.model_args, {"criterion": "bn_scale"}, "does not score right"),
        (looks, {}, "cannot be followed by torch.export"),
        (looks, {"mode": "mask"}, "cannot be followed by torch.export"),
    ]:
        spec = PruneSpec(**{"mode": "structural", "ratio": 0.3, **options})
        with pytest.raises(ValueError, match=said) as caught:
            spec.check(args)
        assert "\n" not in str(caught.value)
    spec = cutting(keep={"macs": 0.05}, protect=["first"])
    with pytest.raises(ValueError, match="not possible with these targets"):
        spec.check_target(start.model_args, False, True)


def test_what_is_left_alone_is_told() -> None:
    vit = resolved_args({"architecture": "torchvision:VisionTransformer", **VIT, **DIGITS})
    (said,) = cutting(ratio=0.3, targets=["ffn", "embed"]).remarks(vit)
    assert said.startswith("leaves conv_proj as it is: the cut network does not run")
    assert cutting(ratio=0.3).remarks(vit) == []


def test_a_network_says_itself_what_can_be_cut(tmp_path: Path, ctx: Context) -> None:
    file = user_file(tmp_path, TINY_NET + SAYS, "says.py")
    args = resolved_args({"architecture": f"{file}:Says", "inner": [12], **DIGITS})
    pruned = prune(initial_state(args, 0), cutting(ratio=0.5, targets=["ffn"]), ctx)
    assert pruned.model_args == {**args, "inner": [6]}
    assert blueprint(pruned.model_args).get_parameter("fc1.weight").shape == (6, 64)


LOOKS = """

class Looks(TinyNet):
    def forward(self, images):
        logits = super().forward(images)
        return logits if logits.sum() > 0 else -logits
"""
SAYS = """
from methods.pruning.cutting import Dimension, Member
from model import Network


class Says(Network):
    def __init__(self, num_classes, image_size=(8, 8), inner=(12,)):
        super().__init__()
        self.fc1 = nn.Linear(image_size[0] * image_size[1], inner[0])
        self.fc2 = nn.Linear(inner[0], num_classes)

    def forward(self, images):
        return self.fc2(F.relu(self.fc1(images.flatten(1))))

    def dimensions(self):
        units = torch.arange(self.fc1.out_features)[:, None]
        members = (
            Member("fc1.weight", 0, "out", units),
            Member("fc1.bias", 0, "out", units),
            Member("fc2.weight", 1, "in", units),
        )
        return [Dimension("fc1", "ffn", len(units), "inner", 0, members)]
"""
