"""Networks that others wrote: every engine gives their logits, in float32, int8 and bfloat16."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engines import ENGINES, onnxruntime, openvino
from engines.program import Program
from engines.programs import programs
from engines.trial import reference, relative_norm, tried
from methods.casting import cast_layers, float32_layers
from methods.layers import layers_of
from model import Network, build_network, resolved_args
from tests.support.home import HOME
from tests.support.int8 import calibrated_on, off

OWN = f"{HOME}/tests/support/nets.py:"
VIT = {"patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
SWIN = {
    "patch_size": [4, 4], "embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": [4, 4],
}  # fmt: skip
MAXVIT = {
    "stem_channels": 8, "block_channels": [8], "block_layers": [1], "head_dim": 4,
    "stochastic_depth_prob": 0.1, "partition_size": 4,
}  # fmt: skip
QUICK: dict[str, dict[str, Any]] = {
    f"{OWN}SkipAndJoin": {},
    "torchvision:VisionTransformer": VIT,
    "torchvision:squeezenet1_1": {},
}
OTHERS: dict[str, dict[str, Any]] = {
    "torchvision:SwinTransformer": SWIN,
    **{
        f"torchvision:{name}": {}
        for name in (
            "resnet18", "resnext50_32x4d", "mobilenet_v2", "mobilenet_v3_small", "densenet121",
            "shufflenet_v2_x0_5", "efficientnet_b0", "regnet_y_400mf", "mnasnet0_5",
            "convnext_tiny", "googlenet",
        )
    },
}  # fmt: skip
NETWORKS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
ON_CPUS = ("onnxruntime", "openvino")
# What an engine computes in float32, and is told to: ONNX Runtime rounds values that many layers
# read behind the pooling after a convolution, not before it.
FLOAT = {("torchvision:densenet121", "onnxruntime"): 1}


def network(name: str, side: int = 32) -> Network:
    """In eval mode, of fixed random weights, batch norms with the statistics of noise."""
    args = {"architecture": name, "image_size": side, **{**QUICK, **OTHERS}.get(name, {})}
    torch.manual_seed(0)
    model = build_network(resolved_args(args))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight)  # torchvision's transformers begin with heads of zeros
    with torch.no_grad():
        model.train()(noise(8, side))
    return model.eval()


def noise(count: int, side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def side_of(name: str) -> int:
    return 64 if name in OTHERS and "Swin" not in name else 32


@pytest.mark.parametrize("name", NETWORKS)
def test_engines_give_the_networks_logits(name: str) -> None:
    model = network(name, side_of(name))
    plain = copy.deepcopy(model)
    (program,) = programs(model)
    for batch in (1, 3):
        images = noise(batch, side_of(name))
        with torch.inference_mode():
            expected = plain(images)
            for engine in ("eager", *ON_CPUS):
                (found,) = ENGINES[engine].ready(program, batch, 1).run([images])
                assert off(found, expected) < 1e-4, (engine, batch)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", [f"{OWN}EverySort"])
def test_what_user_code_is_made_of(name: str) -> None:
    """Operation by operation: none of them is left to torch.onnx.export."""
    model = network(name)
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    (program,) = programs(model)
    _, marks = written(program)
    assert marks == set()
    for batch in (1, 3):
        images = noise(batch)
        with torch.inference_mode():
            expected = plain(images)
        for engine in ON_CPUS:
            (found,) = ENGINES[engine].ready(program, batch, 1).run([images])
            assert off(found, expected) < 1e-4, (engine, batch)


def written(program: Program) -> tuple[Any, set[str]]:
    """The ONNX model, and the producers that it names: torch says so of its own."""
    from engines.onnx_file import onnx_model

    model = onnx_model(program.graph, program.examples(2))
    return model, {model.producer_name} - {""}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", [*QUICK, f"{OWN}EverySort"])
def test_files_for_any_batch_size(name: str) -> None:
    """What is exported as ONNX and for OpenVINO, opened by ONNX Runtime and OpenVINO."""
    from engines.openvino_graph import openvino_model

    (program,) = programs(network(name))
    session, _ = onnxruntime.opened(written(program)[0].SerializeToString(), 1)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.core().compile_model(openvino_model(program, None), "CPU", settings)
    for batch in (1, 3):
        images = noise(batch)
        with torch.inference_mode():
            expected = program.graph(images)
        feeds = {session.get_inputs()[0].name: images.numpy()}
        assert off(torch.from_numpy(session.run(None, feeds)[0]), expected) < 1e-4
        assert off(torch.from_numpy(compiled([images.numpy()])[0]), expected) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_int8_is_int8_on_every_engine(name: str) -> None:
    """Every layer in int8, logits as near to the graph's as rounding moves these.

    Weights are random: in deep networks what rounds to the other side grows from layer to layer.
    """
    side = side_of(name)
    model, images = network(name, side), noise(16, side)
    quant = calibrated_on(model, images, observer="minmax")
    made = programs(model, quant)
    expected = reference(made, model, images)
    rounding = relative_norm(made[0].graph(images), model(images))
    assert made[0].int8_layers
    for engine in ON_CPUS:
        found = tried(engine, made, (1, 3), 1, expected).found
        assert found["int8_layers_wanted"] == len(made[0].int8_layers)
        assert found["int8_layers"] == len(made[0].int8_layers) - FLOAT.get((name, engine), 0)
        assert found["relative_norm"] < 2 * rounding, (engine, found)


@pytest.mark.slow
@pytest.mark.parametrize("int8", [False, True])
def test_inductor_gives_them_too(int8: bool) -> None:
    if (why := ENGINES["inductor"].unavailable()) is not None:
        pytest.skip(why)
    model, images = network(f"{OWN}SkipAndJoin"), noise(16)
    quant = calibrated_on(model, images, observer="minmax") if int8 else None
    made = programs(model, quant)
    # Batches of 3 and 4: of one image Inductor writes so small a head as sums, in float.
    found = tried("inductor", made, (3, 4), 1, reference(made, model, images)).found
    assert found["left_out"] is None
    assert found["int8_layers"] in (None, len(made[0].int8_layers))


@pytest.mark.parametrize(
    ("name", "heads"),
    {
        f"{OWN}SkipAndJoin": {"head"},
        "torchvision:VisionTransformer": {"heads.head"},
        "torchvision:squeezenet1_1": {"classifier.1"},  # a convolution, then a mean
    }.items(),
)
def test_bfloat16_leaves_what_gives_the_logits(name: str, heads: set[str]) -> None:
    model = network(name)
    (plain,), (program,) = programs(model), programs(model, None, "bfloat16")
    assert set(layers_of(model.model_args).heads) == heads
    assert heads.isdisjoint(cast_layers(model)) and heads <= set(float32_layers(model))
    weights = {n.removesuffix(".weight"): w.dtype for n, w in program.graph.state_dict().items()}
    assert {weights[layer] for layer in heads} == {torch.float32}
    assert {weights[layer] for layer in cast_layers(model)} == {torch.bfloat16}
    images = noise(3)
    with torch.inference_mode():
        expected, found = plain.graph(images), program.graph(images)
    assert 0 < off(found, expected) < 0.03
    in_float = openvino.ready(replace(program, precision="float32"), 3, 1)
    assert off(in_float.run([images])[0], found) < 0.03


def test_an_unknown_operation_leaves_one_engine_out() -> None:
    model, images = network(f"{OWN}Cumulative"), noise(4)
    made = programs(model)
    expected = reference(made, model, images)
    said = tried("openvino", made, (1,), 1, expected).found["left_out"]
    assert "aten.cumsum.default" in said and "\n" not in said
    for engine in ("eager", "onnxruntime"):
        assert tried(engine, made, (1, 3), 1, expected).found["left_out"] is None
