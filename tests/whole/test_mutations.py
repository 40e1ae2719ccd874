"""Configs spoilt at random: refused in clear lines, or accepted; never a traceback."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import main
from tests.support.suites import SUITE

GOOD: dict[str, Any] = {
    "DEVICE": "cpu",
    "DEFAULT_DATASET_CONFIG": {"name": "Digits", "validation_share": 0.2},
    "DEFAULT_MODEL_PARAMS": {"cnn_channels": [8, 16], "cnn_pools": [1, 2], "embed_dim": 16},
    "DEFAULT_TRAINING_PARAMS": {"initial_train_epochs": 2, "milestones": [3], "precision": "fp32"},
    "DEFAULT_COMPRESSION_PARAMS": {"pruning_ratio": 0.4, "finetune_epochs": 1},
    "DEFAULT_DEPLOYMENT_PARAMS": {"engines": "auto", "batch_sizes": [1], "threads": 1},
    "EXPERIMENT_CONFIGS": [
        {"name": "Base", "is_fp32_baseline_generation": True, "model_args": {"num_heads": [2, 4]}},
        {
            "name": "Chain",
            "load_fp32_baseline_from_experiment": "Base",
            "training_args": {"initial_train_epochs": 0},
            "compression_args": {
                "sequence": [
                    "qat",
                    {"prune": {"ratio": 0.4}},
                    {"distill": {"width": 0.5, "student": {"num_layers": 1, "ffn_dim": [24]}}},
                    {"finetune": {"epochs": 1, "teacher": "Base"}},
                    {"prune": {"mode": "structural", "keep": {"macs": 0.82}, "round_to": 1}},
                    {"early_exit": {"saving": 0.1, "criterion": "entropy"}},
                    {"ptq": {"float_layers": ["head"]}},
                ]
            },
            "seeds": [0, 1],
        },
    ],
}


JUNK = [
    None, True, -1, 0, 1, 2.5, 10**30, float("nan"), float("inf"), "", "x", "Base", b"b", "é\n\0",
    [], [[]], {}, {"a": 1}, {1: 2}, [None], ["prune", 7], (1, 2), "y" * 500, {"prune": {}}, -0.0,
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything inside a nest of dicts and lists."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return [path] * bool(path) + [p for key, item in items for p in places(item, (*path, key))]


def mutate(path: tuple[Any, ...], how: str, junk: Any) -> dict[str, Any]:
    config = copy.deepcopy(GOOD)
    parent: Any = config
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    if how == "replace" or (how == "rename" and isinstance(parent, list)):
        parent[key] = junk
    elif how == "delete":
        del parent[key]
    elif how == "add" and isinstance(parent, dict):
        parent[f"{key}_too"] = junk
    elif how == "add":
        parent.append(junk)
    else:
        parent[key[:-2] + key[-1] + key[-2]] = parent.pop(key)
    return config


@settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    path=st.sampled_from(places(GOOD)),
    how=st.sampled_from(["replace", "replace", "delete", "add", "rename"]),
    junk=st.sampled_from(JUNK),
)
def test_mutated_configs_are_refused_in_clear_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: tuple, how: str, junk: Any
) -> None:
    config = mutate(path, how, junk)
    text = "nan, inf = float('nan'), float('inf')\n" + SUITE.format(folder=tmp_path)
    text += "".join(f"{name} = {value!r}\n" for name, value in config.items())
    (tmp_path / "suite.py").write_text(text)
    capsys.readouterr()
    code = main.main(["--config", str(tmp_path / "suite.py"), "--dry-run"])
    captured = capsys.readouterr()
    assert code in (0, 2)
    assert not (tmp_path / "models").exists()
    if code == 2:
        lines = captured.err.strip().splitlines()
        assert 1 <= len(lines) <= 8
        assert all(": " in line and len(line) < 600 for line in lines)
        assert "Traceback" not in captured.err


def test_the_unspoilt_config_is_accepted(tmp_path: Path) -> None:
    text = SUITE.format(folder=tmp_path)
    text += "".join(f"{name} = {value!r}\n" for name, value in GOOD.items())
    (tmp_path / "suite.py").write_text(text)
    assert main.main(["--config", str(tmp_path / "suite.py"), "--dry-run"]) == 0
