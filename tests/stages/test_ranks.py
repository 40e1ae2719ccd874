"""What one process refuses, all refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dataset import Dataset
from stages.finetuning import TrainSpec, train
from stages.fitting import fit
from stages.ranks import take_part
from stages.stage import Context, StageError
from stages.state import initial_state
from tests.support.processes import in_team
from tests.support.tiny import tiny
from training.team import Team


def test_a_batch_smaller_than_the_team_is_refused_by_all(tmp_path: Path, digits: Dataset) -> None:
    messages = in_team(3, tmp_path, _refusal, digits)
    assert messages[0] == (
        "a batch of 2 images is less than one for each of 3 processes; set a larger batch_size, "
        "or start fewer"
    )
    assert messages[1:] == ["served", "served"]


def _refusal(team: Team, dataset: Dataset) -> str:
    if team.rank > 0:
        take_part(team, fit)
        return "served"
    ctx = Context(dataset, torch.device("cpu"), 0, say=lambda text: None)
    with pytest.raises(StageError) as caught:
        train(initial_state(tiny().model_args, 0), TrainSpec(epochs=1, batch_size=2), ctx)
    team.broadcast(None)
    return str(caught.value)
