"""CIFAR-10 in half a minute of training on one large GPU, then int8 for CPUs.

Run: python main.py --config configs/cifar10_gpu.py
0.959 M parameters: six convolutions, 16 tokens, one encoder layer. What it reached on an H200, with
images that JPEG had been at: records/cifar10_gpu. A folder of images instead of the download:
--set dataset_args.name=ImageFolder --set dataset_args.root=PATH
"""

DEFAULT_DATASET_CONFIG = {
    "name": "CIFAR10",
    "validation_share": 0.02,  # 1,000 of the 50,000 training images
}

DEFAULT_MODEL_PARAMS = {
    "cnn_channels": [64, 112, 112, 160, 160, 160],
    "cnn_pools": [2, 1, 2, 1, 1, 2],
    "num_layers": 1,
}

DEFAULT_TRAINING_PARAMS = {
    "initial_train_epochs": 85,
    "batch_size": 512,
    "optimizer": "muon",
    "learning_rate": 0.012,
    "cutout": 12,
}

EXPERIMENT_CONFIGS = [
    {"name": "Serial_Baseline_FP32", "is_fp32_baseline_generation": True},
    {
        "name": "Serial_QPTQ",
        "load_fp32_baseline_from_experiment": "Serial_Baseline_FP32",
        "compression_args": {"sequence": ["ptq"]},
    },
]
