"""Inductor's code gives its graph's logits, is kept, is made again where damaged, tells its int8.

Compiling takes some 10 s a network, so most of it is slow; fast tests compile one tiny network.
"""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engines import inductor
from engines.network import EngineNetwork
from engines.program import EngineError, Program
from engines.programs import programs
from machine import cache
from methods.casting import BFLOAT16
from methods.quantization.record import quantizable_layers
from model import every_logits
from tests.support.int8 import calibrated_on, off
from tests.support.once import made_once
from tests.support.processes import in_new_process
from tests.support.tiny import tiny

pytestmark = pytest.mark.skipif(inductor.unavailable() is not None, reason="no compiler here")


def int8_program(**options: Any) -> Program:
    torch.manual_seed(0)
    model, images = tiny(num_layers=1), torch.randn(70, 1, 8, 8)
    return programs(model, calibrated_on(model, images, **options))[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the code of `int8_program()` for four images, compiled once."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(cache.VARIABLE, str(folder / "cache"))
            inductor.ready(int8_program(), 4, 1)

    return made_once(tmp_path_factory, "inductor", make) / "cache"


@pytest.fixture
def kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder as the one that is used; compiling is an error."""
    monkeypatch.setenv(cache.VARIABLE, str(folder))
    monkeypatch.setattr(inductor, "compile_package", None)
    return folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_code_is_kept_and_gives_the_logits_of_its_graph(kept: Path) -> None:
    """Padded and cut, with images in any layout, and the same at every call."""
    program = int8_program()
    network, images = EngineNetwork(program, {4: "inductor"}), torch.randn(9, 1, 8, 8)
    with torch.inference_mode():
        expected = program.graph(images)
        for given in (images, images.contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(network(given), expected, rtol=0, atol=0.02)
        first = network(images).clone()
        assert all(torch.equal(network(images), first) for _ in range(3))


def test_every_int8_layer_is_told_and_those_in_float_are_not(kept: Path, tmp_path: Path) -> None:
    program = int8_program()
    found = inductor.ready(program, 4, 1)
    assert found.int8_layers == program.int8_layers
    assert set(program.int8_layers) == set(quantizable_layers(tiny(num_layers=1)))
    assert (found.precision, found.threads) == ("float32", 1)


def test_layers_are_told_by_the_calls_that_a_package_makes(tmp_path: Path) -> None:
    """Of oneDNN's kernels, and of Inductor's own products, which only AVX512-VNNI gets."""
    program = int8_program()
    own = "cpp_fused_{}((const uint8_t*)(buf1.data_ptr()), (const int8_t*)(c.data_ptr()), {});"
    calls = [
        "aoti_torch_cpu__qconv_pointwise_tensor(buf0, x_scale, x_zp, _frozen_param8, buf2, buf3);",
        "aoti_torch_cpu__qconv_pointwise_tensor(buf4, x_scale_0, x_zp_0, _param9, _scale_1);",
        own.format("view_1", "(const float*)(_scale_3.data_ptr())"),
        own.format("dequantize_2", "(const float*)(_scale_4.data_ptr())"),
        "aoti_torch_cpu_mkldnn__linear_pointwise(buf5, weight, bias, _scale_5);",
    ]
    with zipfile.ZipFile(tmp_path / "network.pt2", "w") as package:
        package.writestr("model/one.wrapper.cpp", "\n".join(calls))
        package.writestr("model/two.kernel.cpp", "inline void cpp_fused_view_1_micro_gemm(\n")
    layers = program.int8_layers
    found = inductor._int8_layers(program, tmp_path / "network.pt2")
    assert found == (layers[0], layers[1], layers[3])


@pytest.mark.slow
def test_without_freezing_no_layer_is_told_to_be_int8(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is what Inductor does where it does not recognise int8: it dequantizes, unsaid."""
    monkeypatch.setattr(inductor, "SETTINGS", {"freezing": False})
    monkeypatch.setattr(inductor, "SMALL_SETTINGS", {})
    assert inductor.ready(int8_program(), 4, 1).int8_layers == ()


def test_threads_are_those_that_were_asked_for(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it runs; torch's own are as before, also after an error."""
    seen = []

    def failing(values: Any) -> Any:
        seen.append(torch.get_num_threads())
        raise RuntimeError("on purpose")

    monkeypatch.setattr(inductor, "load", lambda path: failing)
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="on purpose"):
            inductor.ready(int8_program(), 4, 1).run([torch.zeros(4, 1, 8, 8)])
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_damaged_code_is_compiled_again(
    kept: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(own_cache))
    program = int8_program()
    name = f"{inductor.key(program, 4, 1)}.pt2"

    def compile_again(graph: Any, inputs: Any, path: Path, threads: int) -> None:
        """What compiling has made before from the same graph for the same inputs."""
        assert graph is program.graph and inputs[0].shape == (4, 1, 8, 8) and threads == 1
        shutil.copy(kept / "packages" / name, path)

    monkeypatch.setattr(inductor, "compile_package", compile_again)
    own_cache.mkdir(mode=0o700)
    (own_cache / "packages").mkdir()
    (own_cache / "packages" / name).write_bytes(b"not a package")
    images = torch.randn(4, 1, 8, 8)
    with torch.inference_mode():
        found = inductor.ready(program, 4, 1).run([images])[0]
        assert off(found, program.graph(images)) < 0.05


def test_keys_tell_networks_batches_and_threads_apart(own_cache: Path) -> None:
    program = int8_program()
    other = int8_program(float_layers=["head"])
    keys = {
        inductor.key(program, 4, 1),
        inductor.key(int8_program(), 4, 1),
        inductor.key(program, 8, 1),
        inductor.key(program, 4, 2),
        inductor.key(other, 4, 1),
        inductor.key(programs(tiny(num_layers=1))[0], 4, 1),
    }
    assert len(keys) == 5


def test_what_cannot_be_compiled_is_one_line(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("of this kind\nnone is known")

    program = int8_program()
    program = replace(program, graph=torch.fx.symbolic_trace(nn.Identity()))
    monkeypatch.setattr(torch.export, "export", lambda *about: Refused()(*about[1]))
    with pytest.raises(EngineError, match=r"^Inductor cannot compile this network: of this kind$"):
        inductor.ready(program, 4, 1)
    assert not list(own_cache.glob("packages/*.pt2"))


def test_weights_begin_at_a_cache_line(tmp_path: Path) -> None:
    """By the header that compiled networks include: std::malloc alone aligns to 16 bytes."""
    source, program = tmp_path / "blobs.cpp", tmp_path / "blobs"
    source.write_text(
        "#include <cstdint>\n#include <cstdlib>\nint main() {\n"
        "  for (int size = 1; size < 300000; size = size * 3 + 1)\n"
        "    if (reinterpret_cast<uintptr_t>(std::malloc(size)) % 64) return 1;\n"
        "  return 0;\n}\n"
    )
    for options, expected in ([f"-I{inductor.ALIGNED}"], 0), ([], 1):
        subprocess.run(["g++", "-O0", *options, source, "-o", program], check=True)
        assert subprocess.run([program]).returncode == expected


def _logits(folder: Path) -> None:
    torch.set_num_threads(1)
    network = EngineNetwork(int8_program(), {4: "inductor"})
    with torch.inference_mode():
        logits = network(torch.load(folder / "images.pt", weights_only=True))
    torch.save(logits, folder / "logits.pt")


def test_a_new_process_gives_the_same_logits(kept: Path, tmp_path: Path) -> None:
    images = torch.randn(6, 1, 8, 8)
    torch.save(images, tmp_path / "images.pt")
    in_new_process(_logits, tmp_path)
    with torch.inference_mode():
        expected = EngineNetwork(int8_program(), {4: "inductor"})(images)
    assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), expected)


def _float(model: Any, images: torch.Tensor) -> list[Program]:
    return programs(model)


def _int8(model: Any, images: torch.Tensor) -> list[Program]:
    return programs(model, calibrated_on(model, images))


def _int8_of_fx(model: Any, images: torch.Tensor) -> list[Program]:
    return programs(model, calibrated_on(model, images, backend="x86"))


def _bfloat16(model: Any, images: torch.Tensor) -> list[Program]:
    return programs(model, None, BFLOAT16)


@pytest.mark.slow
@pytest.mark.parametrize("made", [_float, _int8, _int8_of_fx, _bfloat16])
@pytest.mark.parametrize("exits", [[], ["cnn"]])
def test_every_kind_of_program_agrees_with_its_graph(
    made: Callable[..., list[Program]], exits: list[str], own_cache: Path
) -> None:
    """Twice: Inductor would add to a constant or an input in place."""
    model, images = tiny(num_layers=1, exits=exits), torch.randn(16, 1, 8, 8)
    found = made(model, images)
    networks = [EngineNetwork(program, {1: "inductor", 16: "inductor"}) for program in found]
    graphs = [program.graph for program in found]
    with torch.inference_mode():
        for count in (16, 1, 16, 1):
            given = images[:count].clone()
            few = every_logits(networks, given) if exits else networks[0](given)
            expected = every_logits(graphs, given) if exits else graphs[0](given)
            assert off(few, expected) < (1e-4 if made is _float else 0.05)
            assert torch.equal(given, images[:count])
    for program, network in zip(found, networks, strict=True):
        assert network.ready(16).int8_layers == program.int8_layers
        # Of one image it writes products of at most 16×16 as sums, in float.
        single = [name for name in program.int8_layers if not name.endswith("head")]
        assert network.ready(1).int8_layers == tuple(single)
