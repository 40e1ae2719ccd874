"""Handwritten digits: in which order to distill, prune, quantize and add exits. Offline.

Run: python main.py study Digits --config configs/order_study_digits.py
"""

DEFAULT_DATASET_CONFIG = {
    "name": "Digits",
    "validation_share": 0.35,  # 503 images, on which orders are compared
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

DEFAULT_COMPRESSION_PARAMS = {
    "finetune_learning_rate": 2e-3,
    "qat_learning_rate": 2e-3,
    "quantization_backend": "x86",  # torch's own; the default is 'pt2e'
}

EXPERIMENT_CONFIGS = [{"name": "Digits_Baseline_FP32", "is_fp32_baseline_generation": True}]

ORDER_STUDIES = [
    {
        "name": "Digits",
        "baseline": "Digits_Baseline_FP32",
        "stages": {
            "D": {"distill": {"width": 0.5, "epochs": 12}},
            "P": [
                {"prune": {"mode": "structural", "criterion": "taylor"}},
                {"finetune": {"epochs": 5}},
            ],
            "Q": {"qat": {"epochs": 5}},
            "E": {"early_exit": {"epochs": 5, "max_accuracy_drop": 0.5}},
        },
        "strengths": {"P": [{"keep": {"macs": 0.6}}, {"keep": {"macs": 0.3}}]},
        "orders": "pairs",  # 'permutations': also of three and four
        "seeds": [0, 1],
    }
]
