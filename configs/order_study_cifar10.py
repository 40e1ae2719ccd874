"""CIFAR-10: every order of distilling, pruning, quantizing and early exits, three seeds. For a GPU.

Run: python main.py study CIFAR10 --config configs/order_study_cifar10.py
438 stages are trained (`--dry-run` shows them); what is done stays done when it is stopped.
"""

DEFAULT_TRAINING_PARAMS = {"initial_train_epochs": 100, "batch_size": 256}

EXPERIMENT_CONFIGS = [{"name": "CIFAR10_Baseline_FP32", "is_fp32_baseline_generation": True}]

ORDER_STUDIES = [
    {
        "name": "CIFAR10",
        "baseline": "CIFAR10_Baseline_FP32",
        "stages": {
            "D": {"distill": {"width": 0.5, "epochs": 60}},
            "P": [
                {"prune": {"mode": "structural", "criterion": "taylor"}},
                {"finetune": {"epochs": 20}},
            ],
            "Q": {"qat": {"epochs": 15}},
            "E": {"early_exit": {"epochs": 15, "max_accuracy_drop": 0.5}},
        },
        "strengths": {"P": [{"keep": {"macs": 0.5}}, {"keep": {"macs": 0.25}}]},
        "orders": "permutations",
        "seeds": [0, 1, 2],
    }
]
