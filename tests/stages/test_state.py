"""Stages leave the state that they are given alone, and its plain form keeps everything."""

from __future__ import annotations

import torch

from stages.stage import Context
from stages.state import from_plain, state_of, to_plain
from tests.support.chains import run_chain
from tests.support.tiny import tiny


def test_states_are_not_changed_by_stages(ctx: Context) -> None:
    start = state_of(tiny(num_layers=1))
    before = {name: value.clone() for name, value in start.weights.items()}
    run_chain(start, ("qat", "prune", "finetune"), ctx)
    assert start.quant is None
    assert all(torch.equal(start.weights[name], value) for name, value in before.items())


def test_plain_form_keeps_everything(ctx: Context) -> None:
    end = run_chain(state_of(tiny()), ("ptq",), ctx).state
    again = from_plain(to_plain(end))
    assert again.quant is not None and end.quant is not None
    assert again.quant.settings() == end.quant.settings()
    assert again.quant.ranges is not None
