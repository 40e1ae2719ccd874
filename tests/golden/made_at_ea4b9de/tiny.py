"""Two chains and a study on Digits, small enough to be kept beside the tests."""

DEFAULT_DATASET_CONFIG = {"name": "Digits"}
DEFAULT_MODEL_PARAMS = {
    "cnn_channels": [8],
    "cnn_pools": [4],
    "embed_dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "ffn_dim": 16,
}
DEFAULT_TRAINING_PARAMS = {
    "initial_train_epochs": 8,
    "batch_size": 64,
    "precision": "fp32",
    "augmentation": "none",
}
DEFAULT_COMPRESSION_PARAMS = {
    "finetune_epochs": 1,
    "qat_epochs": 1,
    "quantization_backend": "x86",
}
CUT = {"prune": {"mode": "structural", "ratio": 0.25}}
TOO_MUCH = {"prune": {"mode": "structural", "keep": {"macs": 0.7}}}
EXIT = {"early_exit": {"epochs": 1, "max_accuracy_drop": 5.0}}

EXPERIMENT_CONFIGS = [
    {"name": "Base", "is_fp32_baseline_generation": True, "seeds": [0, 1]},
    {
        "name": "Cut_F_Q",
        "load_fp32_baseline_from_experiment": "Base",
        "compression_args": {"sequence": [CUT, "finetune", "ptq"]},
    },
    {
        "name": "Fails",
        "load_fp32_baseline_from_experiment": "Base",
        "compression_args": {"sequence": [TOO_MUCH]},
    },
    {
        "name": "E_QAT",
        "load_fp32_baseline_from_experiment": "Base",
        "compression_args": {"sequence": [EXIT, {"qat": {"epochs": 1}}]},
    },
]

ORDER_STUDIES = [
    {
        "name": "Tiny",
        "baseline": "Base",
        "stages": {"P": [{"prune": {"ratio": 0.3}}, {"finetune": {"epochs": 1}}], "Q": "ptq"},
        "orders": "pairs",
        "seeds": [0, 1],
    }
]
