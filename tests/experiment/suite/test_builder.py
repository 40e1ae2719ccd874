"""Defaults, an experiment's own sections, --set and its baseline's architecture together."""

from __future__ import annotations

from experiment.suite.schema import load_suite
from stages.finetuning import FinetuneSpec
from stages.pruning import PruneSpec
from tests.support.suites import Suites


def test_sections_are_merged_key_by_key_and_set_wins(suites: Suites) -> None:
    path = suites.write(
        """
        BASE["training_args"] = {"learning_rate": 0.1}
        EXPERIMENT_CONFIGS.append({
            "name": "Short", "load_fp32_baseline_from_experiment": "Base",
            "compression_args": {
                "pruning_ratio": 0.3, "finetune_epochs": 2, "quantization": "qat",
            },
        })
        """
    )
    suite = load_suite(path, overrides=["training_args.batch_size=32"])
    base, short = suite.experiments
    assert base.training.learning_rate == 0.1
    assert base.training.batch_size == short.training.batch_size == 32
    assert short.training.learning_rate == 5e-3  # a baseline's recipe is its own
    assert [name for name, _ in short.sequence] == ["prune", "finetune", "qat"]
    prune, finetune = short.sequence[0][1], short.sequence[1][1]
    assert isinstance(prune, PruneSpec) and prune.ratio == 0.3
    assert isinstance(finetune, FinetuneSpec)
    assert (finetune.epochs, finetune.batch_size, finetune.learning_rate) == (2, 32, 1e-3)


def test_chains_take_their_baselines_architecture(suites: Suites) -> None:
    path = suites.write(
        """
        BASE["model_args"] = {"fusion": "parallel", "mlp_dims": [8]}
        EXPERIMENT_CONFIGS.append(chain("C", "ptq"))
        """
    )
    suite = load_suite(path, only=["C"])
    assert [e.name for e in suite.experiments] == ["Base", "C"]
    assert suite.experiments[1].model_args == suite.experiments[0].model_args
    assert suite.experiments[1].model_args["fusion"] == "parallel"
