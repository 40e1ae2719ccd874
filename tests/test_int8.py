"""Backend `inductor`: its simulation, its graph and its compiled code against one another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiment.running import measure
from experiment.running.store import Store
from machine.files import tensor_bytes
from machine.processor import has_vnni
from machine.timing import latencies, onednn_kernels
from methods.quantization import backends, compiled, fake_quant, pt2e
from methods.quantization.compiled import CompiledNetwork
from methods.quantization.record import Quant, quantizable_layers
from model import HybridCNNTransformer
from stages.deployment import deploy
from stages.finetuning import FinetuneSpec, finetune
from stages.ptq import PtqSpec, ptq
from stages.qat import QatSpec, qat
from stages.stage import Context
from stages.state import ModelState, build, from_plain, state_of, to_plain
from tests.conftest import Suites, tiny

NETWORKS: dict[str, dict[str, Any]] = {
    "serial": {},
    "parallel": {"fusion": "parallel"},
    "patches": {"fusion": "parallel_attention", "pooling": "class_token"},
    "separable": {"pooling": "sequence", "cnn_separable": True, "cnn_norm": "group"},
    "hardswish": {"cnn_norm": "none", "cnn_activation": "hardswish", "ffn_activation": "relu"},
    "silu": {"fusion": "parallel", "cnn_activation": "silu"},
}


def calibrated_on(model: HybridCNNTransformer, images: Tensor, **options: Any) -> Quant:
    quant = Quant("ptq", "inductor", **options)
    return backends.with_calibrated_ranges(model, quant, [(images, images)])


def simulated(model: HybridCNNTransformer, quant: Quant, images: Tensor) -> nn.Module:
    prepared = backends.prepare(model, quant)
    backends.observe(prepared, quant.backend, [(images, images)], 1)
    return backends.simulated(prepared, quant.backend)


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# --- simulation and graph -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reduce_range"), [*((n, False) for n in NETWORKS), ("serial", True)]
)
def test_what_is_simulated_is_what_is_deployed(name: str, reduce_range: bool) -> None:
    model, images = tiny(**NETWORKS[name]), torch.randn(64, 1, 8, 8)
    quant = calibrated_on(model, images, reduce_range=reduce_range)
    network = backends.to_int8(model, quant)
    assert isinstance(network, CompiledNetwork)
    graph = network.graph
    levels = [v.int().abs().max() for v in network.state_dict().values() if v.dtype == torch.int8]
    assert max(levels) == (64 if reduce_range else 128)
    with torch.inference_mode():
        expected, found = model(images), graph(images)
        twin = simulated(model, quant, images)(images)
    assert 0 < off(found, expected) < (0.04 if reduce_range else 0.02)
    assert off(twin, found) < 0.006
    assert off(twin, found) < off(found, expected)


def test_folding_a_batch_norm_changes_no_rounding() -> None:
    """Per-channel scales take up what batch norm multiplies by, so training need not fold it."""
    weight, factor = torch.randn(6, 4, 3, 3), torch.rand(6) + 0.1
    folded = fake_quant.quantize_weight(weight * factor[:, None, None, None])
    apart = fake_quant.quantize_weight(weight) * factor[:, None, None, None]
    steps = (weight * factor[:, None, None, None]).flatten(1).abs().amax(1) / 127.5
    levels = ((folded - apart) / steps[:, None, None, None]).round()
    assert levels.abs().max() <= 1  # a channel's largest weight lies between two levels
    assert int((levels != 0).flatten(1).sum(1).max()) <= 1


def test_weights_round_by_hand() -> None:
    weight = torch.tensor([[127.5, -127.5, 1.4, 0.6], [0.0, 0.0, 0.0, 0.0]])
    expected = [[127.0, -128.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    assert fake_quant.quantize_weight(weight).tolist() == expected
    found = fake_quant.quantize_weight(weight, fake_quant.REDUCED_WEIGHT_RANGE)
    assert (found * 127 / 255).round().tolist() == [[63.0, -64.0, 1.0, 0.0], [0.0] * 4]


def test_inputs_round_by_hand() -> None:
    quantizer = fake_quant.InputQuantizer("minmax")
    quantizer(torch.tensor([-1.0, 0.2, 4.1]))  # scale 5.1 / 255 = 0.02, zero point 50
    quantizer.observing, quantizer.quantizing = False, True
    found = quantizer(torch.tensor([-2.0, 0.009, 0.011, 5.0]))
    torch.testing.assert_close(found, torch.tensor([-1.0, 0.0, 0.02, 4.1]))


def test_observers_differ_as_they_should() -> None:
    model = tiny()
    images = torch.randn(1024, 1, 8, 8)
    images[0, 0, 0, 0] = 40.0  # one of 65,536
    spans = {}
    for observer in fake_quant.OBSERVERS:
        ranges = calibrated_on(model, images, observer=observer).ranges
        assert ranges is not None
        spans[observer] = 255 * ranges["cnn.blocks.0.conv"][0].item()
    whole = (images.max() - images.min()).item()
    assert spans["minmax"] == pytest.approx(whole, rel=1e-4)
    assert spans["percentile"] < 0.3 * whole
    assert spans["histogram"] < spans["minmax"]
    with pytest.raises(ValueError, match="'minmax' is not one of backend 'x86', which has hist"):
        PtqSpec(backend="x86", observer="minmax")


def test_float_layers_stay_float() -> None:
    model, images = tiny(), torch.randn(32, 1, 8, 8)
    quant = calibrated_on(model, images, float_layers=("head", "cnn.*"))
    network = backends.to_int8(model, quant)
    kept = {n for n, v in network.state_dict().items() if v.dtype == torch.float32 and v.ndim > 1}
    assert {"graph.cnn.blocks.0.conv.weight", "graph.head.weight"} <= kept
    assert not any("attention" in name for name in kept)
    assert isinstance(network, CompiledNetwork)
    with torch.inference_mode():
        twin = simulated(model, quant, images)(images)
        assert off(twin, network.graph(images)) < 0.006


def test_int8_size_is_a_quarter_of_float() -> None:
    """As files: for the reference network of 1.5 M parameters, whose file names weigh little."""
    widths = {"cnn_channels": [64, 128, 256], "cnn_pools": [2, 2, 1], "embed_dim": 256}
    model = HybridCNNTransformer(**widths, ffn_dim=512).eval()
    images = torch.randn(8, 3, 32, 32)
    network = backends.to_int8(model, calibrated_on(model, images))
    ratio = len(tensor_bytes(network.state_dict())) / len(tensor_bytes(model.state_dict()))
    assert 0.25 < ratio <= 0.27


def test_ranges_of_another_backend_or_network_are_refused() -> None:
    model, images = tiny(), torch.randn(8, 1, 8, 8)
    fx = backends.with_calibrated_ranges(model, Quant("ptq", "x86"), [(images, images)])
    with pytest.raises(ValueError, match="the stored ranges do not fit this network"):
        backends.to_int8(model, Quant("ptq", "inductor", ranges=fx.ranges))
    mine = calibrated_on(model, images)
    with pytest.raises(ValueError, match="the stored ranges do not fit this network"):
        backends.to_int8(model, Quant("ptq", "x86", ranges=mine.ranges))
    with pytest.raises(ValueError, match="saw no image"):
        fake_quant.observed_ranges(fake_quant.prepare(model, [], "minmax", train=False))


# --- training -----------------------------------------------------------------------------------


def test_training_moves_ranges_in_the_first_half_alone(ctx: Context) -> None:
    seen: list[dict[str, Tensor]] = []
    real = fake_quant.set_observing

    def noting(faked: nn.Module, on: bool) -> None:
        if not on:
            seen.append(fake_quant.observed_ranges(faked))
        real(faked, on)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pt2e, "set_observing", noting)
        spec = QatSpec(epochs=4, batch_size=256, precision="fp32")
        end = qat(state_of(tiny()), spec, ctx)
    epochs = [seen[i] for i in (0, 1, 2, -1)]  # after epoch 1, after epoch 2, then frozen
    assert any(not torch.equal(epochs[0][n], epochs[1][n]) for n in epochs[0])
    assert all(torch.equal(epochs[1][n], epochs[3][n]) for n in epochs[1])
    assert end.quant is not None and end.quant.ranges is not None
    assert all(torch.equal(end.quant.ranges[n], epochs[3][n]) for n in epochs[3])


def test_bf16_trains_what_fp32_does(ctx: Context) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        spec = QatSpec(epochs=2, batch_size=128, precision=precision, learning_rate=5e-3)
        qat(state_of(tiny()), spec, ctx)
        assert ctx.details["precision"] == precision
        losses[precision] = [row["train_loss"] for row in ctx.details["history"]]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["fp32"][1] < losses["fp32"][0]


def test_finetuning_after_qat_is_fake_quantized(ctx: Context) -> None:
    start = qat(state_of(tiny()), QatSpec(epochs=1, batch_size=256, precision="fp32"), ctx)
    spec = FinetuneSpec(epochs=1, batch_size=256, precision="fp32")
    faked = finetune(start, spec, ctx)
    plain = finetune(ModelState(start.model_args, start.weights), spec, ctx)
    assert not torch.equal(faked.weights["head.weight"], plain.weights["head.weight"])


# --- compiled -----------------------------------------------------------------------------------


class Compiled:
    """One network, compiled once for all tests."""

    def __init__(self, folder: Path):
        torch.manual_seed(0)
        self.model, self.images = tiny(num_layers=1), torch.randn(70, 1, 8, 8)
        self.quant = calibrated_on(self.model, self.images)
        self.state = state_of(self.model).changed(state_of(self.model).weights, quant=self.quant)
        self.folder = folder
        self.network = self.new()

    def new(self) -> CompiledNetwork:
        network = backends.to_int8(self.model, self.quant, self.folder)
        assert isinstance(network, CompiledNetwork)
        return network


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return Compiled(tmp_path_factory.mktemp("compiled"))


@pytest.mark.parametrize("count", [1, 5, 64, 70])
def test_compiled_code_gives_the_logits_of_its_graph(int8: Compiled, count: int) -> None:
    """At the compiled sizes 1 and 64, padded, and cut in parts; with images in any layout."""
    images = int8.images[:count]
    with torch.inference_mode():
        expected = int8.network.graph(images)
        for given in (images, images.contiguous(memory_format=torch.channels_last)):
            found = int8.network(given)
            assert found.shape == (count, 10)
            torch.testing.assert_close(found, expected, rtol=0, atol=0.02)


def test_calls_do_not_change_the_network(int8: Compiled) -> None:
    """Inductor would add a constant position embedding in place at batch 1."""
    with torch.inference_mode():
        first = int8.network(int8.images[:1]).clone()
        for _ in range(4):
            assert torch.equal(int8.network(int8.images[:1]), first)


def test_images_of_another_shape_are_refused(int8: Compiled) -> None:
    with pytest.raises(ValueError, match=r"takes images \[B, 1, 8, 8\], got \[2, 3, 8, 8\]"):
        int8.network(torch.zeros(2, 3, 8, 8))


def test_code_is_compiled_once(int8: Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode():
        expected = int8.network(int8.images)
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", None)
    with torch.inference_mode():
        assert torch.equal(int8.new()(int8.images), expected)


def test_keys_tell_networks_and_batches_apart(int8: Compiled) -> None:
    torch.manual_seed(1)
    other = backends.to_int8(tiny(num_layers=1), int8.quant)
    assert isinstance(other, CompiledNetwork)
    keys = {int8.network.key(1), int8.network.key(64), other.key(1), int8.new().key(1)}
    assert len(keys) == 3


def test_weights_begin_at_a_cache_line(tmp_path: Path) -> None:
    """By the header that compiled networks include: std::malloc alone aligns to 16 bytes."""
    source, program = tmp_path / "blobs.cpp", tmp_path / "blobs"
    source.write_text(
        "#include <cstdint>\n#include <cstdlib>\nint main() {\n"
        "  for (int size = 1; size < 300000; size = size * 3 + 1)\n"
        "    if (reinterpret_cast<uintptr_t>(std::malloc(size)) % 64) return 1;\n"
        "  return 0;\n}\n"
    )
    for options, expected in (["-include", str(compiled.ALIGNED)], 0), ([], 1):
        subprocess.run(["g++", "-O0", *options, source, "-o", program], check=True)
        assert subprocess.run([program]).returncode == expected


def test_damaged_code_is_compiled_again(int8: Compiled, tmp_path: Path) -> None:
    network = int8.new()
    network.folder = tmp_path
    (tmp_path / f"{network.key(64)}.pt2").write_bytes(b"not a package")
    with torch.inference_mode():
        assert torch.equal(network(int8.images[:5]), int8.network(int8.images[:5]))


def test_wrong_code_is_found_out(int8: Compiled) -> None:
    calls: list[int] = []

    def drifting(inputs: list[Tensor]) -> list[Tensor]:
        calls.append(1)
        return [int8.network.graph(*inputs) + 0.01 * len(calls)]

    with pytest.raises(RuntimeError, match="from call to call; set reduce_range True or ch"):
        int8.network._verify(drifting, 1)
    with pytest.raises(RuntimeError, match="differs from its graph by"):
        int8.network._verify(lambda inputs: [-int8.network.graph(*inputs)], 1)


def test_a_new_process_gives_the_same_logits(int8: Compiled, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("k", int8.state, {"metrics": {}})
    torch.save(int8.images, tmp_path / "images.pt")
    code = f"""
import torch; torch.set_num_threads(1)
from pathlib import Path
from experiment.store import load_checkpoint
from stages.state import deploy
network = deploy(load_checkpoint({str(store.path("k"))!r}), "cpu", Path({str(int8.folder)!r}))
with torch.inference_mode():
    logits = network(torch.load({str(tmp_path / "images.pt")!r}, weights_only=True))
torch.save(logits, {str(tmp_path / "logits.pt")!r})
"""
    home = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], cwd=home, check=True, timeout=200)
    with torch.inference_mode():
        expected = deploy(int8.state, "cpu", int8.folder)(int8.images)
    assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), expected)


def test_metrics_compare_int8_with_its_float_form(int8: Compiled, ctx: Context) -> None:
    test = ctx.loaders(batch_size=256).test
    metrics = measure.measure(int8.state, test, torch.device("cpu"), int8.folder)
    with torch.inference_mode():
        logits = [int8.network(images) for images, _ in test]
    right = (torch.cat(logits).argmax(1) == ctx.dataset.arrays.test_labels).float().mean()
    assert metrics["accuracy"] == pytest.approx(100 * right.item())
    for took in metrics["inference_time_ms"].values():
        assert took["speedup_over_float"] == pytest.approx(took["float_median"] / took["median"])
        assert "avx2" in took["isa"]


# --- processors without VNNI ---------------------------------------------------------------------


def test_the_range_is_what_this_processor_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for vnni in (True, False):
        monkeypatch.setattr(backends, "has_vnni", lambda vnni=vnni: vnni)
        assert PtqSpec().settings()["reduce_range"] is (not vnni)
        assert PtqSpec(reduce_range=vnni).quant("ptq").reduce_range is vnni
        assert PtqSpec(backend="x86").reduce_range is False
        assert Quant("ptq", "inductor").reduce_range is (not vnni)
        told = " ".join(PtqSpec(backend="onednn").warnings())
        assert "reference int8 matmul" in told and ("without VNNI" in told) is (not vnni)
    with pytest.raises(ValueError, match="is of backend 'inductor', not of 'x86'; remove the key"):
        PtqSpec(backend="x86", reduce_range=True)


def test_a_file_without_the_key_has_the_full_range(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    state = state_of(model)
    plain = to_plain(
        state.changed(state.weights, quant=calibrated_on(model, torch.randn(8, 1, 8, 8)))
    )
    del plain["quant"]["reduce_range"]
    monkeypatch.setattr(backends, "has_vnni", lambda: False)
    read = from_plain(plain).quant
    assert read is not None and read.reduce_range is False


@pytest.mark.parametrize("reduce_range", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_reduced_products_do_not_saturate(reduce_range: bool, tmp_path: Path) -> None:
    """Weights that are all as large as can be; in full range they need a processor with VNNI."""
    model, images = tiny(num_layers=1), torch.randn(64, 1, 8, 8)
    with torch.no_grad():
        for name in quantizable_layers(model):
            weight = model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight.copy_(weight.abs().mean() * weight.sign())
    quant = calibrated_on(model, images, reduce_range=reduce_range)
    network = backends.to_int8(model, quant, tmp_path)
    assert isinstance(network, CompiledNetwork)
    with torch.inference_mode():
        if reduce_range or has_vnni():
            assert off(network(images), network.graph(images)) < 0.02
        else:
            with pytest.raises(RuntimeError, match="no VNNI, so int8 products saturate unless"):
                network(images)


# --- what stands in the way ---------------------------------------------------------------------


def test_without_a_compiler_the_config_is_refused(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    text = 'EXPERIMENT_CONFIGS.append(chain("Q", {"ptq": {"backend": "inductor"}}))'
    (message,) = suites.refused(text)
    assert message.startswith("Q.compression_args.sequence[0].backend: 'inductor' needs a C++ ")
    assert "install g++, or choose backend 'x86' by name" in message


def test_slow_int8_is_told_with_its_cause() -> None:
    times = {"batch_1": {"speedup_over_float": 0.8}, "batch_64": {"speedup_over_float": 2.0}}
    (fx,) = measure.int8_warnings(times, [], "x86")
    assert "0.80 at batch_1, 2.00 at batch_64" in fx and "'inductor' fuses these" in fx
    (reference,) = measure.int8_warnings(times, ["matmul ref_int8"], "onednn")
    assert "matmul ref_int8" in reference
    fast = {"batch_1": {"speedup_over_float": 1.2}}
    assert measure.int8_warnings(fast, [], "inductor") == []
    assert measure.int8_warnings(fast, ["matmul ref"], "inductor")


def test_kernels_are_read_from_the_log_of_onednn(int8: Compiled) -> None:
    images = int8.images[:1]
    found = onednn_kernels(HybridCNNTransformer().eval(), torch.randn(4, 3, 32, 32))
    assert any(kernel.startswith("convolution ") for kernel in found)

    def slow(images: Tensor) -> Tensor:
        line = b"onednn_verbose,v1,primitive,exec,cpu,matmul,ref_int8:any,undef,src:u8::blocked\n"
        os.write(1, line)
        return images

    assert "matmul ref_int8:any" in onednn_kernels(slow, images)
    assert not any(" ref" in k for k in onednn_kernels(int8.network, images))


def test_networks_are_timed_in_turn() -> None:
    """Each gets its own milliseconds, and no network runs a second block before the others."""
    calls: list[str] = []

    def sleeping(name: str, seconds: float) -> Callable[[Tensor], Tensor]:
        def network(images: Tensor) -> Tensor:
            calls.append(name)
            time.sleep(seconds)
            return images

        return network

    networks = [sleeping("short", 0.002), sleeping("long", 0.03)]
    short, long = latencies(networks, torch.zeros(1), seconds=0.2)
    assert 2 <= short["median"] <= short["p95"] and 30 <= long["median"] <= long["p95"]
    assert short["median"] < long["median"]
    assert short["runs"] >= 5 and long["runs"] >= 5
    turns = [name for name, before in zip(calls, ["", *calls], strict=False) if name != before]
    assert turns == ["short", "long"] * (len(turns) // 2) and len(turns) >= 10


def test_batch_sizes_that_are_measured_are_those_that_are_compiled() -> None:
    assert set(measure.LATENCY_BATCHES) <= set(compiled.BATCH_SIZES)


def test_ptq_keeps_its_observer_when_ranges_are_observed_again(ctx: Context) -> None:
    state = ptq(state_of(tiny()), PtqSpec(observer="minmax", calibration_batches=1), ctx)
    assert state.quant is not None and state.quant.observer == "minmax"
    assert torch.equal(build(state).head.weight, state.weights["head.weight"])
