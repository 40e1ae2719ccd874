"""Five small networks for images of 32×32, trained briefly: what `make bench` runs in int8.

Run: sh records/int8_cpus/run.sh, which trains and measures them.
Accuracy is that of 16,000 images and 4 epochs, so that int8 is judged on weights that were trained.
"""

DEFAULT_DATASET_CONFIG = {
    "name": "ImageFolder",
    "root": "data/cifar10",
    "validation_share": 0.02,
    "train_images": 16_000,
}

DEFAULT_TRAINING_PARAMS = {"initial_train_epochs": 4, "optimizer": "muon"}

# What training itself measures; the engines are benchmarks.int8's.
DEFAULT_DEPLOYMENT_PARAMS = {"engines": ["onnxruntime"], "batch_sizes": [1]}

NETWORKS = {
    "default": {},
    "resnet_cifar_20": {"architecture": "resnet_cifar", "depth": 20},
    "cct_2_3x2": {"architecture": "cct"},
    "reference": {
        "cnn_channels": [64, 128, 256],
        "cnn_pools": [2, 2, 1],
        "embed_dim": 256,
        "ffn_dim": 512,
    },
    "mobilenet_v3_small": {"architecture": "torchvision:mobilenet_v3_small", "stem": "small"},
}

EXPERIMENT_CONFIGS = [
    {"name": name, "is_fp32_baseline_generation": True, "model_args": args}
    for name, args in NETWORKS.items()
]
