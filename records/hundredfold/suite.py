"""How far a wide hybrid can be cut, beside networks of the same size that had no teacher.

Run: sh records/hundredfold/run.sh
Every network sees the same 16,000 images of CIFAR-10 (JPEG); 5,000 others are kept for validation.
"""

import os

MODEL_SAVE_DIR = f"{os.environ['OUT']}/saved_models"
RESULTS_DIR = f"{os.environ['OUT']}/results"

DEFAULT_DATASET_CONFIG = {
    "name": "ImageFolder",
    "root": "data/cifar10",
    "validation_share": 0.1,
    "train_images": 16_000,
}

WIDE = {"cnn_channels": [64, 128, 128, 256], "embed_dim": 256, "ffn_dim": 512}
NARROW = {"cnn_channels": [24, 48, 48, 96], "embed_dim": 96, "ffn_dim": 160}

DEFAULT_TRAINING_PARAMS = {"initial_train_epochs": 20, "optimizer": "muon"}

INT8 = {"qat": {"epochs": 2, "learning_rate": 5e-4}}
SEEDS = [0, 1, 2]

DEFAULT_DEPLOYMENT_PARAMS = {"engines": ["onnxruntime"]}

EXPERIMENT_CONFIGS = [
    {
        "name": "Wide",
        "is_fp32_baseline_generation": True,
        "model_args": WIDE,
        "seeds": SEEDS,
    },
    {
        "name": "Wide_D_Q",
        "load_fp32_baseline_from_experiment": "Wide",
        "model_args": WIDE,
        "seeds": SEEDS,
        "compression_args": {
            "sequence": [
                {
                    "distill": {
                        "width": 0.375,
                        "student": {"ffn_dim": 160},
                        "epochs": 20,
                        "learning_rate": 4e-3,
                    }
                },
                INT8,
            ]
        },
    },
    {  # the student's architecture, as many epochs, no teacher
        "name": "Narrow_alone",
        "is_fp32_baseline_generation": True,
        "model_args": NARROW,
        "seeds": SEEDS,
    },
    {
        "name": "Narrow_alone_Q",
        "load_fp32_baseline_from_experiment": "Narrow_alone",
        "model_args": NARROW,
        "seeds": SEEDS,
        "compression_args": {"sequence": [INT8]},
    },
]
