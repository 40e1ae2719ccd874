"""The time that is left, by hand-made steps and clocks, and the bar on a terminal alone."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from experiment.running.progress import Forecast, Progress
from tests.support.suites import Suites


def a_step(key: str, stage: str, **spec: Any) -> Any:
    data = SimpleNamespace(fingerprint="digits")
    experiment = SimpleNamespace(data=data, name="E")
    return SimpleNamespace(key=key, stage=stage, settings={"spec": spec}, experiment=experiment)


def a_chain(*steps: Any, ahead: int | None = None) -> Any:
    """A chain of which the store says that so many of its stages run (None: all)."""
    return SimpleNamespace(steps=steps, ahead=lambda records: steps[:ahead])


def a_record(
    stage: str, seconds: float, epochs: int = 1, data: str = "digits", **more: float
) -> dict[str, Any]:
    settings = {"spec": {"epochs": epochs}, "data": {"fingerprint": data}}
    return {"stage": stage, "seconds": seconds, "settings": settings, **more}


def test_a_forecast_is_the_median_of_such_stages_on_such_data() -> None:
    forecast = Forecast([a_record("train", 10, 5), a_record("train", 90, 9, "photographs")])
    assert forecast.seconds(a_step("a", "train", epochs=3)) == pytest.approx(6)
    forecast.learn(a_record("train", 8, 2))
    assert forecast.seconds(a_step("a", "train", epochs=3)) == pytest.approx(9)  # 2 and 4 s
    assert forecast.seconds(a_step("c", "ptq")) is None
    measured = Forecast([a_record("qat", 50, 10, measuring_seconds=30)])  # 2 s an epoch
    assert measured.seconds(a_step("d", "qat", epochs=5)) == pytest.approx(40)


def test_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("experiment.running.progress.time.monotonic", lambda: now.seconds)
    first, second = a_step("a", "train", epochs=10), a_step("b", "train", epochs=20)
    third = a_step("c", "ptq")
    chains = [a_chain(first), a_chain(first, second, third)]
    store = SimpleNamespace(has=lambda key: False, records=lambda: [])
    progress = Progress(chains, store)  # type: ignore[arg-type]
    assert progress.begin_chain() == "1 of 2"  # nothing is known yet
    progress.begin_stage(first)
    now.seconds = 50.0
    progress.end_stage(first, a_record("train", 50, 10))  # 5 s an epoch
    assert progress.begin_chain() == "2 of 2, at least 2 min left"
    progress.begin_stage(second)
    now.seconds = 80.0
    assert progress.time_left() == "at least 70 s left"
    progress.end_stage(second, a_record("train", 100, 20))
    progress.forecast.learn(a_record("ptq", 7))
    assert progress.time_left() == "about 7 s left"
    progress.give_up(chains[1], 2)
    assert progress.time_left() == ""


def test_stages_done_elsewhere_count_as_done() -> None:
    steps = tuple(a_step(name, "train", epochs=10) for name in "abc")
    store = SimpleNamespace(has=lambda key: False, records=lambda: [])
    progress = Progress([a_chain(*steps)], store)  # type: ignore[arg-type]
    progress.forecast.learn(a_record("train", 80, 10))
    progress.at_once = 2
    assert progress.time_left() == "about 2 min left"  # 240 s of work
    progress.computed(steps[0])
    progress.computed(steps[1])
    assert progress.time_left() == "about 40 s left"
    progress.end_stage(steps[0], a_record("train", 80, 10))
    assert progress.time_left() == "about 40 s left"


def test_what_a_stopped_chain_leaves_out_is_left_where_another_has_it() -> None:
    first, shared, own = (a_step(name, "train", epochs=10) for name in "abc")
    chains = [a_chain(first, shared, own), a_chain(first, shared), a_chain(first, ahead=0)]
    store = SimpleNamespace(has=lambda key: False, records=lambda: [])
    progress = Progress(chains, store)  # type: ignore[arg-type]
    progress.begin_chain()
    progress.end_stage(first, a_record("train", 50, 10))
    assert set(progress.open) == {"b", "c"}
    progress.leave_out(chains[0], 1)
    assert set(progress.open) == {"b"}
    progress.begin_chain()
    progress.leave_out(chains[1], 1)
    assert not progress.open

    known = Progress([a_chain(first, shared, ahead=1)], store)  # type: ignore[arg-type]
    assert set(known.open) == {"a"}  # as the store says that it is stopped there


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_bar_over_all_chains_on_a_terminal_only(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    chains = 'EXPERIMENT_CONFIGS.append(chain("F", {"finetune": {"epochs": 3}}))'
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert suites.run(chains) == 0
    drawn = screen.getvalue()
    assert "all chains   0%" in drawn and "2/2 stages" in drawn
    assert "epoch 1/3" in drawn  # the bar inside
    assert "(2 of 2)" in suites.capsys.readouterr().out
    more = chains.replace("3}}", '3, "learning_rate": 0.002}}')
    assert suites.run(more) == 0
    assert re.search(r"about \d+ s left", screen.getvalue())
    screen.truncate(0)
    assert suites.run(chains.replace("3}}", "2}}"), "--quiet") == 0
    assert screen.getvalue() == ""
