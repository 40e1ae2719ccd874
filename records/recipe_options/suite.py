"""What options for long trainings are worth: none, each alone, all together.

Run: sh records/recipe_options/run.sh
The network of configs/cifar10_long.py on 8,000 images of CIFAR-10 (JPEG) for 20 epochs, so that it
sees every image often, as in a long training; 4,000 others are kept for validation.
"""

import os
from typing import Any

MODEL_SAVE_DIR = f"{os.environ['OUT']}/saved_models"
RESULTS_DIR = f"{os.environ['OUT']}/results"

DEFAULT_DATASET_CONFIG = {
    "name": "ImageFolder",
    "root": "data/cifar10",
    "validation_share": 0.08,
    "train_images": 8_000,
}

DEFAULT_MODEL_PARAMS = {
    "cnn_channels": [32, 64, 64, 128, 128],
    "cnn_pools": [2, 1, 2, 1, 2],
    "num_layers": 1,
    "ffn_dim": 192,
}

DEFAULT_TRAINING_PARAMS = {"initial_train_epochs": 20, "optimizer": "muon"}
DEFAULT_DEPLOYMENT_PARAMS = {"engines": ["onnxruntime"], "batch_sizes": [1]}

OPTIONS: dict[str, dict[str, Any]] = {
    "ema": {"ema_decay": 0.99},  # over about 100 steps, which is 1.6 epochs
    "rotation": {"rotation": 10.0},
    "color": {"color": 0.1},
    "mixup": {"mixup": 0.2, "mixup_schedule": "rising"},
}
EVERY = {key: value for option in OPTIONS.values() for key, value in option.items()}

EXPERIMENT_CONFIGS = [
    {
        "name": name,
        "is_fp32_baseline_generation": True,
        "training_args": options,
        "seeds": [0, 1, 2],
    }
    for name, options in [("plain", {}), *OPTIONS.items(), ("every", EVERY)]
]
