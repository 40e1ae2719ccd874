"""Handwritten digits: in which order to distill, prune, quantize and add exits. Offline.

Run: python main.py study Digits --config configs/order_study_digits.py
F is Q without float masters: later stages cannot train its int8 weights.
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
}

# One runtime and one batch size: orders are compared at equal BitOps.
DEFAULT_DEPLOYMENT_PARAMS = {"engines": ["onnxruntime"], "batch_sizes": [1]}

EXPERIMENT_CONFIGS = [{"name": "Digits_Baseline_FP32", "is_fp32_baseline_generation": True}]

STAGES = {
    "D": {"distill": {"width": 0.5, "epochs": 12}},
    "P": [
        {"prune": {"mode": "structural", "criterion": "taylor"}},
        {"finetune": {"epochs": 5}},
    ],
    "Q": {"qat": {"epochs": 5}},
    "E": {"early_exit": {"epochs": 5, "saving": 0.1}},  # so that orders cost the same
    "F": {"qat": {"epochs": 5, "freeze": True}},
}
STRENGTHS = {"P": [{"keep": {"macs": 0.6}}, {"keep": {"macs": 0.3}}]}

ORDER_STUDIES = [
    {
        "name": "Digits",
        "baseline": "Digits_Baseline_FP32",
        "stages": STAGES,
        "strengths": STRENGTHS,
        # 'pairs' would be all of two, 'permutations' also of three and more
        "orders": [
            *("D", "P", "Q", "E", "F"),
            *("DP", "PD", "DQ", "QD", "DE", "ED", "PQ", "QP", "PE", "EP", "QE", "EQ"),
            *("DF", "FD", "PF", "FP", "EF", "FE"),
        ],
        "seeds": {"min": 2, "max": 6},
        "budget_hours": 0.5,
        "margin": 2.0,  # points, of 503 images
    },
    {
        "name": "Digits_Whole",  # whether the order that pairs predict holds as a whole
        "baseline": "Digits_Baseline_FP32",
        "stages": {letter: STAGES[letter] for letter in "DPQE"},
        "strengths": STRENGTHS,
        "seeds": [0, 1],
        "margin": 2.0,
        "verify": True,
    },
]
