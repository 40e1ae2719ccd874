"""The quickstart's baseline and its three stages in two orders, at three seeds."""

import os

from configs import quickstart

DEFAULT_DATASET_CONFIG = quickstart.DEFAULT_DATASET_CONFIG
DEFAULT_MODEL_PARAMS = quickstart.DEFAULT_MODEL_PARAMS
DEFAULT_TRAINING_PARAMS = quickstart.DEFAULT_TRAINING_PARAMS
DEFAULT_COMPRESSION_PARAMS = quickstart.DEFAULT_COMPRESSION_PARAMS

MODEL_SAVE_DIR = f"{os.environ['OUT']}/saved_models"
RESULTS_DIR = f"{os.environ['OUT']}/results"

EXPERIMENT_CONFIGS = [
    {**experiment, "seeds": [0, 1, 2]}
    for experiment in quickstart.EXPERIMENT_CONFIGS
    if experiment["name"] in ("Digits_Baseline_FP32", "Digits_P_F_QAT", "Digits_QAT_P_F")
]
