"""Positions by the paper's formula."""

from __future__ import annotations

import pytest
import torch

from networks.transformer import PositionalEncoding


def test_sinusoidal_positions_follow_the_papers_formula() -> None:
    table = PositionalEncoding(6, 8, "sinusoidal").embedding[0]
    assert table[5, 2].item() == pytest.approx(float(torch.sin(torch.tensor(5 / 10000 ** (2 / 8)))))
    assert table[5, 3].item() == pytest.approx(float(torch.cos(torch.tensor(5 / 10000 ** (2 / 8)))))


def test_odd_width_takes_sinusoidal_positions() -> None:
    assert PositionalEncoding(4, 5, "sinusoidal")(torch.zeros(1, 4, 5)).shape == (1, 4, 5)
