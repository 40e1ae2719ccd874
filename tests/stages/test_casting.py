"""A cast network computes as torch's own bfloat16 does, in any order with other stages."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import main
from engines.programs import programs
from experiment.running import measure
from experiment.running.store import Store
from experiment.suite.chains import plan
from experiment.suite.schema import load_suite
from machine import processor
from methods.casting import BFLOAT16, FLOAT32, cast_layers, float32_layers
from methods.costs import count_macs
from methods.quantization.record import Quant
from stages import STAGES
from stages.casting import CastSpec, cast
from stages.deployment import Deployed, calibrated, deploy
from stages.early_exit import EarlyExitSpec
from stages.stage import Context
from stages.state import ModelState, from_plain, state_of, to_plain
from tests.support.chains import FAST, SPECS
from tests.support.int8 import calibrated_on, off
from tests.support.processes import forkserver
from tests.support.suites import Suites, results
from tests.support.tiny import FUSIONS, RICH, tiny

BF16 = CastSpec(emulate=True)
EXITS = EarlyExitSpec(thresholds=0.6, **FAST)
ROUNDING = 2**-8  # of bfloat16, between two neighbouring values
KINDS: list[dict[str, Any]] = [
    *({"fusion": fusion} for fusion in FUSIONS),
    {"cnn_norm": "group", "pooling": "sequence", "ffn_activation": "silu"},
    {"cnn_norm": "none", "cnn_activation": "hardswish", "pooling": "class_token"},
    {"cnn_separable": True, "cnn_activation": "gelu", "positional_encoding": "sinusoidal"},
    RICH,
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("exits", [[], ["cnn"]])
def test_a_cast_network_is_as_near_as_torchs_own_bfloat16(
    kind: dict[str, Any], exits: list[str]
) -> None:
    model, images = tiny(**kind, exits=exits), torch.randn(64, 1, 8, 8)
    deployed = deploy(cast_state(state_of(model)))
    with torch.inference_mode():
        exact = model.every_logits(images)[-1]
        narrow = copy.deepcopy(model).bfloat16()
        whole = narrow.every_logits(images.bfloat16())[-1].float()
        with torch.autocast("cpu", torch.bfloat16):
            autocast = model.every_logits(images)[-1].float()
        found = deployed.whole(images)
    found = found[-1] if exits else found
    assert found.dtype == torch.float32
    for theirs in (whole, autocast):
        assert off(found, theirs) < 2 * ROUNDING
        # Its heads and sums stay float32; kernels of processors with bfloat16 round by themselves.
        assert 0 < off(found, exact) < 1.25 * off(theirs, exact)


def cast_state(state: ModelState) -> ModelState:
    return from_plain({**to_plain(state), "precision": BFLOAT16})


def test_the_named_layers_are_bfloat16_and_the_others_float32() -> None:
    model = tiny(pooling="sequence", cnn_norm="group", exits=["cnn"])
    weights = {
        name.removesuffix(".weight"): value.dtype
        for program in programs(model, None, BFLOAT16)
        for name, value in program.graph.state_dict().items()
        if name.endswith(".weight")
    }
    assert {n for n, kind in weights.items() if kind == torch.bfloat16} == set(cast_layers(model))
    assert {n for n, kind in weights.items() if kind == torch.float32} == set(float32_layers(model))
    assert {"head", "exits.cnn.head", "transformer.score"} <= set(float32_layers(model))
    assert next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("backend", ["inductor", "x86"])
@pytest.mark.parametrize("kept", [[], ["cnn.blocks.1.conv", "*.fc1"]])
def test_int8_layers_stay_int8_and_the_rest_becomes_bfloat16(backend: str, kept: list[str]) -> None:
    model, images = tiny(), torch.randn(64, 1, 8, 8)
    quant = calibrated_on(model, images, backend=backend, float_layers=kept)
    (plain,) = programs(copy.deepcopy(model), quant)
    (program,) = programs(copy.deepcopy(model), quant, BFLOAT16)
    assert program.int8_layers == plain.int8_layers and program.precision == BFLOAT16
    with torch.inference_mode():
        assert 0 < off(program.graph(images), plain.graph(images)) < 8 * ROUNDING
    values = program.graph.state_dict().values()
    halved = [value for value in values if value.dtype == torch.bfloat16]
    assert len(halved) == 2 * (1 + 2) * bool(kept)  # weight and bias
    attention = torch.ops.aten.scaled_dot_product_attention.default
    nodes = [node for node in program.graph.graph.nodes if node.target is attention]
    assert [node.meta["val"].dtype for node in nodes] == [torch.bfloat16] * 2


def run(state: ModelState, order: list[str], ctx: Context) -> Deployed:
    specs = {**SPECS, "cast": BF16, "early_exit": EXITS}
    for name in order:
        deployed = calibrated(STAGES[name].run(state, specs[name], ctx), ctx)
        state = deployed.state
    return deployed


ORDERS = [
    ["cast", "prune", "finetune"],
    ["qat", "cast"],
    ["cast", "ptq"],
    ["cast", "early_exit"],
    ["early_exit", "ptq", "cast", "prune"],
    ["cast", "distill", "qat"],
]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Any]:
    """A new process."""
    with forkserver().Pool(1) as pool:
        yield pool


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_every_order_is_saved_and_gives_the_same_logits_in_a_new_process(
    order: list[str], ctx: Context, tmp_path: Path, elsewhere: Any
) -> None:
    ctx.teacher = state_of(tiny(num_layers=1))
    deployed = run(ctx.teacher, order, ctx)
    assert deployed.state.precision == BFLOAT16
    assert all(value.dtype != torch.bfloat16 for value in deployed.state.weights.values())
    assert (deployed.state.quant is not None) == bool({"ptq", "qat"} & set(order))
    store = Store(tmp_path)
    store.put("k", deployed.state, {"metrics": {}})
    images = torch.randn(6, 1, 8, 8)
    with torch.inference_mode():
        mine = deployed.network(images)
    theirs = elsewhere.apply(_logits, (store.path("k"), images.numpy()))
    assert torch.equal(mine, torch.from_numpy(theirs))


def _logits(path: Path, images: Any) -> Any:
    import utils

    torch.set_num_threads(1)
    with torch.inference_mode():
        return utils.load_model(path)(torch.from_numpy(images)).numpy()


def test_masters_train_on_as_without_a_cast(ctx: Context) -> None:
    start = state_of(tiny(num_layers=1))
    finetune = STAGES["finetune"].run
    plain = finetune(start, SPECS["finetune"], ctx)
    after = finetune(cast(start, BF16, ctx), SPECS["finetune"], ctx)
    assert after.precision == BFLOAT16 and plain.precision == FLOAT32
    assert all(torch.equal(plain.weights[n], value) for n, value in after.weights.items())


def test_older_files_are_float32() -> None:
    plain = to_plain(state_of(tiny()))
    del plain["precision"]
    assert from_plain(plain).precision == FLOAT32


def test_bitops_and_bytes_by_hand() -> None:
    model = tiny(pooling="sequence")
    state = cast_state(state_of(model))
    macs, layers = count_macs(model)
    wide = layers["head"] + layers["transformer.score"]
    metrics = measure.static_metrics(deploy(state))
    assert metrics["macs"] == macs
    assert metrics["bitops"] == (macs - wide) * 16**2 + wide * 32**2
    quant = Quant("ptq", "x86", float_layers=("embed", "head"))
    int8 = sum(layers.values()) - layers["embed"] - layers["head"]
    rest = macs - int8 - layers["head"]  # the embedding, and attention itself
    both = state.changed(state.weights, quant=quant)
    expected = int8 * 64 + rest * 16**2 + layers["head"] * 32**2
    assert measure.bitops(both, model, macs, layers) == expected
    halved = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and name in cast_layers(model)
    )
    narrow = sum(
        value.numel()
        for value in deploy(state).network.state_dict().values()
        if value.dtype == torch.bfloat16
    )
    assert 0 < narrow - halved < 2000  # its biases


def test_where_nothing_computes_in_bfloat16_a_cast_is_refused(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.casting.bf16_is_fast", lambda device: False)
    (told,) = suites.refused('EXPERIMENT_CONFIGS.append(chain("C", "cast"))')
    assert told.startswith("C.compression_args.sequence[0]: dtype 'bf16': this processor has no")
    assert "add 'emulate': True" in told
    load_suite(suites.write('EXPERIMENT_CONFIGS.append(chain("C", {"cast": {"emulate": True}}))'))
    monkeypatch.setattr("stages.casting.bf16_is_fast", lambda device: True)
    load_suite(suites.write('EXPERIMENT_CONFIGS.append(chain("C", "cast"))'))


def test_an_emulated_network_is_marked_and_has_no_speed_up(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.deployment.bf16_is_fast", lambda device: False)
    text = """
    EXPERIMENT_CONFIGS.append(chain("C", {"cast": {"emulate": True}}, {"prune": {"ratio": 0.4}}))
    EXPERIMENT_CONFIGS.append(chain("P", {"prune": {"ratio": 0.4}}))
    """
    assert suites.run(text) == 0
    cast_, pruned = results(suites, "C")["stages"]
    for stage in (cast_, pruned):
        assert stage["precision"] == BFLOAT16 and stage["metrics"]["emulated"] is True
        assert any("bfloat16 is emulated" in text for text in stage["metrics"]["warnings"])
        times = stage["metrics"]["inference_time_ms"]["batch_1"]
        assert times["engine"] == "eager" and "speedup" not in times
        assert stage["metrics"]["engines"]["eager"]["precision"] == BFLOAT16
    assert not cast_["details"].get("warnings")  # it changed something
    assert cast_["details"]["float32_layers"][-1] == "head"
    assert "emulated" not in results(suites, "P")["stages"][0]["metrics"]
    assert Path(cast_["checkpoint"]).name == "C_bf16.pth"
    assert results(suites, "C")["config"]["sequence"][0] == {"cast": {"dtype": "bf16"}}
    suites.capsys.readouterr()
    arguments = ["export", "C", "--format", "onnx", "--config", str(suites.folder / "suite.py")]
    assert main.main(arguments) == 2
    assert "is bfloat16, which no format here holds" in suites.capsys.readouterr().err


def test_casting_twice_changes_nothing_and_emulating_is_in_no_key(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.casting.bf16_is_fast", lambda device: True)
    text = """
    AGAIN = {"cast": {"emulate": True}}
    EXPERIMENT_CONFIGS += [chain("A", "cast", AGAIN), chain("B", AGAIN), chain("F", "ptq")]
    """
    keys = {
        c.experiment.name: [s.key for s in c.steps] for c in plan(load_suite(suites.write(text)))
    }
    assert keys["A"][0] == keys["B"][0]
    assert suites.run(text, "--only", "A") == 0
    warnings = results(suites, "A")["stages"][1]["details"]["warnings"]
    assert warnings == ["cast changed nothing: it was cast before"]


def test_a_cast_teacher_shows_its_logits_alone(suites: Suites) -> None:
    text = """
    CAST = {"cast": {"emulate": True}}
    TAUGHT = {"finetune": {"epochs": 1, "teacher": "current", "feature_weight": 1.0}}
    KEEP = {"prune": {"mode": "structural", "keep": {"latency_ms": 0.5}}}
    EXPERIMENT_CONFIGS += [chain("T", CAST, TAUGHT), chain("P", CAST, KEEP)]
    """
    keep, teacher = suites.refused(text)  # the teachers are checked last
    assert "'current' is int8 or bfloat16, which shows its logits alone" in teacher
    assert "this one is quantized or cast" in keep


@pytest.mark.skipif(not processor.bf16_is_fast("cpu"), reason="this processor has no bfloat16")
def test_where_bfloat16_is_fast_nothing_is_emulated() -> None:
    assert not deploy(cast_state(state_of(tiny()))).emulated
