"""An order study on a folder of images: distillation, pruning, int8 and early exit in pairs.

Run: python main.py study Folder_Pairs --config configs/order_study_folder.py \
         --set dataset_args.root=PATH
The folder has train/<class>/*.jpg and test/<class>/*.jpg. Two cores with AMX take about an hour for
50,000 images of 32×32 and two seeds.
"""

DEFAULT_DATASET_CONFIG = {"name": "ImageFolder", "root": "data/cifar10"}

DEFAULT_TRAINING_PARAMS = {"initial_train_epochs": 12}

EXPERIMENT_CONFIGS = [
    {"name": "Serial_Baseline_FP32", "is_fp32_baseline_generation": True, "seeds": [0, 1]},
]

ORDER_STUDIES = [
    {
        "name": "Folder_Pairs",
        "baseline": "Serial_Baseline_FP32",
        "stages": {
            "D": {"distill": {"width": 0.75, "epochs": 3, "learning_rate": 4e-3}},
            "P": [
                {
                    "prune": {
                        "mode": "structural",
                        "criterion": "taylor",
                        "targets": ["conv", "ffn", "head_dim", "embed"],
                        "round_to": 8,
                    }
                },
                {"finetune": {"epochs": 1, "learning_rate": 2e-3}},
            ],
            "Q": {"qat": {"epochs": 1, "learning_rate": 5e-4}},
            "E": {"early_exit": {"epochs": 1, "learning_rate": 1e-3, "max_accuracy_drop": 0.5}},
        },
        "orders": "pairs",
        "strengths": {"P": [{"keep": {"macs": 0.72}}, {"keep": {"macs": 0.45}}]},
        "seeds": [0, 1],
    },
]
