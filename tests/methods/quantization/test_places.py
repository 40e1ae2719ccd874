"""int8 of networks that are not hybrids: torchao's own way gives the same bits."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from engines.programs import programs
from methods.exported import example_inputs
from methods.quantization import backends, fake_quant
from methods.quantization.record import Quant, quantizable_layers
from model import Network, build_network
from tests.support.int8 import off, simulated
from tests.support.others import MOBILENET, RESNET18, VIT, images_for, other, written
from tests.support.processes import in_new_process

aten = torch.ops.aten
quantized = torch.ops.quantized_decomposed


def calibrated(network: Network, images: Tensor, **options: Any) -> Quant:
    return backends.with_calibrated_ranges(
        network, Quant("ptq", "pt2e", **options), [(images, images)]
    )


def int8_graph(network: Network, quant: Quant) -> fx.GraphModule:
    (program,) = programs(network, quant)
    return program.graph


def run(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images)


def test_torchaos_own_quantization_gives_the_same_bits(tmp_path: Path) -> None:
    """On modules alone, with its own configuration; functions it would not see."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    network, images = other(written(tmp_path, "Modules")), images_for()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = torch.export.Dim("batch", min=1, max=1024)
    exported = torch.export.export(network, example_inputs(network), dynamic_shapes=({0: batch},))
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(exported.module(), quantizer)
    run(prepared, images)
    expected = run(convert_pt2e(prepared), images)
    ours = int8_graph(network, calibrated(network, images))
    assert torch.equal(run(ours, images), expected)
    assert not torch.equal(expected, run(network, images))


@pytest.mark.parametrize("kind", ["Odd", "TinyNet", "Modules", "resnet18", "mobilenet", "vit"])
def test_int8_gives_what_float_gives_within_its_steps(kind: str, tmp_path: Path) -> None:
    """All layers int8; batch norms that cannot be folded, and layers called twice, are right."""
    known = {"resnet18": RESNET18, "mobilenet": MOBILENET, "vit": VIT}
    network = other(known[kind] if kind in known else written(tmp_path, kind), side=8)
    images = images_for(side=8)
    quant = calibrated(network, images, observer="minmax")
    (program,) = programs(network, quant)
    assert set(program.int8_layers) == set(quantizable_layers(network))
    assert len(program.int8_layers) == len(quantizable_layers(network))
    found, expected = run(program.graph, images), run(network, images)
    assert 0 < off(found, expected) < 0.25  # weights of noise, in many layers
    observed = backends.prepare(network, quant)
    backends.observe(observed, "pt2e", [(images, images)], 1)
    assert off(run(observed, images), expected) < 1e-4  # before it rounds
    assert torch.equal(run(simulated(network, quant, images), images), found)


def test_functions_are_fused_as_modules_are(tmp_path: Path) -> None:
    """Nothing is rounded between a convolution and F.relu; what is concatenated is int8."""
    images = images_for()
    for name in ("TinyNet", "Modules"):
        network = other(written(tmp_path, name))
        graph = int8_graph(network, calibrated(network, images))
        convolutions = [node for node in graph.graph.nodes if node.target is aten.conv2d.default]
        users = {user.target for node in convolutions for user in node.users}
        assert users <= {aten.relu.default, aten.hardswish.default, aten.add.Tensor}
    (joined,) = (node for node in graph.graph.nodes if node.target is aten.cat.default)
    inputs = [node.target for node in joined.args[0]]
    assert inputs == [quantized.dequantize_per_tensor.default] * 2
    (added,) = (node for node in graph.graph.nodes if node.target is aten.add.Tensor)
    assert added.args[1].target is quantized.dequantize_per_tensor.default


def test_places_are_named_after_layers_and_operations(tmp_path: Path) -> None:
    ranges = calibrated(other(RESNET18, side=8), images_for(side=8)).ranges
    assert ranges is not None
    for place in ("conv1", "layer1.0.conv1", "layer2.0.downsample.0.conv2d", "fc"):
        assert ranges[place].shape == (2,) and ranges[place].dtype == torch.float32
    ranges = calibrated(other(written(tmp_path, "Odd"), side=8), images_for(side=8)).ranges
    assert ranges is not None and {"twice", "twice (2)", "silu"} <= ranges.keys()


def test_ranges_of_another_network_are_refused(tmp_path: Path) -> None:
    network, images = other(written(tmp_path, "TinyNet")), images_for()
    quant = calibrated(network, images)
    assert quant.ranges is not None
    fewer = {place: value for place, value in quant.ranges.items() if place != "left"}
    with pytest.raises(ValueError, match="the stored ranges do not fit this network: left of fir"):
        int8_graph(network, replace(quant, ranges=fewer))


def _again(path: str) -> None:
    torch.set_num_threads(1)
    saved = torch.load(path)
    network = build_network(saved["args"])
    network.load_state_dict(saved["weights"])
    quant = Quant("ptq", "pt2e", ranges=saved["ranges"])
    assert torch.equal(run(int8_graph(network.eval(), quant), images_for(side=8)), saved["logits"])


def test_a_new_process_gives_the_same_bits(tmp_path: Path) -> None:
    network, images = other(written(tmp_path, "Odd"), side=8), images_for(side=8)
    quant = calibrated(network, images)
    saved = {
        "args": network.model_args,
        "weights": network.state_dict(),
        "ranges": quant.ranges,
        "logits": run(int8_graph(network, quant), images),
    }
    torch.save(saved, tmp_path / "saved.pth")
    in_new_process(_again, str(tmp_path / "saved.pth"))


def test_every_observer_and_half_the_levels(tmp_path: Path) -> None:
    network, images = other(written(tmp_path, "TinyNet")), images_for(64)
    images[0, 0, 0, 0] = 40.0
    spans = {}
    for observer in fake_quant.OBSERVERS:
        ranges = calibrated(network, images, observer=observer).ranges
        assert ranges is not None
        spans[observer] = 255 * float(ranges["first"][0])
    whole = float(images.max() - images.min())
    assert spans["minmax"] == spans["moving_average"] == pytest.approx(whole, rel=1e-4)
    assert spans["percentile"] < 0.3 * whole and spans["histogram"] < spans["minmax"]
    graph = int8_graph(network, calibrated(network, images, reduce_range=True))
    levels = [value for value in graph.state_dict().values() if value.dtype == torch.int8]
    assert len(levels) == 4 and all(v.min() >= -64 and v.max() <= 63 for v in levels)
    assert max(int(v.max()) for v in levels) == 63


def test_layers_stay_float_by_pattern(tmp_path: Path) -> None:
    network, images = other(written(tmp_path, "Modules")), images_for()
    for pattern, stay in (("hidden.*", {"hidden.0"}), ("stem.0", {"stem.0"})):
        quant = calibrated(network, images, float_layers=(pattern,))
        (program,) = programs(network, quant)
        assert set(quantizable_layers(network)) - set(program.int8_layers) == stay
    with pytest.raises(ValueError, match="'never' matches no layer; layers: stem, twice"):
        calibrated(
            other(written(tmp_path, "Odd"), side=8), images_for(side=8), float_layers=("never",)
        )


def test_weights_of_int8_are_kept_once(tmp_path: Path) -> None:
    """Of a layer that is called twice as well."""
    network, images = other(written(tmp_path, "TinyNet")), images_for()
    held = int8_graph(network, calibrated(network, images)).state_dict()
    layers = [network.get_submodule(name) for name in quantizable_layers(network)]
    weights = sum(layer.weight.numel() for layer in layers)
    channels = sum(len(layer.weight) for layer in layers)
    by_type = {
        dtype: sum(v.numel() for v in values)
        for dtype, values in itertools.groupby(
            sorted(held.values(), key=lambda v: str(v.dtype)), key=lambda v: v.dtype
        )
    }
    assert by_type[torch.int8] == weights
    assert by_type[torch.float32] == 2 * channels  # scales and biases
