"""A tiny order study and the command that runs it."""

from __future__ import annotations

from pathlib import Path

import main

STUDY = """
DEFAULT_DATASET_CONFIG = {"name": "Digits", "validation_share": 0.3}
DEFAULT_COMPRESSION_PARAMS["finetune_epochs"] = 1
STUDY = {
    "name": "Tiny",
    "baseline": "Base",
    "stages": {"P": [{"prune": {"mode": "structural"}}, "finetune"], "Q": {"qat": {"epochs": 1}}},
    "strengths": {"P": [{"ratio": 0.3}, {"ratio": 0.6}]},
    "seeds": [0, 1],
}
ORDER_STUDIES = [STUDY]
"""


def study(path: Path, *arguments: str) -> int:
    return main.main(["study", *arguments, "--config", str(path)])
