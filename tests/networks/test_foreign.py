"""Networks by name: from torchvision, from a user's file, and every mistake in naming one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from methods.costs import count_macs
from methods.exported import example_inputs, export, exportable
from model import Network, blueprint, build_network, resolved_args
from networks.foreign import NetworkError, check_runs, source_digest
from networks.network import OrderedNetwork
from tests.support.user_nets import LENET, ODD_NETS, user_file

VIT = {
    "architecture": "torchvision:VisionTransformer",
    "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32,
}  # fmt: skip


def test_a_network_of_torchvision_is_torchvisions() -> None:
    args = resolved_args({"architecture": "torchvision:resnet18"})
    torch.manual_seed(0)
    network = build_network(args).eval()
    torch.manual_seed(0)
    theirs = models.resnet18(num_classes=10).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(images), theirs(images))
    assert isinstance(network, Network) and isinstance(network, models.ResNet)
    assert list(network.state_dict()) == list(theirs.state_dict())
    assert network.parts() == [network] and network.exit_places() == []
    assert network.every_logits(images).shape == (1, 2, 10)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "vit_b_32"])
def test_macs_are_those_that_torchvision_has_published(name: str) -> None:
    published = next(iter(models.get_model_weights(name))).meta["_ops"]
    args = {"architecture": f"torchvision:{name}", "image_size": 224, "num_classes": 1000}
    macs, layers = count_macs(blueprint(resolved_args(args)))
    assert macs / 1e9 == pytest.approx(published, abs=6e-4)
    assert 0 < sum(layers.values()) <= macs


def test_the_data_decide_channels_size_and_classes() -> None:
    data = {"image_size": [16, 16], "in_channels": 1, "num_classes": 7}
    for args in ({"architecture": "torchvision:mobilenet_v3_small"}, VIT):
        network = build_network(resolved_args({**args, **data})).eval()
        assert network(torch.zeros(2, 1, 16, 16)).shape == (2, 7)
        with pytest.raises(ValueError, match=r"torchvision:.* takes images \[B, 1, 16, 16\]"):
            network(torch.zeros(2, 3, 16, 16))


def test_a_stem_for_small_images_keeps_their_size() -> None:
    args = {"architecture": "torchvision:resnet18", "stem": "small"}
    network: Any = build_network(resolved_args(args))
    assert network.conv1.kernel_size == (3, 3) and network.conv1.stride == (1, 1)
    assert isinstance(network.maxpool, nn.Identity)
    assert network.layer1(network.conv1(torch.zeros(1, 3, 32, 32))).shape[-2:] == (32, 32)
    macs = count_macs(blueprint(network.model_args))[0]
    assert macs / 1e6 == pytest.approx(555.4, abs=0.1)  # 0.56 G: kuangliu/pytorch-cifar's ResNet-18


def test_a_users_network_is_built_from_its_signature(tmp_path: Path) -> None:
    name = f"{user_file(tmp_path)}:TinyNet"
    args = resolved_args({"architecture": name, "width": 4, "in_channels": 1, "image_size": 8})
    assert args == {
        "architecture": name, "image_size": [8, 8], "in_channels": 1, "num_classes": 10,
        "width": 4, "exits": [],
    }  # fmt: skip
    network = build_network(args)
    check_runs(network)
    exportable(args)
    assert next(blueprint(args).parameters()).is_meta
    assert network.state_dict()["head.weight"].shape == (10, 8)


def test_a_file_that_changes_is_read_again_and_has_another_digest(tmp_path: Path) -> None:
    name = f"{user_file(tmp_path)}:TinyNet"
    before = source_digest(name)
    assert build_network(resolved_args({"architecture": name})).state_dict()["norm.bias"].numel()
    path = tmp_path / "my_nets.py"
    path.write_text(path.read_text().replace("width=16", "width=6"))
    assert resolved_args({"architecture": name})["width"] == 6
    assert source_digest(name) != before and source_digest("torchvision:resnet18") is None


def test_a_users_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_nets.py").write_text("from torch.nn import Linear as Head\n")
    text = (
        "from torch import nn\nfrom neighbour_of_nets import Head\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes, in_channels):\n"
        "        super().__init__()\n"
        "        self.head = Head(in_channels, num_classes)\n"
        "    def forward(self, images):\n"
        "        return self.head(images.mean((2, 3)))\n"
    )
    name = f"{user_file(tmp_path, text)}:Net"
    check_runs(build_network(resolved_args({"architecture": name})))


@pytest.mark.parametrize("channels", [1, 3])
def test_maps_that_are_viewed_as_rows_lie_in_rows(tmp_path: Path, channels: int) -> None:
    name = f"{user_file(tmp_path, LENET)}:LeNet"
    args = resolved_args({"architecture": name, "image_size": 8, "in_channels": channels})
    network = build_network(args).to(memory_format=torch.channels_last)
    assert isinstance(network, OrderedNetwork)
    images = torch.randn(2, channels, 8, 8)
    expected = network(images)
    for layout in (torch.channels_last, torch.contiguous_format):
        assert torch.equal(network(images.to(memory_format=layout)), expected)
    graph = export(network, example_inputs(network))
    torch.testing.assert_close(graph(images), expected)
    assert [n.name for n in graph.graph.nodes if n.op == "placeholder"] == ["images"]
    assert not isinstance(
        build_network(resolved_args({"architecture": f"{user_file(tmp_path)}:TinyNet"})),
        OrderedNetwork,
    )


@pytest.mark.parametrize(
    ("args", "said", "key"),
    [
        ({"architecture": "torchvision:resnet81"}, "did you mean 'resnet18'", "architecture"),
        ({"architecture": "hybird"}, "did you mean 'hybrid'", "architecture"),
        ({"architecture": "nowhere.py:Net"}, "there is no file nowhere.py", "architecture"),
        ({"architecture": "torchvision:resnet18", "widht_per_group": 64},
         "did you mean 'width_per_group'", "widht_per_group"),
        ({"architecture": "torchvision:resnet18", "stem": "tiny"}, "is 'small' or left", "stem"),
        ({"architecture": "torchvision:resnet18", "norm_layer": nn.Identity}, "plain data",
         "norm_layer"),
        ({"architecture": "torchvision:VisionTransformer"}, "needs it", "patch_size"),
        ({**VIT, "image_size": [16, 24]}, "one side of square images", "architecture"),
        ({**VIT, "stem": "small"}, "cuts images in patches", "stem"),
        ({**VIT, "patch_size": 5}, "cannot be built", None),
        ({"architecture": "torchvision:googlenet", "image_size": 96},
         "in training it gives GoogLeNetOutputs", None),
        ({"architecture": "torchvision:inception_v3"}, "does not run", None),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_told_in_one_line(
    args: dict[str, Any], said: str, key: str | None
) -> None:
    with pytest.raises(NetworkError, match=said) as raised:
        check_runs(blueprint(resolved_args(args)))
    assert raised.value.key == key and "\n" not in raised.value.text


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("NoClasses", "should take num_classes"),
        ("TwoOutputs", r"should give logits \[2, 10\] of two images, it gives tuple"),
        ("Fails", "cannot be built: RuntimeError: no luck"),
        ("HasNothing", "has no parameters that could be trained"),
        ("NeedsMore", "needs it; give it in model_args"),
        ("LooksAtValues", "cannot be exported as a graph|does not run"),
        ("Nothing", "has no nn.Module 'Nothing'; it has NoClasses"),
    ],
)
def test_users_networks_that_go_wrong(tmp_path: Path, kind: str, said: str) -> None:
    name = f"{user_file(tmp_path, ODD_NETS)}:{kind}"
    with pytest.raises(NetworkError, match=said) as raised:
        network = blueprint(resolved_args({"architecture": name}))
        check_runs(network)
        exportable(network.model_args)
    assert "\n" not in raised.value.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_module_anywhere\n", "ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
    ],
)
def test_a_file_with_a_mistake_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = user_file(tmp_path, text)
    with pytest.raises(NetworkError, match=f"cannot be imported: {said}"):
        resolved_args({"architecture": f"{file}:Net"})
