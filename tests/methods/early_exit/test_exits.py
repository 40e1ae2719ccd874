"""Each image gets the logits of its own exit, and what comes after is not computed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.early_exit.exits import CRITERIA, Exits, certainty, leaves, leaves_alone
from methods.early_exit.thresholds import all_certainties, exit_taken
from stages.state import build
from tests.support.exits import learned, network_of, some_digits, with_exits
from tests.support.tiny import FUSIONS


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("criterion", ["confidence", "entropy"])
def test_thresholds_of_one_and_zero(fusion: str, criterion: str) -> None:
    state, images = with_exits(fusion), torch.randn(9, 1, 8, 8)
    count = len(state.model_args["exits"])
    with torch.inference_mode():
        every = build(state).every_logits(images)
    stay = network_of(replace(state, exits=Exits(criterion, (1.0,) * count)))
    go = network_of(replace(state, exits=Exits(criterion, (0.0,) * count)))
    with torch.inference_mode():
        torch.testing.assert_close(stay(images), every[-1])
        torch.testing.assert_close(go(images), every[0])
    assert stay.left == [0] * count + [9] and go.left == [9] + [0] * count


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_each_sample_gets_the_logits_of_its_exit(fusion: str, criterion: str) -> None:
    """Against a loop over single samples that follows the definition."""
    state, images = learned(fusion), some_digits()
    count = len(state.model_args["exits"])
    with torch.inference_mode():
        every = build(state).every_logits(images)
    limits = (1.0,) * count
    if criterion != "patience":
        limits = tuple(all_certainties(every, criterion).quantile(0.706, dim=1).tolist())
    network = network_of(replace(state, exits=Exits(criterion, limits)))
    with torch.inference_mode():
        found = network(images)
    left = [0] * (count + 1)
    for sample in range(len(images)):
        agreeing, answers = 0, []
        for place in range(count + 1):
            logits = every[place, sample]
            p = logits.softmax(0)
            answers.append(int(logits.argmax()))
            agreeing = agreeing + 1 if answers[-2:-1] == answers[-1:] else 0
            entropy = 1 + float((p * p.log()).sum()) / math.log(10)
            limit = limits[min(place, count - 1)]
            sure = {
                "confidence": float(p.max()) > limit,
                "entropy": entropy > limit,
                "patience": agreeing >= limit,
            }[criterion]
            if sure or place == count:
                left[place] += 1
                torch.testing.assert_close(found[sample], logits)
                break
    assert network.left == left
    several = fusion != "parallel" or criterion != "patience"  # one exit cannot agree with another
    assert sum(n > 0 for n in left) > 1 or not several


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_single_image_gets_what_it_gets_among_others(fusion: str, criterion: str) -> None:
    state, images = learned(fusion), some_digits()
    with torch.inference_mode():
        every = build(state).every_logits(images)
    limits = (2.0,) * (len(every) - 1)
    if criterion != "patience":
        limits = tuple(all_certainties(every, criterion).quantile(0.706, dim=1).tolist())
    network = network_of(replace(state, exits=Exits(criterion, limits)))
    with torch.inference_mode():
        together, left = network(images), list(network.left)
        network.reset()
        apart = torch.cat([network(image) for image in images.split(1)])
    torch.testing.assert_close(apart, together)
    assert network.left == left


@pytest.mark.parametrize("criterion", ["confidence", "entropy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_number_is_compared_as_a_tensor_is(criterion: str, dtype: torch.dtype) -> None:
    """Thresholds are float64; 0.9 as float32 is less, 0.7 as float32 is more, than itself."""
    for threshold in (0.9, 0.7, 0.1):
        limit = torch.tensor([threshold], dtype=dtype)
        for certain in (
            limit,
            torch.nextafter(limit, limit + 1),
            torch.nextafter(limit, limit - 1),
        ):
            expected = bool(leaves(certain, criterion, threshold))
            assert leaves_alone(certain, criterion, threshold) == expected


def test_layers_are_really_skipped() -> None:
    """Hooks count the samples that each layer sees."""
    state, images = learned("serial"), some_digits()
    with torch.inference_mode():
        every = build(state).every_logits(images)
    certain = all_certainties(every, "confidence")
    limits = tuple(certain.quantile(0.506, dim=1).tolist())
    network = network_of(replace(state, exits=Exits(thresholds=limits)))
    seen: dict[str, int] = {}
    for index, layer in enumerate(network.network.transformer.layers):  # type: ignore[union-attr, arg-type]
        name = f"layer_{index}"
        seen[name] = 0

        def count(module: Any, inputs: tuple[Tensor, ...], name: str = name) -> None:
            seen[name] += len(inputs[0])

        layer.register_forward_pre_hook(count)
    with torch.inference_mode():
        network(images)
    taken = exit_taken(certain, "confidence", limits)
    assert seen == {
        "layer_0": int((taken > 0).sum()),
        "layer_1": int((taken > 1).sum()),
        "layer_2": int((taken > 2).sum()),
        "layer_3": int((taken > 3).sum()),
    }
    assert 0 < seen["layer_3"] < seen["layer_0"] < len(images)
    seen = dict.fromkeys(seen, 0)
    network.thresholds = (0.0, 0.0, 0.0, 0.0, None)
    with torch.inference_mode():
        network(images)
    assert set(seen.values()) == {0}


def test_certainty_by_hand() -> None:
    logits = torch.tensor([[math.log(3), 0.0, -math.inf]])  # 3/4, 1/4, 0
    assert certainty(logits, "confidence").item() == pytest.approx(0.75)
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    assert certainty(logits, "entropy").item() == pytest.approx(1 - entropy / math.log(3))
