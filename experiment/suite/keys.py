"""What a stage's result depends on, and the key that is a digest of it.

Code counts by definition, not by file: from a stage's function and Spec, names are followed to what
they mean anywhere in the project (sources.py), so that a helper may move to another file and cost
nobody a training run, while a changed line of it renews all that uses it. This is sound because the
project dispatches by name alone: a class counts whole, so does a module that is used as a value (a
row of BACKENDS), and so do the folders of what a Spec declares. Were files to count instead, a move
would bring in whatever else the new file holds, and where import lines do not count, a name that is
imported from elsewhere would go unnoticed.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from experiment.suite.records import Experiment, Passage
from experiment.suite.sources import Location, Sources
from model import architecture_of
from networks.foreign import source_digest
from stages import STAGES
from stages.state import initial_state

HOME = Path(__file__).parents[2]
SOURCES = Sources(HOME)

# What code that stages share, such as `fit`, uses only where one of them declares it.
DECLARED = {
    "int8": ("methods.quantization.", "stages.deployment."),
    "exits": ("methods.early_exit.", "stages.deployment."),
    "bf16": ("methods.casting.",),
    "teacher": ("methods.distillation.", "stages.teaching.", "stages.deployment."),
}
# What is never followed: data counts by its fingerprint, options count as a Spec has resolved them,
# and a stage that was done on one machine is done for all.
LEFT_OUT = (
    *("data_sets.source.", "dataset.load_dataset."),
    *("stages.stage.CompressionArgs.", "training.recipe.TrainingArgs."),
    "machine.",
)


def settings_of(
    experiment: Experiment,
    seed: int,
    passage: Passage,
    parent: str | None,
    teacher: str | None,
    device: torch.device,
) -> dict[str, Any]:
    """All that a step's key is a digest of; `parent` and `teacher` are the keys of such steps."""
    holds = {
        "int8": passage.leaving.int8,
        "exits": passage.leaving.exits,
        "bf16": passage.leaving.bf16,
        "teacher": teacher is not None,
    }
    facts = frozenset(fact for fact in DECLARED if holds[fact])
    file = source_digest(architecture_of(passage.leaving.model_args))
    return {
        "parent": parent,
        "stage": passage.stage,
        # what teaches counts, not what it is called
        "spec": passage.spec.settings() | ({"teacher": teacher} if teacher else {}),
        "data": {
            "fingerprint": experiment.data.fingerprint,
            **experiment.dataset_args.split(),
        },
        "model_args": experiment.model_args if parent is None else None,
        "seed": seed,
        "deterministic": experiment.training.deterministic,
        "device": device.type,
        **({"network_file": file} if file is not None else {}),  # in which the user's class is
        "source": code_of(*STAGES[passage.stage], facts, SOURCES),
        "torch": torch.__version__,
    }


@functools.cache
def code_of(spec: Any, run: Any, facts: frozenset[str], sources: Sources) -> str:
    """Digest of a stage's code, where its network or its teacher makes `facts` true."""
    own = {spec.__module__, run.__module__}
    opened = {part for fact in facts for part in DECLARED[fact]}
    closed = tuple({part for parts in DECLARED.values() for part in parts} - opened)

    def follows(module: str, meant: Location) -> bool:
        """What a stage's own file takes from `methods` counts, declared or not."""
        if meant.within(closed):
            taken = module in own and meant.within(("methods.",))
            return taken or Location(module, "").within(closed)
        return not meant.within(LEFT_OUT)

    return sources.digest([spec, run, initial_state], opened, follows)
