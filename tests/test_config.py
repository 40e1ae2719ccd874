"""The suites that are shipped are sound, and the default one has the experiments it promises."""

from __future__ import annotations

import pytest

from experiment.suite.messages import ConfigError
from experiment.suite.schema import load_suite
from tests.support.home import HOME


def test_the_shipped_suites_are_sound() -> None:
    for path in [HOME / "config.py", HOME / "configs" / "quickstart.py"]:
        assert load_suite(path).experiments
    with pytest.raises(ConfigError, match=r"data/cifar10/train is not a folder"):
        load_suite(HOME / "configs" / "cifar10_folder.py")


def test_default_suite_has_the_promised_experiments() -> None:
    experiments = load_suite(HOME / "config.py").experiments
    sequences = {e.name: [stage for stage, _ in e.sequence] for e in experiments}
    assert sequences["Serial_CIFAR10_P40_F_QPTQ"] == ["prune", "finetune", "ptq"]
    assert sequences["Serial_CIFAR10_P40_F_QQAT"] == ["prune", "finetune", "qat"]
    orders = list(sequences.values())
    for order in (
        ["ptq"],
        ["qat"],
        ["prune"],
        ["qat", "prune", "finetune"],
        ["ptq", "prune", "finetune"],
        ["prune", "ptq"],
        ["prune", "ptq", "finetune"],
    ):
        assert order in orders
