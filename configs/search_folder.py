"""A folder of images: the order and the strengths that lose at most one point. About two hours.

Run: python main.py search Folder_Within_A_Point --config configs/search_folder.py \
         --set dataset_args.root=PATH
The folder has train/<class>/*.jpg and test/<class>/*.jpg, e.g. 50,000 and 10,000 of 32×32. Sized
for a slow machine as order_study_folder.py is, so that both can be compared: a narrow network,
8,000 images to train on and 10,000 on which everything is chosen. Elsewhere raise train_images.
"""

DEFAULT_DATASET_CONFIG = {
    "name": "ImageFolder",
    "root": "data/cifar10",
    "validation_share": 0.2,
    "train_images": 8_000,
}

DEFAULT_MODEL_PARAMS = {
    "cnn_channels": [32, 32, 32, 64],
    "embed_dim": 64,
    "ffn_dim": 128,
}

DEFAULT_TRAINING_PARAMS = {"initial_train_epochs": 20}

# One runtime and one batch size: the search is for few BitOps, not for a time.
DEFAULT_DEPLOYMENT_PARAMS = {"engines": ["onnxruntime"], "batch_sizes": [1]}

EXPERIMENT_CONFIGS = [{"name": "Serial_Baseline_FP32", "is_fp32_baseline_generation": True}]

SEARCHES = [
    {
        "name": "Folder_Within_A_Point",
        "baseline": "Serial_Baseline_FP32",
        "stages": {
            "D": {"distill": {"epochs": 24, "learning_rate": 4e-3}},
            "P": [
                {
                    "prune": {
                        "mode": "structural",
                        "criterion": "taylor",
                        "targets": ["conv", "ffn", "head_dim", "embed"],
                    }
                },
                {"finetune": {"epochs": 3, "learning_rate": 2e-3}},
            ],
            "Q": {"qat": {"epochs": 2, "learning_rate": 5e-4}},
            "E": {"early_exit": {"epochs": 2, "learning_rate": 1e-3}},
        },
        "strengths": {
            "D": {"width": [0.5, 0.625, 0.75, 0.875]},
            "P": {"keep.macs": (0.3, 0.9)},
            "E": {"saving": [0.08, 0.13]},
        },
        "wish": "accuracy_drop<=1, min bitops",
        "short": 0.34,  # chains are first tried with a third of the epochs
        "budget_hours": 1.5,
        "seeds_final": 3,
    },
]
