"""TensorBoard's own reader finds the curves and figures that the results file has."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.support.ran import SEEDS
from tests.support.suites import Ran, Suites


def test_tensorboard_has_curves_figures_and_hparams(ran: Ran) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for seed in SEEDS:
        board = EventAccumulator(str(ran.results / "tensorboard" / f"PF_seed{seed}"))
        board.Reload()
        stages = [s for s in ran.result("PF")["stages"] if s["seed"] == seed]
        for name in ("train_loss", "validation_accuracy", "learning_rate"):
            events = board.Scalars(f"2_finetune/{name}")
            history = stages[1]["details"]["history"]
            assert [event.step for event in events] == [1, 2]
            np.testing.assert_allclose([e.value for e in events], [row[name] for row in history])
        sizes = [event.value for event in board.Scalars("stages/model_size_mb")]
        np.testing.assert_allclose(sizes, [s["metrics"]["model_size_mb"] for s in stages])
        (final,) = board.Scalars("final/accuracy")
        np.testing.assert_allclose(final.value, stages[-1]["metrics"]["accuracy"])
        content = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        assert b"1_prune.ratio" in content and "prune → finetune".encode() in content


def test_tensorboard_that_is_not_installed(suites: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    (line,) = suites.refused("", "--tensorboard")
    assert line.startswith("--tensorboard: ") and line.endswith("pip install tensorboard")
