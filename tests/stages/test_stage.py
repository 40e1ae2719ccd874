"""Every stage that trains takes every key of a recipe."""

from __future__ import annotations

from stages import STAGES
from training.recipe import Recipe


def test_stages_that_train_take_every_key_of_a_recipe() -> None:
    for name, stage in STAGES.items():
        trains = issubclass(stage.spec, Recipe)
        assert trains == (name not in ("prune", "ptq", "cast"))
        assert not trains or set(Recipe.model_fields) < set(stage.spec.model_fields)
