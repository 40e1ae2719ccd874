"""Blocks are fused where the kernel does what they do, and nowhere else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

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


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize(("residual", "hidden"), [(True, 0), (False, 3), (True, 3)])
def test_a_rich_block_is_what_it_says(residual: bool, hidden: int, pool: int) -> None:
    block = ConvBlock(6, 6, pool=pool, residual=residual, squeeze_excite=hidden)
    images = torch.randn(4, 6, 8, 8)
    maps = F.relu(block.norm(F.conv2d(images, block.conv.weight, padding=1)))
    if hidden:
        w = block.squeeze_excite.state_dict()  # type: ignore[union-attr]
        squeezed = F.relu(maps.mean((2, 3)) @ w["fc1.weight"].flatten(1).T + w["fc1.bias"])
        gates = torch.sigmoid(squeezed @ w["fc2.weight"].flatten(1).T + w["fc2.bias"])
        maps = maps * gates[:, :, None, None]
    maps = maps + images if residual else maps
    torch.testing.assert_close(block(images), F.max_pool2d(maps, pool))


@needs_compiler
@pytest.mark.parametrize("args", [{"residual": True}, {"squeeze_excite": 3}], ids=str)
def test_a_rich_block_trains_fused_as_without(args: dict[str, Any]) -> None:
    """Convolution's norm and ReLU are one kernel; what comes before the pooling stays before it."""
    torch.manual_seed(0)
    plain, images = ConvBlock(6, 6, pool=2, **args), torch.randn(4, 6, 8, 8)
    fused = copy.deepcopy(plain)
    assert fuse_blocks(fused, "cpu")
    for block in (plain, fused):
        block(images).square().sum().backward()
    torch.testing.assert_close(fused(images), plain(images), rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-3)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_without_a_compiler_nothing_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(fused_norm, "library", fused_norm.library.__wrapped__)
    assert fuse_blocks(tiny(), "cpu") is False
