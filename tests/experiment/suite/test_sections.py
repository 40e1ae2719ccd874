"""What DEVICE may say."""

from __future__ import annotations

import pytest
import torch

from experiment.suite.sections import device_of


@pytest.mark.parametrize(("there", "expected"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_a_gpu_where_there_is_one(
    there: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    assert device_of("auto", []) == torch.device(expected)


def test_a_device_of_torch_counts_as_its_name() -> None:
    assert device_of(torch.device("cpu"), []) == device_of("cpu", []) == torch.device("cpu")
