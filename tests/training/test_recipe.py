"""A recipe says what has an effect, and what is off leaves stages the keys that they had."""

from __future__ import annotations

from typing import Any

import pytest

from machine.files import canonical_json, sha256
from stages.distillation import DistillSpec
from stages.early_exit import EarlyExitSpec
from stages.finetuning import FinetuneSpec, TrainSpec
from stages.pruning import PruneSpec
from stages.qat import QatSpec
from stages.stage import StageSpec
from training.recipe import LEFT_OUT_WHEN_OFF, Recipe

OFF: dict[str, Any] = {"mixup_schedule": "constant", "rotation": 0.0, "color": 0.0}


def cut(**options: Any) -> PruneSpec:
    between = FinetuneSpec(**options)
    return PruneSpec(ratio=0.3, mode="structural", iterations=2, finetune=between)


# Of stages' settings, at commit 8d8d442, which had no rotation, color and mixup_schedule. A change
# here has users train again what they have stored.
DIGESTS: dict[str, tuple[StageSpec, str]] = {
    "train": (TrainSpec(mixup=0.2, **OFF), "b9fe2b0416fcbcfc"),
    "finetune": (FinetuneSpec(teacher="baseline", **OFF), "6d93b7d9fc722258"),
    "qat": (QatSpec(**OFF), "3ff0d336445a1f5a"),
    "distill": (DistillSpec(width=0.5, **OFF), "ad178375841c238a"),
    "early_exit": (EarlyExitSpec(**OFF), "d891f926c451f4d9"),
    "prune": (cut(**OFF), "7256f962d7c29d0c"),
}


def digest(spec: StageSpec) -> str:
    return sha256(canonical_json(spec.settings()))[:16]


@pytest.mark.parametrize("stage", DIGESTS)
def test_options_that_are_off_leave_settings_as_they_were(stage: str) -> None:
    spec, before = DIGESTS[stage]
    assert digest(spec) == before


@pytest.mark.parametrize(
    "option", [{"rotation": 10.0}, {"color": 0.1}, {"mixup": 0.2, "mixup_schedule": "rising"}]
)
def test_options_that_are_on_are_settings(option: dict[str, Any]) -> None:
    assert TrainSpec(**option).settings().items() >= option.items()
    assert cut(**option).settings()["finetune"].items() >= option.items()
    assert Recipe(**option).model_dump().items() >= option.items()
    assert Recipe(**Recipe(**option).model_dump()) == Recipe(**option)


def test_what_is_left_out_is_off_by_default() -> None:
    assert {name: Recipe.model_fields[name].default for name in LEFT_OUT_WHEN_OFF} == OFF


def test_a_schedule_of_no_mixup_is_no_setting() -> None:
    spec = TrainSpec(mixup_schedule="rising")
    assert spec.idle()["mixup_schedule"] == "with mixup 0"
    assert spec.settings() == TrainSpec().settings()
    assert "mixup_schedule" not in TrainSpec(mixup=0.1, mixup_schedule="rising").idle()


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({}, True),
        ({"cutout": 2}, False),
        ({"rotation": 5.0}, False),
        ({"color": 0.1}, False),
        ({"mixup": 0.1}, False),
        ({"augmentation": "standard"}, False),
    ],
)
def test_which_recipes_show_the_same_images(options: dict[str, Any], same: bool) -> None:
    assert Recipe(**{"augmentation": "none", **options}).shows_the_same_images is same
