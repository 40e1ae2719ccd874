"""A seventy-third of a ResNet-20's BitOps, beside a smaller and a larger network without a teacher.

Run: sh records/hundredfold_resnet/run.sh
The same 8,000 images of CIFAR-10 (JPEG) for every network; 2,000 others are kept for validation.
"""

import os

MODEL_SAVE_DIR = f"{os.environ['OUT']}/saved_models"
RESULTS_DIR = f"{os.environ['OUT']}/results"

DEFAULT_DATASET_CONFIG = {
    "name": "ImageFolder",
    "root": "data/cifar10",
    "validation_share": 0.04,
    "train_images": 8_000,
}

DEFAULT_TRAINING_PARAMS = {"initial_train_epochs": 20, "optimizer": "muon"}
DEFAULT_DEPLOYMENT_PARAMS = {"engines": ["onnxruntime"], "batch_sizes": [1]}

RESNET20 = {"architecture": "resnet_cifar"}
SMALLER = {"architecture": "resnet_cifar", "width": 6}
LARGER = {"architecture": "resnet_cifar", "width": 8}
INT8 = {"qat": {"epochs": 2, "learning_rate": 5e-4}}
TAUGHT = {"distill": {"width": 0.375, "epochs": 20, "learning_rate": 4e-3}}
SEEDS = [0, 1, 2]

EXPERIMENT_CONFIGS = [
    {
        "name": "ResNet20",
        "is_fp32_baseline_generation": True,
        "model_args": RESNET20,
        "seeds": SEEDS,
    },
    {
        "name": "ResNet20_D_Q",
        "load_fp32_baseline_from_experiment": "ResNet20",
        "model_args": RESNET20,
        "seeds": SEEDS,
        "compression_args": {"sequence": [TAUGHT, INT8]},
    },
]
# The student's widths, 8, 16 and 24, are those of no ResNet: these two have it between them.
for name, network in (("Narrow_alone", SMALLER), ("Larger_alone", LARGER)):
    EXPERIMENT_CONFIGS += [
        {
            "name": name,
            "is_fp32_baseline_generation": True,
            "model_args": network,
            "seeds": SEEDS,
        },
        {
            "name": f"{name}_Q",
            "load_fp32_baseline_from_experiment": name,
            "model_args": network,
            "seeds": SEEDS,
            "compression_args": {"sequence": [INT8]},
        },
    ]
