"""The suite that `python main.py` runs: CIFAR-10 and CIFAR-100, serial and parallel hybrids.

Edit the dicts below; every key is checked before anything runs (try `python main.py --dry-run`).
CIFAR is downloaded at the first run. Offline: python main.py --config configs/quickstart.py
"""

DEVICE = "auto"  # a GPU where there is one; or 'cpu', 'cuda', 'cuda:1'
DATA_DIR = "data"  # downloads and decoded images
MODEL_SAVE_DIR = "saved_models"  # checkpoints
RESULTS_DIR = "results"  # JSON and the report

DEFAULT_DATASET_CONFIG = {
    "name": "CIFAR10",  # a row of DATASET_REGISTRY in dataset.py
    "validation_share": 0.1,  # of the training images; every choice is made on these
}

DEFAULT_MODEL_PARAMS = {  # 0.42 M parameters for 10 classes
    "fusion": "serial",  # 'serial', 'parallel' (an MLP beside), 'parallel_attention'
    "cnn_channels": [32, 64, 64, 128],  # one entry a convolution block
    "cnn_pools": [2, 1, 2, 2],  # max pooling after each block; 1 = none
    "embed_dim": 128,  # width of a token
    "num_layers": 2,  # Transformer encoder layers
    "num_heads": 4,
    "ffn_dim": 256,
    "dropout": 0.0,
}

DEFAULT_TRAINING_PARAMS = {
    "initial_train_epochs": 20,  # of a baseline; a chain that loads one takes 0
    "batch_size": 128,
    "optimizer": "adamw",  # 'sgd', 'adam', 'adamw', 'rmsprop', 'muon'
    "learning_rate": 4e-3,  # the peak
    "weight_decay": 0.05,
    "scheduler": "onecycle",  # 'cosine', 'onecycle', 'step', 'multistep', 'plateau', 'none'
    "label_smoothing": 0.1,
    "augmentation": "standard",  # 'none', 'standard' (crop and flip), 'randaugment'
    "precision": "auto",  # 'fp32', 'bf16'; auto = bf16 where the hardware has it
    "seed": 0,
}

DEFAULT_COMPRESSION_PARAMS = {
    "pruning_ratio": 0.0,  # share of each layer's output channels
    "pruning_mode": "mask",  # 'mask' (zeros), 'structural' (cut out)
    "finetune_epochs": 0,
    "finetune_learning_rate": 1e-3,
    "quantization": None,  # None, 'ptq', 'qat'
    "quantization_backend": "pt2e",  # or torch's own: 'x86', 'fbgemm', 'qnnpack', 'onednn'
    "ptq_calibration_batches": 8,
    "qat_epochs": 3,
    "qat_learning_rate": 5e-4,
    "distill_epochs": 20,  # of a student, from random weights
}

DEFAULT_DEPLOYMENT_PARAMS = {  # what networks are measured on
    "engines": "auto",  # all that are installed, or e.g. ['eager']; the fastest counts
    "batch_sizes": [1, 64],  # powers of two up to 256
    "threads": None,  # as many as torch takes
}

EXPERIMENT_CONFIGS = [
    # Baselines: trained once, reused by every chain that names them.
    {"name": "Baseline_FP32_Serial_CIFAR10", "is_fp32_baseline_generation": True},
    {
        "name": "Baseline_FP32_Parallel_CIFAR10",
        "is_fp32_baseline_generation": True,
        "model_args": {"fusion": "parallel"},
    },
    {
        "name": "Baseline_FP32_Serial_CIFAR100",
        "is_fp32_baseline_generation": True,
        "dataset_args": {"name": "CIFAR100"},
    },
    # The usual order: prune, finetune, quantize.
    {
        "name": "Serial_CIFAR10_P40_F_QPTQ",
        "load_fp32_baseline_from_experiment": "Baseline_FP32_Serial_CIFAR10",
        "compression_args": {"pruning_ratio": 0.4, "finetune_epochs": 5, "quantization": "ptq"},
    },
    {
        "name": "Serial_CIFAR10_P40_F_QQAT",
        "load_fp32_baseline_from_experiment": "Baseline_FP32_Serial_CIFAR10",
        "compression_args": {"pruning_ratio": 0.4, "finetune_epochs": 5, "quantization": "qat"},
    },
    {
        "name": "Parallel_CIFAR10_P40_F_QPTQ",
        "load_fp32_baseline_from_experiment": "Baseline_FP32_Parallel_CIFAR10",
        "compression_args": {"pruning_ratio": 0.4, "finetune_epochs": 5, "quantization": "ptq"},
    },
    {
        "name": "Serial_CIFAR100_P40_F_QPTQ",
        "load_fp32_baseline_from_experiment": "Baseline_FP32_Serial_CIFAR100",
        "compression_args": {"pruning_ratio": 0.4, "finetune_epochs": 5, "quantization": "ptq"},
    },
    # Structural: half of the multiply-accumulates are cut out.
    {
        "name": "Serial_CIFAR10_M50_F_QPTQ",
        "load_fp32_baseline_from_experiment": "Baseline_FP32_Serial_CIFAR10",
        "compression_args": {
            "sequence": [
                {"prune": {"mode": "structural", "keep": {"macs": 0.5}, "criterion": "taylor"}},
                {"finetune": {"epochs": 5}},
                "ptq",
            ]
        },
    },
    # One technique alone.
    {
        "name": "Serial_CIFAR10_QPTQ",
        "load_fp32_baseline_from_experiment": "Baseline_FP32_Serial_CIFAR10",
        "compression_args": {"quantization": "ptq"},
    },
    {
        "name": "Serial_CIFAR10_QQAT",
        "load_fp32_baseline_from_experiment": "Baseline_FP32_Serial_CIFAR10",
        "compression_args": {"quantization": "qat"},
    },
    {
        "name": "Serial_CIFAR10_P40",
        "load_fp32_baseline_from_experiment": "Baseline_FP32_Serial_CIFAR10",
        "compression_args": {"pruning_ratio": 0.4},
    },
    # Other orders, written out; a sequence runs exactly as it stands.
    {
        "name": "Serial_CIFAR10_QQAT_P40_F",
        "load_fp32_baseline_from_experiment": "Baseline_FP32_Serial_CIFAR10",
        "compression_args": {
            "sequence": ["qat", {"prune": {"ratio": 0.4}}, {"finetune": {"epochs": 5}}]
        },
    },
    {
        "name": "Serial_CIFAR10_QPTQ_P40_F",
        "load_fp32_baseline_from_experiment": "Baseline_FP32_Serial_CIFAR10",
        "compression_args": {
            "sequence": ["ptq", {"prune": {"ratio": 0.4}}, {"finetune": {"epochs": 5}}]
        },
    },
    {
        "name": "Serial_CIFAR10_P40_QPTQ",
        "load_fp32_baseline_from_experiment": "Baseline_FP32_Serial_CIFAR10",
        "compression_args": {"sequence": [{"prune": {"ratio": 0.4}}, "ptq"]},
    },
    {
        "name": "Serial_CIFAR10_P40_QPTQ_F",
        "load_fp32_baseline_from_experiment": "Baseline_FP32_Serial_CIFAR10",
        "compression_args": {
            "sequence": [{"prune": {"ratio": 0.4}}, "ptq", {"finetune": {"epochs": 5}}]
        },
    },
]

ORDER_STUDIES = [  # in which order? python main.py study Serial_CIFAR10_Orders
    {
        "name": "Serial_CIFAR10_Orders",
        "baseline": "Baseline_FP32_Serial_CIFAR10",  # every chain starts from it
        "stages": {  # a capital letter each: a stage, or a list of stages
            "D": {"distill": {"width": 0.5}},
            "P": [
                {"prune": {"mode": "structural", "criterion": "taylor"}},
                {"finetune": {"epochs": 5}},
            ],
            "Q": "qat",
        },
        "strengths": {  # options over a letter's first stage, one dict a strength
            "P": [{"keep": {"macs": 0.7}}, {"keep": {"macs": 0.4}}],
        },
        "orders": "permutations",  # or 'pairs', or a list: ['PQ', 'QP', 'DPQ']
        "seeds": [0, 1],
    },
]

SEARCHES = [  # in which order, and how hard? python main.py search Serial_CIFAR10_Within_A_Point
    {
        "name": "Serial_CIFAR10_Within_A_Point",
        "baseline": "Baseline_FP32_Serial_CIFAR10",  # every chain starts from it
        "stages": {  # as in a study
            "D": {"distill": {"epochs": 20}},
            "P": [
                {"prune": {"mode": "structural", "criterion": "taylor"}},
                {"finetune": {"epochs": 5}},
            ],
            "Q": {"qat": {"epochs": 3}},
        },
        "strengths": {  # options over a letter's first stage: a range (low, high), or a list
            "D": {"width": (0.25, 0.85)},
            "P": {"keep.macs": (0.3, 0.9)},
        },
        "orders": "any",  # or a list: ['DPQ', 'PQ'], or {'study': 'Serial_CIFAR10_Orders'}
        "wish": "accuracy_drop<=1, min latency_ms",  # as --recommend takes it
        "short": 0.34,  # chains may first be tried with a third of the epochs
        "budget_hours": 3,  # of which a part is kept for the best again
        "seeds_final": 3,  # at so many fresh seeds, by which alone it is judged
    },
]
