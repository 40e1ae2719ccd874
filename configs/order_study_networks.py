"""Handwritten digits: does the order of pruning and quantization depend on the network? Offline.

Run: python main.py study Networks --config configs/order_study_networks.py
"""

DEFAULT_DATASET_CONFIG = {
    "name": "Digits",
    "validation_share": 0.35,  # 503 images, on which orders are compared
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

HYBRID = {"cnn_channels": [16, 32], "cnn_pools": [1, 2], "embed_dim": 64, "ffn_dim": 128}
RESNET = {"architecture": "resnet_cifar", "depth": 8}

EXPERIMENT_CONFIGS = [
    {"name": "Hybrid", "is_fp32_baseline_generation": True, "model_args": HYBRID},
    {"name": "ResNet8", "is_fp32_baseline_generation": True, "model_args": RESNET},
]

ORDER_STUDIES = [
    {
        "name": "Networks",
        "baseline": ["Hybrid", "ResNet8"],  # a study of each
        "stages": {
            "P": [
                {"prune": {"mode": "structural", "criterion": "taylor"}},
                {"finetune": {"epochs": 5}},
            ],
            "Q": {"qat": {"epochs": 5}},
        },
        "strengths": {"P": [{"keep": {"macs": 0.6}}, {"keep": {"macs": 0.3}}]},
        "seeds": [0, 1, 2],
    }
]
