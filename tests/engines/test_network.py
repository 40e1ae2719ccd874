"""Batches of any size reach an engine that knows fixed sizes alone, and a size its own engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engines import ENGINES, eager
from engines.network import EngineNetwork
from engines.program import Program, Ready
from engines.programs import programs
from tests.support.tiny import tiny


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Two engines, 'fixed' and 'any', and the sizes of batches that each was given."""
    seen: dict[str, list[int]] = {"fixed": [], "any": []}

    def made(name: str, fixed: bool) -> Any:
        def ready(program: Program, batch: int | None, threads: int) -> Ready:
            inner = eager.ready(program, batch, threads)

            def run(inputs: Any) -> Any:
                assert not fixed or len(inputs[0]) == batch
                seen[name].append(len(inputs[0]))
                return inner.run(inputs)

            return inner._replace(run=run)

        return SimpleNamespace(FIXED_BATCH=fixed, COMPILES=False, ready=ready)

    for name in seen:
        monkeypatch.setitem(ENGINES, name, made(name, name == "fixed"))
    return seen


def test_batches_are_padded_and_cut(asked: dict[str, list[int]]) -> None:
    model = tiny()
    network = EngineNetwork(programs(model)[0], {1: "fixed", 8: "fixed"})
    for size in (1, 8):
        network.ready(size)
    asked["fixed"].clear()
    images = torch.randn(19, 1, 8, 8)
    with torch.inference_mode():
        for count, sizes in ((1, [1]), (2, [8]), (8, [8]), (19, [8, 8, 8])):
            expected = model(images[:count])
            assert torch.allclose(network(images[:count]), expected, atol=1e-5)
            assert asked["fixed"] == sizes
            asked["fixed"].clear()


def test_what_is_left_of_a_batch_between_exits_is_cut_small(asked: dict[str, list[int]]) -> None:
    """Nothing is filled up by half or more, and a whole batch is not filled up at all."""
    model = tiny(exits=["cnn"])
    first, rest = (EngineNetwork(part, {1: "fixed", 64: "fixed"}) for part in programs(model))
    with torch.inference_mode():
        for part in (first, rest):
            for size in part.engines:
                part.ready(size)
        images = torch.randn(64, 1, 8, 8)
        for count, sizes in (
            (1, [1]), (2, [1, 1]), (3, [4]), (8, [4, 4]), (9, [16]), (18, [16, 1, 1]), (40, [64]),
            (64, [64]),
        ):  # fmt: skip
            asked["fixed"].clear()
            logits, stream, *pooled = first(images[:count])
            assert asked["fixed"] == sizes
            (found,) = rest(stream, *pooled)
            assert asked["fixed"] == sizes * 2
            expected = model.every_logits(images[:count])
            assert torch.allclose(torch.stack([logits, found]), expected, atol=1e-5)


def test_each_size_goes_to_its_engine(asked: dict[str, list[int]]) -> None:
    network = EngineNetwork(programs(tiny())[0], {1: "fixed", 8: "any"})
    with torch.inference_mode():
        for count in (1, 8, 3, 30):
            network(torch.randn(count, 1, 8, 8))
    assert set(asked["fixed"]) == {1}
    assert {3, 8, 30} <= set(asked["any"]) and 1 not in asked["any"]


def test_other_images_are_refused() -> None:
    network = EngineNetwork(programs(tiny())[0], {1: "eager"})
    with pytest.raises(ValueError, match="8"):
        network(torch.randn(1, 3, 8, 8))
