"""What a stage's result depends on, and the key that is a digest of it."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from experiment.suite.records import Experiment
from machine.files import sha256
from stages import STAGES
from stages.stage import StageSpec

if TYPE_CHECKING:
    from experiment.suite.chains import Step

HOME = Path(__file__).parents[2]
QUANT_SOURCES = {
    *(f"methods/quantization/{name}.py" for name in (
        "record", "backends", "fx", "pt2e", "fake_quant", "compiled", "graph_rewrites"
    )),
    "stages/deployment.py",
}  # fmt: skip
EXIT_SOURCES = {
    *(f"methods/early_exit/{name}.py" for name in ("exits", "thresholds")),
    "methods/costs.py", "stages/deployment.py",
}  # fmt: skip
TEACHER_SOURCES = {
    "stages/teaching.py",
    *(f"methods/distillation/{name}.py" for name in ("losses", "features")),
}  # fmt: skip


def settings_of(
    experiment: Experiment,
    seed: int,
    stage: str,
    spec: StageSpec,
    before: Step | None,
    teacher: Step | None,
    so_far: list[StageSpec],
    device: torch.device,
) -> dict[str, Any]:
    sources = set(_sources(STAGES[stage].run.__module__))
    sources -= QUANT_SOURCES | EXIT_SOURCES | TEACHER_SOURCES
    if any(hasattr(s, "quant") for s in so_far):
        sources |= QUANT_SOURCES
    if any(hasattr(s, "exits") for s in so_far):
        sources |= EXIT_SOURCES
    if teacher is not None:
        sources |= TEACHER_SOURCES
    return {
        "parent": before.key if before else None,
        "stage": stage,
        # what teaches counts, not what it is called
        "spec": spec.settings() | ({"teacher": teacher.key} if teacher else {}),
        "data": {
            "fingerprint": experiment.data.fingerprint,
            "validation_share": experiment.dataset_args.validation_share,
        },
        "model_args": experiment.model_args if before is None else None,
        "seed": seed,
        "deterministic": experiment.training.deterministic,
        "device": device.type,
        "source": sha256("".join(_code_digest(HOME / s) for s in sorted(sources)).encode()),
        "torch": torch.__version__,
    }


@functools.cache
def _sources(module: str) -> frozenset[str]:
    """The project's files that a stage's module imports, and those that they import.

    Left out: dataset.py, whose images count by their fingerprint, and files.py.
    """
    path = module.replace(".", "/") + ".py"
    if path in ("dataset.py", "machine/files.py") or not (HOME / path).exists():
        return frozenset()
    found = {path}
    for node in ast.parse((HOME / path).read_text()).body:
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            found |= _sources(name)
    return frozenset(found)


@functools.cache
def _code_digest(path: Path) -> str:
    """Digest of a file's code; comments, docstrings and layout do not count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body:
            continue
        first = body[0]
        is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        if is_text and isinstance(first.value.value, str):
            first.value.value = ""
    return sha256(ast.unparse(tree).encode())
