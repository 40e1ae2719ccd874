"""Blocks are fused where the kernel does what they do, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from networks import fused_norm
from networks.convolution import ConvBlock, fuse_blocks
from tests.support.compiler import needs_compiler
from tests.support.tiny import tiny


@needs_compiler
def test_only_what_the_kernel_does_is_fused() -> None:
    def fused(device: str = "cpu", hook: str = "", **args: Any) -> list[bool]:
        model = tiny(**args)
        if hook:
            model.get_submodule(hook).register_forward_hook(lambda *_: None)
        fuse_blocks(model, device)
        return [m.fused for m in model.modules() if isinstance(m, ConvBlock)]

    assert fused() == [True, True]
    assert fused(device="cuda") == fused(cnn_norm="group") == fused(cnn_activation="gelu")
    assert fused(cnn_norm="none") == [False, False]
    assert fused(hook="cnn.blocks.1.pool") == [True, False]


def test_without_a_compiler_nothing_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(fused_norm, "library", fused_norm.library.__wrapped__)
    assert fuse_blocks(tiny(), "cpu") is False
