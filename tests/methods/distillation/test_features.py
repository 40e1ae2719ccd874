"""Features are seen at the same places in float, quantized and pruned networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from methods.distillation.features import Watch, places
from methods.quantization import backends
from methods.quantization.record import Quant
from model import HybridCNNTransformer, build_network, resolved_args
from stages.distillation import DistillSpec
from tests.support.tiny import TINY, tiny


@pytest.mark.parametrize("pooling", ["mean", "class_token"])
@pytest.mark.parametrize("backend", ["x86", "inductor"])
def test_features_of_a_network_in_quantization_are_at_the_same_places(
    backend: str, pooling: str
) -> None:
    model, images = tiny(pooling=pooling), torch.randn(4, 1, 8, 8)
    at = [(p.student, p.positions) for p in places(model.model_args, model.model_args)]
    prepared = backends.prepare(model, Quant("ptq", backend))  # it only observes
    one, other = Watch(model, at), Watch(prepared, at)
    with torch.inference_mode():
        model(images)
        prepared(images)
    assert one.seen.keys() == other.seen.keys() == {
        "cnn.blocks.0.pool", "cnn.blocks.1.pool", "transformer.norm",
    }  # fmt: skip
    for name in one.seen:
        torch.testing.assert_close(one.seen[name], other.seen[name], rtol=1e-4, atol=1e-5)
    assert one.seen["transformer.norm"].shape == (4, 16, 16)  # without the class token


def test_places_are_the_ends_of_each_resolution_that_both_have() -> None:
    def args(**more: Any) -> dict[str, Any]:
        return HybridCNNTransformer(**{**TINY, **more}).model_args

    wide = args(cnn_channels=[8, 8, 16], cnn_pools=[1, 1, 2], embed_dim=32)
    assert places(args(), wide) == [
        ("cnn.blocks.0.pool", "cnn.blocks.1.pool", 64, (8, 8)),
        ("cnn.blocks.1.pool", "cnn.blocks.2.pool", 16, (16, 16)),
        ("transformer.norm", "transformer.norm", 16, (16, 32)),
    ]
    beside = places(args(fusion="parallel"), args(fusion="parallel_attention", patch_size=2))
    assert [place.student for place in beside] == ["cnn.blocks.0.pool", "cnn.blocks.1.pool"]
    tokens = places(args(), args(fusion="parallel_attention", patch_size=4))
    assert "transformer.norm" not in [place.student for place in tokens]  # 16 against 4
    nothing = args(cnn_channels=[8], cnn_pools=[4], fusion="parallel")
    with pytest.raises(ValueError, match="no feature map of one size"):
        DistillSpec(width=0.5, feature_weight=1.0).check_teacher(args(), nothing, False)


RESNET = {"architecture": "resnet_cifar", "depth": 8, "width": 8}
DATA = {"image_size": 8, "in_channels": 1}


def test_places_of_another_architecture_are_the_last_modules_of_each_size() -> None:
    mine = tiny().model_args
    resnet = resolved_args({**RESNET, **DATA})
    assert places(mine, resnet) == [
        ("cnn.blocks.0.pool", "layer1", 64, (8, 8)),
        ("cnn.blocks.1.pool", "layer2", 16, (16, 16)),
    ]
    found = places(resnet, mine)
    assert [(p.student, p.teacher) for p in found] == [
        (p.teacher, p.student) for p in places(mine, resnet)
    ]
    vit = resolved_args(
        {
            "architecture": "torchvision:VisionTransformer", "patch_size": 2, "num_layers": 2,
            "num_heads": 2, "hidden_dim": 12, "mlp_dim": 16, **DATA,
        }
    )  # fmt: skip
    tokens = places(mine, vit)  # 4×4 patches beside a class token
    assert ("transformer.norm", "encoder", 16, (16, 12)) in tokens


def test_what_a_foreign_teacher_shows_is_what_its_modules_give() -> None:
    network = build_network(resolved_args({**RESNET, **DATA})).eval()
    at = places(network.model_args, tiny().model_args)
    watch = Watch(network, [(p.student, p.positions) for p in at])
    images = torch.randn(3, 1, 8, 8)
    with torch.inference_mode():
        network(images)
    for place in at:
        assert watch.seen[place.student].shape == (3, place.positions, place.channels[0])
