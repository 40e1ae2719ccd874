"""A checkpoint that is a malicious pickle is refused by name and does nothing."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from tests.support.suites import Suites


class Malice:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_a_malicious_pickle_is_refused_by_name(suites: Suites, tmp_path: Path) -> None:
    suites.models.mkdir()
    mine = suites.models / "Base_fp32_baseline.pth"
    for protocol in (2, 4):
        mine.write_bytes(pickle.dumps(Malice(tmp_path / "harm"), protocol))
        before = mine.read_bytes()
        assert suites.run() == 2
        error = suites.capsys.readouterr().err
        assert "Base_fp32_baseline.pth: " in error and "Traceback" not in error
        assert mine.read_bytes() == before
    torch.save({"format": 1, "x": Malice(tmp_path / "harm")}, mine)
    assert suites.run() == 2
    assert "refused, it holds more than tensors" in suites.capsys.readouterr().err
    assert not (tmp_path / "harm").exists()
