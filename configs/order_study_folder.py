"""An order study on a folder of images: distillation, pruning, int8 and early exit in pairs.

Run: python main.py study Folder_Pairs --config configs/order_study_folder.py \
         --set dataset_args.root=PATH
The folder has train/<class>/*.jpg and test/<class>/*.jpg, e.g. 50,000 and 10,000 of 32×32. Sized
for a slow machine: a narrow network, 8,000 images to train on and 10,000 on which orders are
compared; a core without AMX takes an hour a seed beside others. Elsewhere raise train_images.
"""

DEFAULT_DATASET_CONFIG = {
    "name": "ImageFolder",
    "root": "data/cifar10",
    "validation_share": 0.2,
    "train_images": 8_000,
}

DEFAULT_MODEL_PARAMS = {
    "cnn_channels": [32, 32, 32, 64],
    "embed_dim": 64,
    "ffn_dim": 128,
}

DEFAULT_TRAINING_PARAMS = {"initial_train_epochs": 20}

# One runtime and one batch size: orders are compared at equal BitOps.
DEFAULT_DEPLOYMENT_PARAMS = {"engines": ["onnxruntime"], "batch_sizes": [1]}

EXPERIMENT_CONFIGS = [
    {"name": "Serial_Baseline_FP32", "is_fp32_baseline_generation": True},
]

ORDER_STUDIES = [
    {
        "name": "Folder_Pairs",
        "baseline": "Serial_Baseline_FP32",
        "stages": {
            # Long enough that the student stands within 1.5 points of its teacher.
            "D": {"distill": {"width": 0.75, "epochs": 24, "learning_rate": 4e-3}},
            "P": [
                {
                    "prune": {
                        "mode": "structural",
                        "criterion": "taylor",
                        "targets": ["conv", "ffn", "head_dim", "embed"],
                    }
                },
                {"finetune": {"epochs": 2, "learning_rate": 2e-3}},
            ],
            "Q": {"qat": {"epochs": 2, "learning_rate": 5e-4}},
            # A share of the MACs, so that orders with exits cost the same.
            "E": {"early_exit": {"epochs": 2, "learning_rate": 1e-3, "saving": 0.08}},
        },
        "orders": "pairs",
        "strengths": {"P": [{"keep": {"macs": 0.72}}, {"keep": {"macs": 0.45}}]},
        "seeds": {"min": 2, "max": 4},
        "budget_hours": 3.5,
        "margin": 1.0,  # points; with 10,000 images half a point cannot be told from none
    },
]
