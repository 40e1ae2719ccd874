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


def test_what_later_stages_make_impossible_is_found_before_anything_runs(suites: Suites) -> None:
    """Also after a structural cut whose widths are known; after one by scores nothing is said."""
    told = suites.refused(
        """
        def cut(**options):
            return {"prune": {"mode": "structural", **options}}
        EXPERIMENT_CONFIGS += [
            chain("A", cut(ratio=0.8), cut(keep={"macs": 0.3})),
            chain("B", {"early_exit": {"saving": 0.3}}, cut(ratio=0.9, targets=["ffn", "embed"])),
            chain("C", "ptq", cut(keep={"latency_ms": 0.5})),
            chain("Unknown", cut(ratio=0.8, scope="global"), cut(keep={"macs": 0.3})),
            chain("Again", {"early_exit": {"saving": 0.3}}, {"early_exit": {"saving": 0.1}},
                  cut(ratio=0.9, targets=["ffn", "embed"])),
        ]
        """
    )
    places = [line.partition(": ")[0] for line in told]
    assert places == [f"{name}.compression_args.sequence[1]" for name in "ABC"]
    assert "not possible with these targets and limits; nearest is" in told[0]
    assert "exits cannot save 30% of the MACs; most is" in told[1]
    assert "keep latency_ms is of the float32 network, and this one is quantized or cast" in told[2]
