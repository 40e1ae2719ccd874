"""A wide hybrid to a hundredth of its BitOps: distilled into a narrow one, then int8.

Run: python main.py --config configs/hundredfold_folder.py --set dataset_args.root=PATH
The folder has train/<class>/*.jpg and test/<class>/*.jpg. Of the baseline's 95 M multiply-
accumulates the student keeps 14 M (a seventh), and each is in 8 bits by 8 instead of 32 by 32.
"""

DEFAULT_DATASET_CONFIG = {
    "name": "ImageFolder",
    "root": "data/cifar10",
    "validation_share": 0.02,
}

DEFAULT_MODEL_PARAMS = {  # the default hybrid at twice its width: 1.65 M parameters
    "cnn_channels": [64, 128, 128, 256],
    "embed_dim": 256,
    "ffn_dim": 512,
}

DEFAULT_TRAINING_PARAMS = {"initial_train_epochs": 8, "optimizer": "muon"}

EXPERIMENT_CONFIGS = [
    {"name": "Wide_Baseline_FP32", "is_fp32_baseline_generation": True},
    {
        "name": "Wide_D_Q",
        "load_fp32_baseline_from_experiment": "Wide_Baseline_FP32",
        "compression_args": {
            "sequence": [
                {
                    "distill": {
                        "width": 0.375,
                        "student": {"ffn_dim": 160},
                        "epochs": 16,
                        "learning_rate": 4e-3,
                    }
                },
                {"qat": {"epochs": 2, "learning_rate": 5e-4}},
            ]
        },
    },
]
