"""int8 weights that a stage froze are moved by no later one; what is float beside them trains."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dataset import Dataset
from machine.files import tensor_bytes
from methods.quantization.freezing import frozen_tensors
from stages.deployment import calibrated, deploy
from stages.distillation import DistillSpec, distill
from stages.early_exit import EarlyExitSpec, early_exit
from stages.finetuning import FinetuneSpec, finetune
from stages.fitting import fit
from stages.pruning import PruneSpec, prune
from stages.ptq import PtqSpec, ptq
from stages.qat import QatSpec, qat
from stages.ranks import take_part
from stages.stage import Context
from stages.state import ModelState, build, from_plain, state_of, to_plain
from tests.support.memory import assert_same_bits, resumed, uninterrupted
from tests.support.processes import in_team
from tests.support.suites import Suites
from tests.support.tiny import tiny
from training.team import Team

FAST: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 256,
    "precision": "fp32",
    "learning_rate": 5e-3,
}
RECIPES: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
    "muon": {"optimizer": "muon", "weight_decay": 0.1},
    "ema": {"ema_decay": 0.9, "optimizer": "sgd", "weight_decay": 0.1},
    "sparsity": {"sparsity": 1e-3, "keep": "best"},
    "taught": {"teacher": "baseline", "feature_weight": 1.0},
}


def quantizing(scheme: str, freeze: bool, ctx: Context, **args: Any) -> ModelState:
    torch.manual_seed(0)
    state = state_of(tiny(**args))
    if scheme == "ptq":
        return ptq(state, PtqSpec(calibration_batches=1, freeze=freeze), ctx)
    return qat(state, QatSpec(freeze=freeze, **FAST), ctx)


def frozen_names(state: ModelState) -> set[str]:
    assert state.quant is not None
    return frozen_tensors(build(state), state.quant)


def moved(after: ModelState, before: ModelState) -> set[str]:
    """Names of the tensors that differ; new ones are left out."""
    known = after.weights.keys() & before.weights.keys()
    return {n for n in known if not torch.equal(after.weights[n], before.weights[n])}


def float_names(state: ModelState) -> set[str]:
    return {name for name, _ in build(state).named_parameters()} - frozen_names(state)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("scheme", ["ptq", "qat"])
def test_finetuning_moves_what_is_float_alone(scheme: str, recipe: str, ctx: Context) -> None:
    """And without freezing it moves the rest."""
    options = {**FAST, **RECIPES[recipe]}
    ctx.teacher = state_of(tiny())
    for freeze in (True, False):
        start = quantizing(scheme, freeze, ctx)
        after = finetune(start, FinetuneSpec(**options), ctx)
        assert start.quant is not None and start.quant.frozen is freeze
        assert after.quant is not None and after.quant.frozen is freeze
        if freeze:
            assert moved(after, start) == float_names(start)
            assert any("froze the int8 weights" in text for text in ctx.details["warnings"])
        else:
            assert frozen_names(start) & moved(after, start) >= {
                "head.weight",
                "cnn.blocks.0.norm.running_mean",
                "cnn.blocks.0.conv.weight",
            }


@pytest.mark.parametrize("scheme", ["ptq", "qat"])
def test_freezing_changes_nothing_of_what_is_deployed(scheme: str, ctx: Context) -> None:
    """The same ranges, found before weights are rounded, so the same int8 network."""
    plain, frozen = (calibrated(quantizing(scheme, f, ctx), ctx).state for f in (False, True))
    assert plain.quant is not None and frozen.quant is not None
    assert plain.quant.ranges is not None and frozen.quant.ranges is not None
    for place, range_ in plain.quant.ranges.items():
        assert torch.equal(frozen.quant.ranges[place], range_), place
    assert "head.weight" in moved(frozen, plain)
    images = torch.randn(8, 1, 8, 8)
    one, other = (deploy(s).programs[0].graph(images) for s in (plain, frozen))
    assert torch.equal(one, other)


def test_layers_kept_float_train_on_with_their_norms(ctx: Context) -> None:
    spec = PtqSpec(calibration_batches=1, freeze=True, float_layers=["cnn.blocks.0.*"])
    start = ptq(state_of(tiny()), spec, ctx)
    after = moved(finetune(start, FinetuneSpec(**FAST), ctx), start)
    assert {"cnn.blocks.0.conv.weight", "cnn.blocks.0.norm.running_var"} <= after
    assert not after & frozen_names(start)


@pytest.mark.parametrize("scheme", ["ptq", "qat"])
def test_masked_channels_stay_zero_and_the_rest_stays(scheme: str, ctx: Context) -> None:
    start = prune(quantizing(scheme, True, ctx), PruneSpec(ratio=0.4), ctx)
    after = moved(finetune(start, FinetuneSpec(**FAST), ctx), start)
    assert after and not after & frozen_names(start)


def test_what_prune_trains_between_its_cuts_is_float_alone(ctx: Context) -> None:
    """Cut at once or in steps with training between: of what is left the same int8 weights."""
    start = quantizing("ptq", True, ctx)
    options: dict[str, Any] = {"mode": "structural", "targets": ["ffn"], "criterion": "l1"}
    inner = PruneSpec(ratio=0.5, iterations=2, finetune=FinetuneSpec(**FAST), **options)
    ctx.details.clear()
    steps, once = prune(start, inner, ctx), prune(start, PruneSpec(ratio=0.5, **options), ctx)
    assert steps.quant is not None and steps.quant.frozen
    assert moved(steps, once) == float_names(once)
    assert len(ctx.details["warnings"]) == 1


@pytest.mark.parametrize("trunk", ["joint", "frozen"])
@pytest.mark.parametrize("scheme", ["ptq", "qat"])
def test_heads_of_exits_train_before_and_after(scheme: str, trunk: Any, ctx: Context) -> None:
    start = quantizing(scheme, True, ctx)
    spec = EarlyExitSpec(trunk=trunk, thresholds=0.5, **FAST)
    left = early_exit(start, spec, ctx)
    assert left.quant is not None and left.quant.frozen
    assert moved(left, start) == (float_names(start) if trunk == "joint" else set())
    after = finetune(left, FinetuneSpec(**FAST), ctx)
    changed = moved(after, left)
    assert {"exits.cnn.head.weight", "exits.layer_0.head.weight"} <= changed
    assert changed == float_names(left)


@pytest.mark.parametrize("init", ["random", "teacher"])
def test_a_student_has_masters(init: Any, ctx: Context) -> None:
    ctx.teacher = state_of(tiny())
    start = quantizing("qat", True, ctx)
    spec = DistillSpec(width=0.5, teacher="baseline", init=init, **FAST)
    student = distill(start, spec, ctx)
    assert student.quant is not None and not student.quant.frozen
    after = moved(finetune(student, FinetuneSpec(**FAST), ctx), student)
    assert {"head.weight", "cnn.blocks.0.conv.weight", "cnn.blocks.0.norm.running_mean"} <= after


@pytest.mark.parametrize("scheme", ["ptq", "qat"])
def test_quantizing_again_does_not_bring_masters_back(scheme: str, ctx: Context) -> None:
    """Ranges are found anew; what trains in between is float."""
    start = quantizing("ptq", True, ctx)
    spec = PtqSpec(calibration_batches=2) if scheme == "ptq" else QatSpec(**FAST)
    again = ptq(start, spec, ctx) if isinstance(spec, PtqSpec) else qat(start, spec, ctx)
    assert start.quant is not None and start.quant.ranges is not None
    assert again.quant is not None and again.quant.frozen and again.quant.ranges is not None
    assert moved(again, start) == (float_names(start) if scheme == "qat" else set())
    assert any(not torch.equal(r, again.quant.ranges[n]) for n, r in start.quant.ranges.items())


def test_where_all_is_frozen_nothing_trains(ctx: Context) -> None:
    start = quantizing("ptq", True, ctx, fusion="parallel")
    after = finetune(start, FinetuneSpec(**FAST), ctx)
    assert after is start and "history" not in ctx.details
    assert ctx.details["warnings"][-1].endswith("nothing else: nothing was trained")
    again = qat(start, QatSpec(**FAST), ctx)
    assert again.quant is not None and again.quant.scheme == "qat" and again.quant.ranges


def _finetuned(scheme: str, context: Context) -> ModelState:
    start = quantizing(scheme, True, replace(context, snapshot=None, stop_requested=bool))
    options = {**FAST, "epochs": 2, "batch_size": 128, "ema_decay": 0.9, "keep": "best"}
    return finetune(start, FinetuneSpec(**options), context)


@pytest.mark.parametrize("scheme", ["ptq", "qat"])
def test_interrupted_and_resumed_equals_uninterrupted(scheme: str, digits: Dataset) -> None:
    expected, _ = uninterrupted(partial(_finetuned, scheme), digits)
    found, _ = resumed(partial(_finetuned, scheme), digits, stop_after=12)
    assert_same_bits(found, expected)


@pytest.mark.parametrize("scheme", ["ptq", "qat"])
def test_processes_together_move_what_is_float_alone(
    scheme: str, digits: Dataset, ctx: Context, tmp_path: Path
) -> None:
    start = quantizing(scheme, True, ctx)
    after, _ = in_team(2, tmp_path, _shared, start, digits)
    assert moved(from_plain(after), start) == float_names(start)


def _shared(team: Team, start: ModelState, dataset: Dataset) -> dict[str, Any] | None:
    if team.rank > 0:
        take_part(team, fit)
        return None
    ctx = Context(dataset, torch.device("cpu"), 0, say=lambda text: None)
    after = finetune(start, FinetuneSpec(**FAST), ctx)
    assert ctx.details["processes"] == 2
    team.broadcast(None)
    return to_plain(after)


def test_files_say_it_and_older_ones_need_not(ctx: Context) -> None:
    state = quantizing("ptq", True, ctx)
    plain = to_plain(state)
    again = from_plain(torch.load(io.BytesIO(tensor_bytes(plain)), weights_only=True))
    assert again.quant is not None and again.quant.frozen
    assert_same_bits(again, state)
    del plain["quant"]["frozen"]
    older = from_plain(plain)
    assert older.quant is not None and not older.quant.frozen


def test_it_is_of_backend_pt2e(suites: Suites) -> None:
    """Whose networks are frozen, no other backend quantizes; a student is another network."""
    text = """
    FREEZE = {"backend": "pt2e", "freeze": True}
    STUDENT = {"distill": {"width": 0.5, "epochs": 1}}
    DEFAULT_DEPLOYMENT_PARAMS["engines"] = ["eager", "inductor"]
    EXPERIMENT_CONFIGS += [
        chain("A", {"ptq": {"freeze": True}}),
        chain("B", {"qat": FREEZE}, {"finetune": {"epochs": 1}}, {"ptq": {"backend": "x86"}}),
        chain("C", {"ptq": FREEZE}, STUDENT, {"ptq": {"backend": "x86"}}),
    ]
    """
    at_once, later = suites.refused(text)
    place = "A.compression_args.sequence[0].freeze: True"
    assert at_once == f"{place} needs backend 'pt2e', not 'x86'; set that, or remove the key"
    assert later.startswith("B.compression_args.sequence[2]: backend 'x86' cannot quantize a netw")
