"""The record of a quantization: the range that a processor needs, and files from before it."""

from __future__ import annotations

import platform

import pytest
import torch

import utils
from machine import processor
from methods.quantization import backends, record
from stages.ptq import PtqSpec
from stages.qat import QatSpec
from stages.state import from_plain, state_of, to_plain
from tests.support.int8 import calibrated_on
from tests.support.tiny import tiny


def test_the_range_is_what_this_processor_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for vnni in (True, False):
        for module in (record, backends):
            monkeypatch.setattr(module, "int8_saturates", lambda vnni=vnni: not vnni)
        assert PtqSpec().settings()["reduce_range"] is (not vnni)
        assert PtqSpec(reduce_range=vnni).quant("ptq").reduce_range is vnni
        assert PtqSpec(backend="x86").reduce_range is False
        told = " ".join(PtqSpec(backend="onednn").warnings())
        assert "reference int8 matmul" in told and ("without VNNI" in told) is (not vnni)
    with pytest.raises(ValueError, match="is of backend 'pt2e', not of 'x86'; remove the key"):
        PtqSpec(backend="x86", reduce_range=True)


def test_only_x86_without_vnni_cuts_sums_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine, flags, cut_off in (
        ("x86_64", "sse4_2 avx2", True),
        ("AMD64", "avx2 avx_vnni", False),
        ("x86_64", "avx2 avx512f avx512_vnni", False),
        ("aarch64", "asimd asimddp", False),
    ):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        monkeypatch.setattr(processor, "processor", lambda flags=flags: flags)
        assert processor.int8_saturates() is cut_off
        assert PtqSpec().reduce_range is cut_off


def test_a_file_with_the_earlier_name_is_of_the_present_backend() -> None:
    model = tiny()
    state = state_of(model)
    quant = calibrated_on(model, torch.randn(8, 1, 8, 8))
    plain = to_plain(state.changed(state.weights, quant=quant))
    assert plain["quant"]["backend"] == "pt2e"
    plain["quant"]["backend"] = "inductor"
    read = from_plain(plain).quant
    assert read is not None and read.settings() == quant.settings()


def test_the_earlier_name_goes_on_working() -> None:
    """In a Spec and in what a notebook calls: the same int8 network, to the bit."""
    assert PtqSpec(backend="inductor") == PtqSpec() and PtqSpec().backend == "pt2e"
    assert QatSpec(backend="inductor").settings() == QatSpec().settings()
    model, images = tiny(), torch.randn(16, 1, 8, 8)
    logits = []
    for name in ("inductor", "pt2e"):
        prepared = utils.prepare_model_for_quantization(model, name)
        utils.calibrate_model_ptq(prepared, [(images, images)], 1, name)
        with torch.inference_mode():
            logits.append(utils.convert_to_quantized_model(prepared, name)(images))
    assert torch.equal(*logits) and not torch.equal(logits[0], model.eval()(images))


def test_a_file_without_the_key_has_the_full_range() -> None:
    model = tiny()
    state = state_of(model)
    plain = to_plain(
        state.changed(state.weights, quant=calibrated_on(model, torch.randn(8, 1, 8, 8)))
    )
    del plain["quant"]["reduce_range"]
    read = from_plain(plain).quant
    assert read is not None and read.reduce_range is False
