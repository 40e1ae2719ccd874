"""Architectures × stages: one network of each kind, one chain of each stage, on 8×8 digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiment.suite.messages import ConfigError
from experiment.suite.schema import load_suite
from tests.support.suites import Suites
from tests.support.user_nets import user_file

TOKENS = {"embed_dim": 16, "num_layers": 2, "num_heads": 2}
HYBRID = {"cnn_channels": [8, 16], "cnn_pools": [1, 2], "ffn_dim": 24, **TOKENS}
# The row's name in the docs → model_args; 'FILE.py:CLASS' is the user's file of the docs.
NETWORKS: dict[str, dict[str, Any]] = {
    "hybrid, serial": HYBRID,
    "hybrid, parallel": {**HYBRID, "fusion": "parallel"},
    "hybrid, parallel_attention": {**HYBRID, "fusion": "parallel_attention"},
    "cct": {"architecture": "cct", "n_conv_layers": 1, **TOKENS},
    "resnet_cifar": {"architecture": "resnet_cifar", "depth": 20, "width": 4},
    "torchvision:resnet18": {
        "architecture": "torchvision:resnet18", "stem": "small", "width_per_group": 64,
    },
    "torchvision:mobilenet_v3_small": {
        "architecture": "torchvision:mobilenet_v3_small", "stem": "small",
    },
    "torchvision:VisionTransformer": {
        "architecture": "torchvision:VisionTransformer", "patch_size": 2, "num_layers": 2,
        "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32,
    },
    "torchvision:shufflenet_v2_x0_5": {
        "architecture": "torchvision:shufflenet_v2_x0_5", "stem": "small",
    },
    "FILE.py:CLASS": {"width": 8},
}  # fmt: skip
STRUCTURAL = {"prune": {"mode": "structural", "ratio": 0.3}}
TRAINED = {"epochs": 1}
# The column's name in the docs → the chain.
STAGES: dict[str, list[Any]] = {
    "prune, mask": [{"prune": {"ratio": 0.3}}],
    "prune, structural": [STRUCTURAL],
    "finetune": [{"finetune": {**TRAINED, "teacher": "baseline"}}],
    "ptq": ["ptq"],
    "qat": [{"qat": TRAINED}],
    "distill": [{"distill": {**TRAINED, "width": 0.5}}],
    "early_exit": [{"early_exit": {**TRAINED, "thresholds": 0.9}}],
    "cast": [{"cast": {"emulate": True}}],
}
# Several at once: cut, cut again, int8 before and after, a student of what was cut.
CHAINS: dict[str, list[Any]] = {
    "SFSQ": [STRUCTURAL, {"finetune": TRAINED}, STRUCTURAL, "ptq"],
    "QSF": [{"qat": TRAINED}, STRUCTURAL, {"finetune": TRAINED}],
    "SDQ": [STRUCTURAL, {"distill": {**TRAINED, "width": 0.5}}, "ptq"],
    "MQF": [{"prune": {"ratio": 0.3}}, {"qat": TRAINED}, {"finetune": TRAINED}],
    "CD": [
        {"cast": {"emulate": True}},
        {"distill": {**TRAINED, "student": {"architecture": "hybrid", **HYBRID}}},
    ],
}
SETTINGS = """
DEFAULT_TRAINING_PARAMS |= {"initial_train_epochs": 1, "batch_size": 256}
DEFAULT_COMPRESSION_PARAMS |= {"quantization_backend": "pt2e", "ptq_calibration_batches": 1}
DEFAULT_DEPLOYMENT_PARAMS = {"engines": ["eager", "onnxruntime", "openvino"], "batch_sizes": [1]}
"""


def config(folder: Path, network: str, chains: dict[str, list[Any]]) -> str:
    """A suite of one network's baseline and some chains, after the tests' own."""
    args = dict(NETWORKS[network])
    if network == "FILE.py:CLASS":
        args["architecture"] = f"{user_file(folder)}:TinyNet"
    base = {"name": "Base", "is_fp32_baseline_generation": True, "model_args": args}
    own = [f"chain({name!r}, *{chain!r})" for name, chain in chains.items()]
    return f"{SETTINGS}EXPERIMENT_CONFIGS = [{base!r}, {', '.join(own)}]\n"


def refusals(suites: Suites, network: str) -> dict[str, str]:
    """Stage → why the check refuses it."""
    found = {}
    for stage, chain in STAGES.items():
        try:
            load_suite(suites.write(config(suites.folder, network, {"C": chain})))
        except ConfigError as error:
            found[stage] = error.problems[0]
    return found
