"""CIFAR-10 as a folder of images: the network of cifar10_muon.py, for 100 epochs.

Run: python main.py --config configs/cifar10_long.py --set dataset_args.root=PATH
0.414 M parameters reach 88.5 % (one seed, records/cifar10_long), where 26 epochs of cifar10_muon.py
reach 87.0 ± 0.3 %; an hour on one CPU core with AMX. Colours that vary, ever more images mixed,
averaged weights: what seemed to help, or to do no harm, in records/recipe_options.
"""

DEFAULT_DATASET_CONFIG = {
    "name": "ImageFolder",
    "root": "data/cifar10",
    "validation_share": 0.02,  # 1,000 of the 50,000 training images
}

DEFAULT_MODEL_PARAMS = {  # as in cifar10_muon.py
    "cnn_channels": [32, 64, 64, 128, 128],
    "cnn_pools": [2, 1, 2, 1, 2],
    "num_layers": 1,
    "ffn_dim": 192,
}

DEFAULT_TRAINING_PARAMS = {
    "initial_train_epochs": 100,
    "optimizer": "muon",
    "ema_decay": 0.998,  # over about 500 steps, which is 1.3 epochs
    "color": 0.1,
    "mixup": 0.2,
    "mixup_schedule": "rising",
}

EXPERIMENT_CONFIGS = [
    {"name": "Serial_Baseline_FP32", "is_fp32_baseline_generation": True},
    {
        "name": "Serial_QPTQ",
        "load_fp32_baseline_from_experiment": "Serial_Baseline_FP32",
        "compression_args": {"sequence": ["ptq"]},
    },
]
