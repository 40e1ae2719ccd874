"""The quickstart with folders of its own and fewer epochs."""

from __future__ import annotations

from pathlib import Path

from tests.support.home import HOME


def quickstart(folder: Path) -> Path:
    """The quickstart with folders of its own and fewer epochs."""
    text = (HOME / "configs" / "quickstart.py").read_text()
    text += f"""
DEVICE = "cpu"
DATA_DIR, MODEL_SAVE_DIR, RESULTS_DIR = "{folder}/data", "{folder}/models", "{folder}/results"
DEFAULT_TRAINING_PARAMS["initial_train_epochs"] = 3
DEFAULT_COMPRESSION_PARAMS["finetune_epochs"] = 1
DEFAULT_COMPRESSION_PARAMS["qat_epochs"] = 1
"""
    folder.mkdir()
    path = folder / "suite.py"
    path.write_text(text)
    return path
