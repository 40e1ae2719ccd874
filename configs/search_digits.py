"""Handwritten digits: the order and the strengths that lose at most two points. Offline.

Run: python main.py search Digits_Two_Points --config configs/search_digits.py
"""

DEFAULT_DATASET_CONFIG = {
    "name": "Digits",
    "validation_share": 0.35,  # 503 images, on which everything is chosen
}

DEFAULT_MODEL_PARAMS = {
    "cnn_channels": [16, 32],
    "cnn_pools": [1, 2],  # 8×8 pixels → 16 tokens
    "embed_dim": 64,
    "ffn_dim": 128,
}

DEFAULT_TRAINING_PARAMS = {
    "initial_train_epochs": 30,
    "batch_size": 64,
    "precision": "fp32",
}

# One runtime and one batch size: the search is for few BitOps, not for a time.
DEFAULT_DEPLOYMENT_PARAMS = {"engines": ["onnxruntime"], "batch_sizes": [1]}

EXPERIMENT_CONFIGS = [{"name": "Digits_Baseline_FP32", "is_fp32_baseline_generation": True}]

SEARCHES = [
    {
        "name": "Digits_Two_Points",
        "baseline": "Digits_Baseline_FP32",
        "stages": {
            "D": {"distill": {"epochs": 24, "learning_rate": 4e-3}},
            "P": [
                {"prune": {"mode": "structural", "criterion": "taylor"}},
                {"finetune": {"epochs": 6, "learning_rate": 2e-3}},
            ],
            "Q": {"qat": {"epochs": 4, "learning_rate": 2e-3}},
            "E": {"early_exit": {"epochs": 4, "learning_rate": 2e-3, "saving": 0.1}},
        },
        "strengths": {
            "D": {"width": [0.5, 0.75]},
            "P": {"keep.macs": [0.45, 0.6, 0.8]},
        },
        "orders": "any",
        "wish": "accuracy_drop<=2, min bitops",
        "short": 0.34,  # chains are first tried with a third of the epochs
        "budget_hours": 0.5,
        "seeds_final": 3,
    },
]
