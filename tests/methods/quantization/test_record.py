"""The record of a quantization: the range that a processor needs, and files from before it."""

from __future__ import annotations

import pytest
import torch

from methods.quantization import backends, record
from stages.ptq import PtqSpec
from stages.state import from_plain, state_of, to_plain
from tests.support.int8 import calibrated_on
from tests.support.tiny import tiny


def test_the_range_is_what_this_processor_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for vnni in (True, False):
        for module in (record, backends):
            monkeypatch.setattr(module, "has_vnni", lambda vnni=vnni: vnni)
        assert PtqSpec().settings()["reduce_range"] is (not vnni)
        assert PtqSpec(reduce_range=vnni).quant("ptq").reduce_range is vnni
        assert PtqSpec(backend="x86").reduce_range is False
        told = " ".join(PtqSpec(backend="onednn").warnings())
        assert "reference int8 matmul" in told and ("without VNNI" in told) is (not vnni)
    with pytest.raises(ValueError, match="is of backend 'inductor', not of 'x86'; remove the key"):
        PtqSpec(backend="x86", reduce_range=True)


def test_a_file_without_the_key_has_the_full_range() -> None:
    model = tiny()
    state = state_of(model)
    plain = to_plain(
        state.changed(state.weights, quant=calibrated_on(model, torch.randn(8, 1, 8, 8)))
    )
    del plain["quant"]["reduce_range"]
    read = from_plain(plain).quant
    assert read is not None and read.reduce_range is False
