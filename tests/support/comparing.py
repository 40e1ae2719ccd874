"""Two results folders side by side: all that must be equal, without what measures time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

# Whatever measures time, or says which process did the work, and after which commit.
TIMINGS = {
    "warnings", "measuring_seconds", "crowded_share",
    "inference_time_ms", "seconds", "resumed", "cached", "finished", "written", "started",
    "command", "latency_ms_batch_1", "latency_ms_batch_64", "environment", "checkpoint",
    "latency_ms_batch_1_ratio", "latency_ms_batch_64_ratio", "suite", "git_commit",
    "engine", "engines", "peak_memory_mb", "joules_per_image", "peak_memory_mb_ratio",
    "joules_per_image_ratio",
}  # fmt: skip


def comparable(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results without timings, and every tensor of every checkpoint."""

    def without_times(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: without_times(v) for k, v in value.items() if k not in TIMINGS}
        return [without_times(item) for item in value] if isinstance(value, list) else value

    results = {
        path.name: without_times(json.loads(path.read_text()))
        for path in sorted((folder / "results").glob("*.json"))
    }
    weights = {
        path.name: torch.load(path, weights_only=True)["state"]
        for path in sorted((folder / "models").glob("*.pth"))
    }
    return results, weights


def assert_equal_tensors(one: Any, other: Any, where: str) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal_tensors(one[key], other[key], f"{where}.{key}")
    else:
        assert one == other, where
