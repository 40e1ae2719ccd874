"""A suite in which one experiment teaches another."""

from __future__ import annotations

import json
from typing import Any

from experiment.suite.chains import plan
from experiment.suite.schema import load_suite
from tests.support.suites import Suites

TAUGHT = """
D = {"width": 0.5, "epochs": 1}
EXPERIMENT_CONFIGS += [
    chain("Student", {"distill": {**D, "teacher": "Teacher"}}),
    chain("Teacher", {"finetune": {"epochs": 1}}, "ptq"),
    chain("Other", {"finetune": {"epochs": 1}}),
]
"""


def keys(suites: Suites, text: str) -> dict[str, str]:
    """Experiment → key of its last stage."""
    chains = plan(load_suite(suites.write(text)))
    return {chain.experiment.name: chain.steps[-1].key for chain in chains}


def stages_of(suites: Suites, name: str) -> list[dict[str, Any]]:
    return json.loads((suites.results / f"{name}_results.json").read_text())["stages"]
