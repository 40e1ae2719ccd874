"""Options that have no effect are said once, and change no key; those that have one are not."""

from __future__ import annotations

from typing import Any

import pytest

from experiment.study.plan import load_studies, load_study
from experiment.suite.chains import plan
from experiment.suite.schema import load_suite
from stages import STAGES
from stages.stage import CompressionArgs
from tests.support.home import HOME
from tests.support.suites import Suites, results
from training.recipe import TrainingArgs


def remarks(suites: Suites, text: str, *overrides: str) -> list[str]:
    return load_suite(suites.write(text), overrides=list(overrides)).remarks()


def keys(suites: Suites, text: str) -> list[str]:
    """Of all stages, in the order of the chains."""
    return [s.key for c in plan(load_suite(suites.write(text))) for s in c.steps]


TRAINING = "BASE['training_args'] = {}"
IDLE = {
    "'warmup_epochs': 2.0": "warmup_epochs has no effect with scheduler 'onecycle'",
    "'milestones': [1]": "milestones has no effect with scheduler 'onecycle'",
    "'gamma': 0.1": "gamma has no effect with scheduler 'onecycle'",
    "'patience': 3": "patience has no effect with scheduler 'onecycle'",
    "'step_epochs': 1": "step_epochs has no effect with scheduler 'onecycle'",
    "'momentum': 0.9": "momentum has no effect with optimizer 'adamw'",
    "'flip': True, 'augmentation': 'none'": "flip has no effect with augmentation 'none'",
    "'scheduler': 'step', 'step_epochs': 2": "step_epochs has no effect within epochs 2",
    "'scheduler': 'multistep', 'milestones': [30]": "milestones has no effect within epochs 2",
    "'scheduler': 'plateau', 'patience': 1": "patience has no effect within epochs 2",
}


@pytest.mark.parametrize("options", IDLE)
def test_an_idle_option_of_the_recipe_is_said_and_is_out_of_the_key(
    suites: Suites, options: str
) -> None:
    own = f"BASE['training_args'] = {{{options}}}"
    assert remarks(suites, own) == [f"Base.training_args.{IDLE[options]}"]
    shared = f"DEFAULT_TRAINING_PARAMS |= {{{options}}}"
    assert remarks(suites, shared) == [f"DEFAULT_TRAINING_PARAMS.{IDLE[options]}"]
    first, *others = eval(f"{{{options}}}").items()
    if not others:
        assert keys(suites, own) == keys(suites, "")
        assert remarks(suites, "", f"training_args.{first[0]}={first[1]}") == [
            f"--set training_args.{IDLE[options]}"
        ]


@pytest.mark.parametrize(
    "options",
    [
        "'scheduler': 'cosine', 'warmup_epochs': 1.0",
        "'scheduler': 'step', 'step_epochs': 1, 'gamma': 0.5",
        "'scheduler': 'multistep', 'milestones': [1, 30], 'gamma': 0.5",
        "'optimizer': 'sgd', 'momentum': 0.3",
        "'optimizer': 'rmsprop', 'momentum': 0.3",
        "'flip': False",
        "'mixup': 0.1, 'rotation': 5.0, 'color': 0.2",
        "'warmup_epochs': 0.0, 'milestones': [], 'momentum': 0.0, 'optimizer': 'sgd'",
    ],
)
def test_an_option_with_an_effect_is_not_said_and_makes_a_key(suites: Suites, options: str) -> None:
    text = f"BASE['training_args'] = {{{options}}}"
    assert remarks(suites, text) == []
    values = eval(f"{{{options}}}")
    for name, value in values.items():
        if value and name not in ("optimizer", "scheduler"):
            without = {**values, name: type(value)(value * 2)}
            assert keys(suites, text) != keys(suites, f"BASE['training_args'] = {without}")


OF_STAGES = {
    "{'prune': {'ratio': 0.3, 'finetune': {'epochs': 3}}}": "finetune has no effect with mode "
    "'mask', which cuts once",
    "{'prune': {'ratio': 0.3, 'mode': 'structural', 'finetune': {'epochs': 3}}}": "finetune has no "
    "effect with iterations 1, as it comes between cuts",
    "{'prune': {'keep': {'macs': 0.6}, 'ratio': 0.3, 'mode': 'structural'}}": "ratio has no effect "
    "beside keep",
    "{'prune': {'ratio': 0.3, 'mode': 'structural', 'schedule': 'cubic'}}": "schedule has no "
    "effect with iterations 1",
    "{'prune': {'ratio': 0.3, 'mode': 'structural', 'calibration_batches': 3}}": ""
    "calibration_batches has no effect with criterion 'l1'",
    "{'prune': {'ratio': 0.3, 'mode': 'structural', 'iterations': 2, 'finetune': {'epochs': 1, "
    "'gamma': 0.5}}}": "finetune.gamma has no effect with scheduler 'onecycle'",
    "{'qat': {'precision': 'bf16'}}": "precision has no effect with backend 'x86', which trains in "
    "float32",
    "{'qat': {'compile': True}}": "compile has no effect with fake quantization",
    "{'early_exit': {'trunk': 'frozen', 'sparsity': 0.1}}": "sparsity has no effect with trunk "
    "'frozen'",
    "{'early_exit': {'compile': True}}": "compile has no effect with early exits",
    "{'finetune': {'epochs': 1, 'teacher': 'baseline', 'dkd_beta': 2.0}}": "dkd_beta has no effect "
    "with logit_loss 'kd'",
    "{'finetune': {'epochs': 1, 'teacher': 'baseline', 'alpha': 0.0, 'feature_weight': 1.0, "
    "'temperature': 2.0}}": "temperature has no effect with alpha 0",
    "{'finetune': {'epochs': 1, 'teacher': 'baseline', 'alpha': 1.0, 'label_smoothing': 0.2}}": ""
    "label_smoothing has no effect with alpha 1, which leaves labels no share",
    "{'distill': {'width': 0.5, 'mixup_schedule': 'rising'}}": "mixup_schedule has no effect with "
    "mixup 0",
    "{'distill': {'width': 0.5, 'patience': 2}}": "patience has no effect with scheduler "
    "'onecycle'",
}


@pytest.mark.parametrize("stage", OF_STAGES)
def test_an_idle_option_of_a_stage_is_said_at_its_place(suites: Suites, stage: str) -> None:
    text = f"EXPERIMENT_CONFIGS.append(chain('C', {stage}))"
    assert remarks(suites, text) == [f"C.compression_args.sequence[0].{OF_STAGES[stage]}"]


OWN_RATIO = "EXPERIMENT_CONFIGS.append(chain('C', {'prune': {'ratio': 0.3}}))"


def test_a_default_of_stages_that_none_takes_is_said(suites: Suites) -> None:
    forced = "compression_args.pruning_ratio=0.9"
    why = "has no effect as the stages that take it say their own"
    assert remarks(suites, OWN_RATIO, forced) == [f"--set compression_args.pruning_ratio {why}"]
    takes = "; EXPERIMENT_CONFIGS.append(chain('D', 'prune'))"
    assert remarks(suites, OWN_RATIO + takes, forced) == []
    short = "EXPERIMENT_CONFIGS.append(chain('C', compression_args={'pruning_ratio': 0.3, "
    assert remarks(suites, short + "'qat_epochs': 2}))") == [
        "C.compression_args.qat_epochs has no effect as no stage takes it"
    ]
    several = f"EXPERIMENT_CONFIGS += [chain(name, {next(iter(OF_STAGES))}) for name in 'CDE']"
    assert remarks(suites, several) == [
        "C.compression_args.sequence[0].finetune has no effect with mode 'mask', which cuts once "
        "(and 2 more)"
    ]
    # DEFAULT_COMPRESSION_PARAMS is of stages that a chain may have or not
    assert remarks(suites, "DEFAULT_COMPRESSION_PARAMS['qat_epochs'] = 7") == []


def test_an_idle_option_of_the_architecture_is_said_where_it_is_written(suites: Suites) -> None:
    text = "BASE['model_args'] = {'mlp_dims': [8], 'patch_size': 2}"
    assert remarks(suites, text) == [
        f"Base.model_args.{key} has no effect with fusion 'serial'"
        for key in ("mlp_dims", "patch_size")
    ]
    student = "chain('C', {'distill': {'student': {'fusion': 'parallel'}}})"
    text = "BASE['model_args'] = {'mlp_dims': [8]}; EXPERIMENT_CONFIGS.append(" + student + ")"
    assert remarks(suites, text, "model_args.mlp_grid=1") == [
        "Base.model_args.mlp_dims has no effect with fusion 'serial'"
    ]


def test_what_a_spec_takes_is_what_its_defaults_follow() -> None:
    """Each key that is changed moves those options, and no others."""
    others: dict[str, Any] = {
        "pruning_ratio": 0.3, "pruning_mode": "structural", "finetune_epochs": 7,
        "finetune_learning_rate": 0.5, "quantization_backend": "x86",
        "ptq_calibration_batches": 9, "qat_epochs": 7, "qat_learning_rate": 0.5,
        "distill_epochs": 7,
    }  # fmt: skip
    for name, stage in STAGES.items():
        plain = stage.spec.defaults(TrainingArgs(), CompressionArgs())
        for key, other in others.items():
            changed = stage.spec.defaults(TrainingArgs(), CompressionArgs(**{key: other}))
            moved = {option for option in changed if changed[option] != plain.get(option)}
            named = {o for o, k in stage.spec.takes.items() if k == f"compression_args.{key}"}
            assert moved - {"finetune"} == named, (name, key)


def test_remarks_are_in_run_results_report_and_show(suites: Suites) -> None:
    text = "BASE['training_args'] = {'gamma': 0.5}"
    line = "Base.training_args.gamma has no effect with scheduler 'onecycle'"
    assert suites.run(text, "--dry-run") == 0
    assert f"warning: {line}" in suites.capsys.readouterr().out
    assert suites.run(text, "--quiet") == 0
    assert f"warning: {line}" in suites.capsys.readouterr().out
    assert results(suites, "Base")["remarks"] == [line.removeprefix("Base.")]
    assert "gamma has no effect" in (suites.results / "report.html").read_text()


@pytest.mark.parametrize("config", ["config.py", "configs/quickstart.py", "configs/cifar10_gpu.py"])
def test_the_suites_that_come_along_say_nothing_idle(config: str) -> None:
    assert load_suite(HOME / config).remarks() == []


def test_a_study_that_comes_along_says_nothing_idle() -> None:
    config = HOME / "configs" / "order_study_digits.py"
    for study in load_studies(config):
        assert load_study(config, study.name).suite.remarks() == []
