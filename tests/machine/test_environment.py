"""The record of the machine names the machine."""

from __future__ import annotations

import torch

from machine import processor
from machine.environment import environment


def test_environment_names_the_machine() -> None:
    found = environment(torch.device("cpu"))
    assert found["torch"].startswith(torch.__version__.split("+")[0])
    assert found["threads"] == torch.get_num_threads()
    assert set(found["isa"]) <= set(processor.ISA_FLAGS)
