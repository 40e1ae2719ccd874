"""CIFAR-10 as a folder of images (train/<class>/*.jpg, test/<class>/*.jpg): orders compared.

Run: python main.py --config configs/cifar10_folder.py --set dataset_args.root=PATH
About 25 min on 2 CPU cores with AMX; seed 0: baseline 84.6 %, PTQ 84.6, QAT 84.8
(records/masks_and_int8).
"""

DEFAULT_DATASET_CONFIG = {
    "name": "ImageFolder",
    "root": "data/cifar10",
    "validation_share": 0.02,  # 1,000 of the 50,000 training images
}

DEFAULT_TRAINING_PARAMS = {"initial_train_epochs": 24}

DEFAULT_COMPRESSION_PARAMS = {"finetune_epochs": 5}


def chain(name: str, *sequence: str | dict) -> dict:
    return {
        "name": name,
        "load_fp32_baseline_from_experiment": "Serial_Baseline_FP32",
        "compression_args": {"sequence": list(sequence)},
    }


P40 = {"prune": {"ratio": 0.4}}

EXPERIMENT_CONFIGS = [
    {"name": "Serial_Baseline_FP32", "is_fp32_baseline_generation": True},
    chain("Serial_QPTQ", "ptq"),
    chain("Serial_P40_F_QPTQ", P40, "finetune", "ptq"),
    chain("Serial_P40_F_QQAT", P40, "finetune", "qat"),
    chain("Serial_QQAT", "qat"),
    chain("Serial_QQAT_P40_F", "qat", P40, {"finetune": {"epochs": 3}}),
]
