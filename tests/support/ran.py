"""A suite of four chains that is run once, with --tensorboard, for whoever reads results."""

from __future__ import annotations

SEEDS = [0, 1]


CHAINS = """
EXPERIMENT_CONFIGS += [
    chain("PF", {"prune": {"ratio": 0.4}}, {"finetune": {"epochs": 2}}, seeds=[0, 1]),
    chain("PFQat", {"prune": {"ratio": 0.4}}, {"finetune": {"epochs": 1}}, "qat"),
    chain("QatPF", "qat", {"prune": {"ratio": 0.4}}, {"finetune": {"epochs": 1}}),
    chain("EQ", {"early_exit": {"epochs": 1, "thresholds": 0.25}}, "ptq"),
]
"""


def rows(printed: str) -> dict[str, list[str]]:
    """The rows of printed tables, by their first cell; of a table in parts put together."""
    cells = [line.strip("│ ").split("│") for line in printed.splitlines() if line.startswith("│")]
    found: dict[str, list[str]] = {}
    for row in cells:
        found.setdefault(row[0].strip(), []).extend(cell.strip() for cell in row[1:])
    return found
