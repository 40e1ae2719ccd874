"""The order study of configs/order_study_folder.py as a GPU can have it: 40,000 images, five seeds.

Run by run.sh beside it. It was not run yet: no GPU was at hand.
"""

import os

from configs import order_study_folder as folder

DEVICE = "cuda"
MODEL_SAVE_DIR = f"{os.environ['OUT']}/saved_models"
RESULTS_DIR = f"{os.environ['OUT']}/results"

DEFAULT_DATASET_CONFIG = {
    "name": "ImageFolder",
    "root": os.environ["CIFAR10_JPEG"],
    "validation_share": 0.2,
}
DEFAULT_MODEL_PARAMS = folder.DEFAULT_MODEL_PARAMS
DEFAULT_TRAINING_PARAMS = folder.DEFAULT_TRAINING_PARAMS
DEFAULT_DEPLOYMENT_PARAMS = folder.DEFAULT_DEPLOYMENT_PARAMS
EXPERIMENT_CONFIGS = folder.EXPERIMENT_CONFIGS
ORDER_STUDIES = [
    {
        **{key: value for key, value in folder.ORDER_STUDIES[0].items() if key != "budget_hours"},
        "seeds": [0, 1, 2, 3, 4],
    }
]
