"""What does the order hang on? One study of pairs for each of three networks, side by side.

Run: sh records/orders_of_three_networks/run.sh
A serial and a parallel hybrid and a ResNet-8; 8,000 images of CIFAR-10 (JPEG) to train on, 10,000
others on which orders are compared. Without exits: all but 1 % of the multiply-accumulates of a
parallel hybrid lie before the first place where it can be left.
"""

import os

MODEL_SAVE_DIR = f"{os.environ['OUT']}/saved_models"
RESULTS_DIR = f"{os.environ['OUT']}/results"

DEFAULT_DATASET_CONFIG = {
    "name": "ImageFolder",
    "root": "data/cifar10",
    "validation_share": 0.2,
    "train_images": 8_000,
}

DEFAULT_TRAINING_PARAMS = {"initial_train_epochs": 16, "optimizer": "muon"}

# One runtime and one batch size: orders are compared at equal BitOps.
DEFAULT_DEPLOYMENT_PARAMS = {"engines": ["onnxruntime"], "batch_sizes": [1]}

HYBRID = {"cnn_channels": [32, 32, 32, 64], "embed_dim": 64, "ffn_dim": 128}

EXPERIMENT_CONFIGS = [
    {"name": "Serial", "is_fp32_baseline_generation": True, "model_args": HYBRID},
    {
        "name": "Parallel",
        "is_fp32_baseline_generation": True,
        "model_args": {**HYBRID, "fusion": "parallel"},
    },
    {
        "name": "ResNet8",
        "is_fp32_baseline_generation": True,
        "model_args": {"architecture": "resnet_cifar", "depth": 8},
    },
]

ORDER_STUDIES = [
    {
        "name": "Three_Networks",
        "baseline": ["Serial", "Parallel", "ResNet8"],
        "stages": {
            "D": {"distill": {"width": 0.75, "epochs": 12, "learning_rate": 4e-3}},
            "P": [
                {"prune": {"mode": "structural", "criterion": "taylor", "scope": "global"}},
                {"finetune": {"epochs": 2, "learning_rate": 2e-3}},
            ],
            "Q": {"qat": {"epochs": 2, "learning_rate": 5e-4}},
        },
        "orders": "pairs",
        "strengths": {"P": [{"keep": {"macs": 0.7}}, {"keep": {"macs": 0.45}}]},
        "seeds": {"min": 2, "max": 4},
        "margin": 1.0,  # points; with 10,000 images half a point cannot be told from none
    },
]
