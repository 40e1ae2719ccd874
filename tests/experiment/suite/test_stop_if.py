"""What is beyond a bound, by hand; every mistake in writing one; and that no key depends on it."""

from __future__ import annotations

import pytest

from experiment.suite.schema import load_suite
from experiment.suite.stop_if import StopIf, stop_in_words
from tests.support.suites import Suites
from tests.support.taught import TAUGHT, keys

FIGURES = {"accuracy": 88.5, "loss": 0.4, "images": 100}
BASELINE = {"accuracy": 95.5, "loss": 0.2, "images": 100}


@pytest.mark.parametrize(
    ("bounds", "why"),
    [
        ({"accuracy_drop": 6.9}, "accuracy_drop 7 > 6.9"),
        ({"accuracy_drop": 7}, None),  # at the bound is not beyond it
        ({"accuracy_drop": -1}, "accuracy_drop 7 > -1"),
        ({"accuracy": 88.5}, None),
        ({"accuracy": 88.6}, "accuracy 88.5 < 88.6"),
        ({"loss": 0.4}, None),
        ({"loss": 0.39}, "loss 0.4 > 0.39"),
        ({"accuracy_drop": 5, "loss": 0.3, "accuracy": 50}, "accuracy_drop 7 > 5, loss 0.4 > 0.3"),
        ({}, None),
    ],
)
def test_what_is_beyond_a_bound(bounds: dict[str, float], why: str | None) -> None:
    assert StopIf(**bounds).why(FIGURES, BASELINE) == why


def test_a_difference_of_percentages_is_not_beyond_its_bound_by_rounding() -> None:
    """Of 144 images, 7 more are wrong: the bound to the last digit, the difference is not."""
    start, end = 100 * 140 / 144, 100 * 133 / 144
    bound = 100 * 7 / 144
    assert start - end > bound
    assert StopIf(accuracy_drop=bound).why({"accuracy": end}, {"accuracy": start}) is None


def test_a_loss_that_was_not_finite_is_beyond_any_bound() -> None:
    assert StopIf(loss=1e9).why({"accuracy": 10.0, "loss": None}) == "loss inf > 1e+09"


def test_a_drop_needs_a_baseline() -> None:
    with pytest.raises(ValueError, match="there is none"):
        StopIf(accuracy_drop=1).why(FIGURES)
    assert StopIf(accuracy=90).why(FIGURES) == "accuracy 88.5 < 90"


def test_words() -> None:
    assert str(StopIf(accuracy_drop=5, loss=2)) == "accuracy_drop > 5 or loss > 2"
    entry = {"seed": 1, "stage": "prune", "why": "loss 3 > 2"}
    assert stop_in_words(entry, of_several=False) == "stopped after prune: loss 3 > 2"
    assert stop_in_words(entry, of_several=True) == "seed 1 stopped after prune: loss 3 > 2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'chain("A", "ptq", "qat", stop_if={"accuracy_dro": 5})',
            "A.stop_if.accuracy_dro: 'accuracy_dro' is not known; did you mean 'accuracy_drop'?",
        ),
        (
            'chain("A", "ptq", "qat", stop_if={"loss": "2"})',
            "A.stop_if.loss: '2' should be a valid number",
        ),
        (
            'chain("A", "ptq", "qat", stop_if={"loss": float("inf")})',
            "A.stop_if.loss: inf should be a finite number",
        ),
        (
            'chain("A", "ptq", "qat", stop_if={"accuracy_drop": float("nan")})',
            "A.stop_if.accuracy_drop: nan should be a finite number",
        ),
        (
            'chain("A", "ptq", "qat", stop_if={"accuracy": 101})',
            "A.stop_if.accuracy: 101 should be less than or equal to 100",
        ),
        (
            'chain("A", "ptq", "qat", stop_if=5)',
            "A.stop_if: 5 should be a valid dictionary",
        ),
        (
            '{"name": "A", "stop_if": {"accuracy_drop": 5},'
            ' "compression_args": {"sequence": ["ptq"]}}',
            "A.stop_if.accuracy_drop: is a drop below the baseline, and none is loaded; set "
            "load_fp32_baseline_from_experiment, or bound 'accuracy' or 'loss'",
        ),
        (
            '{"name": "A", "is_fp32_baseline_generation": True, "stop_if": {"loss": 5}}',
            "A.stop_if: a baseline is not stopped, as chains start from it; remove the key",
        ),
    ],
)
def test_mistakes_in_writing_one(suites: Suites, text: str, said: str) -> None:
    assert suites.refused(f"EXPERIMENT_CONFIGS.append({text})") == [said]


def test_a_teacher_may_not_be_stopped(suites: Suites) -> None:
    text = TAUGHT.replace('"ptq")', '"ptq", stop_if={"accuracy": 50})')
    assert suites.refused(text) == [
        "Student.compression_args.sequence[0].teacher: 'Teacher' has a stop_if, by which the "
        "network that teaches may never be made; remove that, or choose another teacher"
    ]


def test_no_key_depends_on_it(suites: Suites) -> None:
    text = 'EXPERIMENT_CONFIGS.append(chain("A", "ptq", {"finetune": {"epochs": 1}}%s))'
    assert keys(suites, text % "") == keys(suites, text % ', stop_if={"loss": 1.5}')


def test_one_that_can_stop_nothing_is_remarked(suites: Suites) -> None:
    text = 'EXPERIMENT_CONFIGS.append(chain("A", "ptq", stop_if={"loss": 1.5}))'
    (remark,) = load_suite(suites.write(text)).remarks()
    assert remark == "A: stop_if has no effect as no stage comes after the only one"
    more = text.replace('"ptq"', '"ptq", "qat"')
    assert load_suite(suites.write(more)).remarks() == []
