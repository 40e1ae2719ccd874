"""With --quiet a run shows what went wrong and the table, and nothing else."""

from __future__ import annotations

import pytest

from experiment.running.console import Console
from tests.support.suites import Suites


def test_quiet_shows_what_is_wrong_and_the_table(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    chains = """
    EXPERIMENT_CONFIGS += [
        chain("Q", "ptq"), chain("Bad", {"finetune": {"epochs": 1, "learning_rate": 100.0,
                                                      "optimizer": "sgd"}}),
    ]
    """
    assert suites.run(chains, "--quiet") == 1
    out = suites.capsys.readouterr().out.splitlines()
    before = out[: next(i for i, line in enumerate(out) if line.startswith("Results"))]
    assert any(line.startswith("Bad: FAILED in finetune: NonFiniteLossError") for line in before)
    assert all("FAILED" in line or "warning" in line or "snapshot" in line for line in before)
    assert any("│ Q " in line for line in out)


@pytest.mark.parametrize(
    ("answers", "expected"), [(["yes"], True), (["No "], False), ([""], False), (["q", "y"], True)]
)
def test_a_question_is_asked_until_it_is_answered(
    answers: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda: answers.pop(0))
    assert Console().ask("[sic] Remove them?", default=False) is expected
    assert answers == []
