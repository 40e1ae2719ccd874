"""CIFAR-10 as a folder of images, the best recipe for ten minutes on two CPU cores, then int8.

Run: python main.py --config configs/cifar10_muon.py --set dataset_args.root=PATH
0.414 M parameters; baseline 87.0 ± 0.3 % (3 seeds) after 26 epochs of 21.4 s
(records/recipes_whole).
"""

DEFAULT_DATASET_CONFIG = {
    "name": "ImageFolder",
    "root": "data/cifar10",
    "validation_share": 0.02,  # 1,000 of the 50,000 training images
}

DEFAULT_MODEL_PARAMS = {  # a fifth convolution in place of the second encoder layer
    "cnn_channels": [32, 64, 64, 128, 128],
    "cnn_pools": [2, 1, 2, 1, 2],
    "num_layers": 1,
    "ffn_dim": 192,
}

DEFAULT_TRAINING_PARAMS = {"initial_train_epochs": 26, "optimizer": "muon"}

EXPERIMENT_CONFIGS = [
    {"name": "Serial_Baseline_FP32", "is_fp32_baseline_generation": True},
    {
        "name": "Serial_QPTQ",
        "load_fp32_baseline_from_experiment": "Serial_Baseline_FP32",
        "compression_args": {"sequence": ["ptq"]},
    },
]
