"""Positions by the paper's formula."""

from __future__ import annotations

import pytest
import torch

from networks.transformer import PositionalEncoding, mean_over_tokens


def test_sinusoidal_positions_follow_the_papers_formula() -> None:
    table = PositionalEncoding(6, 8, "sinusoidal").embedding[0]
    assert table[5, 2].item() == pytest.approx(float(torch.sin(torch.tensor(5 / 10000 ** (2 / 8)))))
    assert table[5, 3].item() == pytest.approx(float(torch.cos(torch.tensor(5 / 10000 ** (2 / 8)))))


def test_the_mean_over_tokens_is_torchs_to_the_bit() -> None:
    tokens = torch.randn(65, 16, 48, requires_grad=True)
    gradient = torch.randn(65, 48)
    assert torch.equal(mean_over_tokens(tokens), tokens.mean(1))
    (found,) = torch.autograd.grad(mean_over_tokens(tokens), tokens, gradient)
    assert torch.equal(found, torch.autograd.grad(tokens.mean(1), tokens, gradient)[0])


def test_odd_width_takes_sinusoidal_positions() -> None:
    assert PositionalEncoding(4, 5, "sinusoidal")(torch.zeros(1, 4, 5)).shape == (1, 4, 5)
