"""Compiled int8 code gives its graph's logits, is kept, and is made again when damaged or wrong."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiment.running.checkpoint import load_checkpoint
from experiment.running.store import Store
from machine.processor import has_vnni
from methods.quantization import backends, compiled
from methods.quantization.compiled import CompiledNetwork
from methods.quantization.record import quantizable_layers
from stages.deployment import deploy
from tests.support.int8 import Compiled, calibrated_on, off
from tests.support.processes import in_new_process
from tests.support.tiny import tiny


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


def test_damaged_code_is_compiled_again(
    int8: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_again(graph: Any, inputs: Any, path: Path) -> None:
        """What compiling has made before from the same graph for the same inputs."""
        assert graph is network.graph and inputs[0].shape == (64, 1, 8, 8)
        shutil.copy(int8.network.package(64), path)

    network = int8.new()
    network.folder = tmp_path
    monkeypatch.setattr(compiled, "compile_package", compile_again)
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


def _logits(folder: Path, compiled_code: Path) -> None:
    torch.set_num_threads(1)
    state = load_checkpoint(Store(folder).path("k"))
    network = deploy(state, "cpu", compiled_code).network
    with torch.inference_mode():
        logits = network(torch.load(folder / "images.pt", weights_only=True))
    torch.save(logits, folder / "logits.pt")


def test_a_new_process_gives_the_same_logits(int8: Compiled, tmp_path: Path) -> None:
    Store(tmp_path).put("k", int8.state, {"metrics": {}})
    torch.save(int8.images, tmp_path / "images.pt")
    in_new_process(_logits, tmp_path, int8.folder)
    with torch.inference_mode():
        expected = deploy(int8.state, "cpu", int8.folder).network(int8.images)
    assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), expected)


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
