"""Where stages and libraries meet: a test a row, with networks of every fusion.

What is int8 is counted in what runs: modules of torch.ao, oneDNN's log, the optimised graphs of
ONNX Runtime and OpenVINO. Each backend's network is compared with what it was simulated as, each
file with its network.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.ao.quantization import FakeQuantizeBase, disable_observer, enable_fake_quant

from dataset import Dataset
from experiment.export.compare import FileComparison, Runtime, Subject, export, reference
from experiment.export.formats import FORMATS
from machine.processor import has_vnni
from methods.early_exit.exits import Exits
from methods.quantization import backends, fake_quant
from methods.quantization.backends import BACKENDS
from methods.quantization.record import Quant, needs_vnni, quantizable_layers
from model import HybridCNNTransformer
from stages.deployment import calibrated, deploy
from stages.ptq import PtqSpec, ptq
from stages.qat import QatSpec, qat
from stages.stage import Context
from stages.state import build, from_plain, state_of
from tests.support.chains import FAST
from tests.support.exits import with_exits
from tests.support.exporting import subject, subject_of
from tests.support.home import HOME
from tests.support.int8 import int8_layers, off, runnable, to_int8
from tests.support.suites import Suites
from tests.support.tiny import FUSIONS, tiny

# One network a fusion; that with patches has depthwise convolutions as well.
NETWORKS: dict[str, dict[str, Any]] = {
    "serial": {},
    "parallel": {"fusion": "parallel"},
    "patches": {"fusion": "parallel_attention", "cnn_separable": True, "pooling": "sequence"},
}
FILES = [
    ("onnx", None),
    ("openvino", None),
    *((format_, backend) for backend in ("x86", "pt2e") for format_ in ("onnx-int8", "openvino")),
]
ON_NETWORKS = [
    (network, *file)
    for network in NETWORKS
    for file in (FILES if network == "serial" else FILES[4:])
]
Exported = Callable[[str, str, str | None], tuple[Subject, Runtime, FileComparison]]


def here() -> list[str]:
    return [name for name in BACKENDS if backends.unavailable(name) is None]


def written(made: Subject, format_: str, folder: Path) -> tuple[Runtime, FileComparison]:
    """A network as a file, which has agreed with it on the test split."""
    path = folder / f"network{FORMATS[format_].ending}"
    found = export(made, FORMATS[format_], path, None, reference(made))
    return FORMATS[format_].read(path), found


@pytest.fixture(scope="module")
def exported(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A network in a format; written once for all rows."""
    ctx = Context(digits, torch.device("cpu"), seed=0, say=lambda text: None)

    @functools.cache
    def made(network: str, backend: str | None) -> Subject:
        torch.manual_seed(0)
        return subject(ctx, backend, **NETWORKS[network])

    @functools.cache
    def exported(
        network: str, format_: str, backend: str | None
    ) -> tuple[Subject, Runtime, FileComparison]:
        subject = made(network, backend)
        return subject, *written(subject, format_, tmp_path_factory.mktemp("files"))

    return exported


# --- (a), (f) every int8 layer runs in int8, depthwise ones too ----------------------------------


@pytest.mark.parametrize("backend", [name for name in here() if name != "pt2e"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_layer_is_deployed_in_int8(network: str, backend: str) -> None:
    model, images = tiny(**NETWORKS[network]), torch.randn(16, 1, 8, 8)
    quant = Quant("ptq", backend)
    quant = backends.with_calibrated_ranges(model, quant, [(images, images)])
    assert int8_layers(to_int8(model, quant)) == set(quantizable_layers(model))


@pytest.mark.parametrize(("network", "format_", "backend"), ON_NETWORKS)
def test_files_run_in_int8(
    network: str, format_: str, backend: str | None, exported: Exported
) -> None:
    made, _, found = exported(network, format_, backend)
    layers = quantizable_layers(build(made.deployed.state)) if backend is not None else []
    assert int8_layers(made.deployed.whole) == set(layers)
    assert made.int8_layers == len(layers)
    # ONNX Runtime has no int8 convolution with a float output, which patch embedding is.
    in_float = 1 if (network, format_, backend) == ("patches", "onnx-int8", "pt2e") else 0
    assert found.int8_layers == made.int8_layers - in_float


# --- (b) channels that are zero, constant, or almost ---------------------------------------------


def odd_channels(model: HybridCNNTransformer) -> HybridCNNTransformer:
    """Of every layer the first output is zero, the second constant, the third 1e-8 of itself."""
    with torch.no_grad():
        for name in quantizable_layers(model):
            layer = model.get_submodule(name)
            weight, bias = layer.weight, layer.bias
            assert isinstance(weight, Tensor)
            if len(weight) < 4 or name == "head":
                continue
            weight[:2] = 0
            weight[2] *= 1e-8
            if isinstance(bias, Tensor):
                bias[0], bias[1], bias[2] = 0, 0.7, 1e-8
    return model


@pytest.mark.parametrize(
    ("network", "backend"),
    [(network, b) for network in NETWORKS for b in ("x86", "pt2e")]
    + [("serial", b) for b in here() if b not in ("x86", "pt2e")],
)
def test_odd_channels_are_deployed_as_simulated(network: str, backend: str) -> None:
    if backend == "onednn" and not has_vnni():
        pytest.skip("its products saturate here, of which a run warns")
    model, images = odd_channels(tiny(**NETWORKS[network])), torch.randn(32, 1, 8, 8)
    images[0] = 0
    quant = Quant("qat", backend, reduce_range=True)
    prepared = backends.prepare(model, quant)
    backends.observe(prepared, backend, [(images, images)], 1)
    quant = backends.with_trained_ranges(quant, prepared)
    deployed = to_int8(model, quant)
    if backend == "pt2e":
        fake_quant.set_quantizing(prepared, True)
    else:
        prepared.apply(enable_fake_quant).apply(disable_observer).eval()
    with torch.inference_mode():
        found = deployed(images)
        assert torch.isfinite(found).all()
        assert off(prepared(images), found) < 0.01
        assert off(found, model(images)) < 0.05


@pytest.mark.parametrize(("format_", "backend"), FILES)
def test_odd_channels_are_exported(
    format_: str, backend: str | None, ctx: Context, tmp_path: Path
) -> None:
    made = subject_of(state_of(odd_channels(tiny(num_layers=1))), ctx, backend)
    runtime, found = written(made, format_, tmp_path)
    assert torch.isfinite(runtime.run(torch.zeros(2, 1, 8, 8))).all()
    assert found.other_class < 0.02


# --- (c) parts between exits share weights -------------------------------------------------------


@pytest.mark.parametrize("backend", ["x86", "pt2e"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_parts_are_folded_once(fusion: str, backend: str) -> None:
    """A norm that is folded into a shared weight twice would give other logits."""
    state = with_exits(fusion, Exits(thresholds=None))
    model, images = build(state), torch.randn(32, 1, 8, 8)
    quant = Quant("ptq", backend, reduce_range=backend == "pt2e")
    quant = backends.with_calibrated_ranges(model, quant, [(images, images)])
    split = to_int8(model, quant)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state.weights[name]), name
    with torch.inference_mode():
        expected, every = model.every_logits(images), split(images)
        for found, wanted in zip(every, expected, strict=True):
            assert 0 < off(found, wanted) < 0.05
        plain = HybridCNNTransformer(**{**state.model_args, "exits": []}).eval()
        own = {n: w for n, w in state.weights.items() if not n.startswith("exits.")}
        plain.load_state_dict(own)
        alone = backends.with_calibrated_ranges(plain, quant, [(images, images)])
        whole = to_int8(plain, alone)(images)
        assert off(every[-1], whole) < 0.02


# --- (d) an image alone and among others ---------------------------------------------------------


@pytest.mark.parametrize("backend", ["x86", "pt2e"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_after_training_an_image_alone_has_its_logits(
    fusion: str, backend: str, ctx: Context
) -> None:
    spec = QatSpec(backend=backend, **FAST)
    state = calibrated(qat(state_of(tiny(fusion=fusion, num_layers=1)), spec, ctx), ctx).state
    network = runnable(deploy(state).network)
    images = next(iter(ctx.loaders(batch_size=64).test))[0]
    with torch.inference_mode():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    assert float(((alone - together).abs().amax(1) > 1e-4).float().mean()) < 0.05
    assert off(alone, together) < 0.005


# --- (e) every number of images ------------------------------------------------------------------


@pytest.mark.parametrize(("network", "format_", "backend"), ON_NETWORKS)
def test_files_answer_any_number_of_images(
    network: str, format_: str, backend: str | None, digits: Dataset, exported: Exported
) -> None:
    _, runtime, _ = exported(network, format_, backend)
    pixels = digits.arrays.test_images[:65].float() / 255
    together = runtime.run(pixels).clone()
    for count in (1, 2, 3):
        found = runtime.run(pixels[:count]).clone()
        assert found.shape == (count, 10)
        assert off(found, together[:count]) < (1e-4 if backend is None else 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 3, 65])
def test_packages_answer_their_number_of_images(batch: int, ctx: Context, tmp_path: Path) -> None:
    made = subject(ctx, "pt2e", cnn_channels=[8], cnn_pools=[2])
    path, aoti = tmp_path / "network.pt2", FORMATS["aoti"]
    found = export(made, aoti, path, batch, reference(made))  # raises where they differ
    assert aoti.read(path).about["batch"] == str(batch)
    assert found.other_class <= 0.02


# --- (i) whether a file needs VNNI ---------------------------------------------------------------


@pytest.mark.parametrize("backend", here())
@pytest.mark.parametrize("scheme", ["ptq", "qat"])
def test_what_needs_vnni_is_what_passes_16_bits(scheme: str, backend: str) -> None:
    """By the largest level of the deployed weights and of the activations' ranges."""
    for reduce_range in (False, True) if backend == "pt2e" else (False,):
        model, images = tiny(num_layers=1), torch.randn(16, 1, 8, 8)
        quant = Quant(scheme, backend, reduce_range=reduce_range)
        prepared = backends.prepare(model, quant)
        backends.observe(prepared, backend, [(images, images)], 1)
        network = to_int8(model, backends.with_trained_ranges(quant, prepared))
        if backend == "pt2e":
            weights = [v for v in network.state_dict().values() if v.dtype == torch.int8]
            activation = fake_quant.ACTIVATION_RANGE[1]
        else:
            weights = [
                network.get_submodule(n).weight().int_repr()  # type: ignore[operator]
                for n in int8_layers(network)
            ]
            seen = [
                m.activation_post_process if isinstance(m, FakeQuantizeBase) else m
                for n, m in prepared.named_modules()
                if n.rpartition(".")[2].startswith("activation_post_process_")
            ]
            activation = max(int(observer.quant_max) for observer in seen)
        largest = max(int(weight.int().abs().max()) for weight in weights)
        assert (2 * largest * activation > 2**15 - 1) == needs_vnni(quant)


CHAINS = """
EXPERIMENT_CONFIGS += [
    chain("Safe", "ptq"), chain("Eight", {"ptq": {"backend": "qnnpack"}}),
]
"""


@pytest.mark.skipif("qnnpack" not in here(), reason="qnnpack is not in this build of torch")
def test_files_say_whether_they_need_vnni(suites: Suites) -> None:
    import main

    assert suites.run(CHAINS) == 0
    for name, formats, needed in [
        ("Safe", ("onnx-int8",), False),
        ("Eight", ("onnx-int8", "openvino"), True),
    ]:
        suites.capsys.readouterr()
        config = str(suites.folder / "suite.py")
        code = main.main(["export", name, "--format", *formats, "--config", config])
        said = suites.capsys.readouterr()
        if code:  # the comparison finds what saturates here
            assert needed and not has_vnni() and "see reduce_range" in said.err
            continue
        warned = said.out.replace("\n", " ").count("without VNNI its int8 products saturate")
        assert warned == (len(formats) if needed else 0)
        for format_ in formats:
            (path,) = (suites.models / "exports").glob(f"{name}*{FORMATS[format_].ending}")
            about = FORMATS[format_].read(path).about
            assert json.loads(about["needs_vnni"]) is needed
            assert json.loads(about["reduce_range"]) is False


# --- (j) a torch that changes --------------------------------------------------------------------


GOLDEN = HOME / "tests" / "golden" / "int8_accuracy.json"


@pytest.mark.parametrize("backend", ["x86", "pt2e"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_int8_has_the_golden_accuracy(fusion: str, backend: str, ctx: Context) -> None:
    """Of trained networks that lie beside the figures, so that no training luck is in them."""
    golden = json.loads(GOLDEN.read_text())
    states = torch.load(GOLDEN.with_suffix(".pth"), weights_only=True)
    spec = PtqSpec(backend=backend, calibration_batches=2, reduce_range=backend == "pt2e")
    state = calibrated(ptq(from_plain(states[fusion]), spec, ctx), ctx).state
    network, correct, count = runnable(deploy(state).network), 0, 0
    with torch.inference_mode():
        for images, labels in ctx.loaders(batch_size=60).test:
            correct += int((network(images).argmax(1) == labels).sum())
            count += len(labels)
    expected = golden["accuracy"][fusion][backend]
    assert 100 * correct / count == pytest.approx(expected, abs=golden["tolerance"])
