"""Ways against what their stages make of a network."""

from __future__ import annotations

import numpy as np
import pytest

from experiment.running.measure import static_metrics
from experiment.search.config import SearchConfig
from experiment.search.plan import load_search
from experiment.search.space import Features, Way, beginnings
from experiment.suite.chains import plan
from methods.costs import count_macs, planned_attention, planned_macs
from model import blueprint
from networks.args import ModelArgs
from stages import STAGES
from stages.deployment import calibrated
from stages.stage import Context
from stages.state import initial_state
from tests.support.searches import SEARCH, made_up
from tests.support.suites import Suites
from tests.support.tiny import FUSIONS, TINY


def config(**changes: object) -> SearchConfig:
    about = {
        "name": "S", "baseline": "B", "stages": {"P": "prune", "Q": "qat"},
        "wish": "min bitops", "budget_hours": 1.0,
    }  # fmt: skip
    return SearchConfig(**{**about, **changes})  # type: ignore[arg-type]


def test_ranges_become_seven_values_and_lists_stay() -> None:
    found = config(
        strengths={
            "P": {"keep.macs": (0.3, 0.9), "criterion": ["l1", "taylor"]},
            "Q": {"epochs": (1, 3)},
        }
    )
    assert found.values("P", "keep.macs") == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert found.values("Q", "epochs") == [1, 2, 3]
    assert len(found.choices("P")) == 14
    assert found.choices("P")[1] == {"keep.macs": 0.3, "criterion": "taylor"}


def test_every_order_of_every_subset_is_there_once() -> None:
    space = made_up({"A": [{"x": 1}, {"x": 2}], "B": [{"y": 1}, {"y": 2}, {"y": 3}], "C": [{}]},
                    {"A": [1, 1], "B": [1, 1, 1], "C": [1]})  # fmt: skip
    pairs = 2 * (2 * 3 + 2 + 3)
    assert len(space.ways) == len(set(space.ways)) == 2 + 3 + 1 + pairs + 6 * (2 * 3)
    assert len(space.orders()) == 3 + 6 + 6
    assert space.label((("B", 2), ("A", 0), ("C", 0))) == "BAC_b3_a1"


def test_names_of_choices_that_read_alike_are_numbers() -> None:
    space = made_up({"A": [{"x": "a-b"}, {"x": "ab"}]}, {"A": [1, 1]})
    assert [space.label(way) for way in space.ways] == ["A_a0", "A_a1"]


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("pooling", ["mean", "class_token"])
def test_attention_is_what_no_layer_counts(fusion: str, pooling: str) -> None:
    args = ModelArgs(**{**TINY, "fusion": fusion, "pooling": pooling, "num_classes": 7}).resolved()
    macs, layers = count_macs(blueprint(args))
    assert planned_attention(args) == macs - sum(layers.values())
    assert planned_macs(args)[-1] == macs


def test_foreseen_costs_are_those_of_the_network_that_comes_out(
    suites: Suites, ctx: Context
) -> None:
    search = load_search(suites.write(SEARCH), "Tiny")
    for way in [(("P", 0),), (("Q", 0),), (("P", 1), ("Q", 0)), (("Q", 0), ("P", 0))]:
        chain = plan(search.suite([("full", way)], [0]))[-1]
        state = initial_state(search.baseline.model_args, 0)
        for step in chain.steps:
            spec = step.spec.model_copy(
                update={"epochs": 1} if "epochs" in type(step.spec).model_fields else {}
            )
            deployed = calibrated(STAGES[step.stage].run(state, spec, ctx), ctx)
            state = deployed.state
        counted = static_metrics(deployed)
        for name in ("macs", "params", "bitops"):
            assert search.space.foreseen[way][name] == counted[name], (way, name)


def test_what_cannot_be_is_left_out_and_said(suites: Suites) -> None:
    text = SEARCH + "ASKED['strengths'] = {'P': {'keep.macs': [0.45, 0.6]}}\n"
    text += "ASKED['stages'] |= {'R': {'prune': {'mode': 'structural', 'keep': {'macs': 0.2}}}}\n"
    search = load_search(suites.write(text), "Tiny")
    twice: Way = (("P", 0), ("R", 0))
    assert twice not in search.space.ways
    assert any("keep {'macs': 0.2}" in why for why in search.space.impossible)
    assert sum(search.space.impossible.values()) > 0


def test_values_of_a_range_that_cannot_be_are_left_out(suites: Suites) -> None:
    text = SEARCH + "ASKED['strengths'] = {'P': {'keep.macs': (0.1, 0.7)}}\n"
    kept = [
        choice["keep.macs"] for choice in load_search(suites.write(text), "Tiny").space.choices["P"]
    ]
    assert kept == [0.1, 0.2, 0.5, 0.6]  # its widths come to no others


def test_features_tell_ways_apart() -> None:
    space = made_up({"A": [{"x": 1}, {"x": 2}], "B": [{"y": "l1"}, {"y": "lamp"}]},
                    {"A": [0.5, 0.8], "B": [1, 1]})  # fmt: skip
    features = Features(space)
    rows = features.rows(space.ways, "full")
    assert len(np.unique(rows, axis=0)) == len(space.ways)
    assert features.groups[-1][1] == rows.shape[1]
    short = features.rows(space.ways, "short")
    assert ((short != rows).sum(axis=1) == 1).all()


def test_beginnings_end_with_the_way_itself() -> None:
    way: Way = (("P", 1), ("Q", 0))
    assert list(beginnings(way)) == [way[:1], way]
