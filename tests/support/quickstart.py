"""The quickstart in small, with folders of its own."""

from __future__ import annotations

from pathlib import Path

from tests.support.home import HOME


def quickstart(folder: Path) -> Path:
    """The baseline and three chains with every kind of stage, of a smaller network."""
    text = (HOME / "configs" / "quickstart.py").read_text()
    text += f"""
DEVICE = "cpu"
DATA_DIR, MODEL_SAVE_DIR, RESULTS_DIR = "{folder}/data", "{folder}/models", "{folder}/results"
DEFAULT_DEPLOYMENT_PARAMS = {{"engines": ["onnxruntime"]}}  # whichever is fastest, sums differ
DEFAULT_MODEL_PARAMS.update(cnn_channels=[8, 16], embed_dim=16, ffn_dim=24)
DEFAULT_MODEL_PARAMS.update(num_layers=1, num_heads=2)
DEFAULT_TRAINING_PARAMS["initial_train_epochs"] = 4
DEFAULT_COMPRESSION_PARAMS["finetune_epochs"] = 2
DEFAULT_COMPRESSION_PARAMS["qat_epochs"] = 2
CHAINS = ("Digits_Baseline_FP32", "Digits_P_F_QAT", "Digits_QAT_P_F", "Digits_S_F_Q")
EXPERIMENT_CONFIGS = [config for config in EXPERIMENT_CONFIGS if config["name"] in CHAINS]
QAT = EXPERIMENT_CONFIGS[CHAINS.index("Digits_P_F_QAT")]["compression_args"]["sequence"]
QAT[-1] = {{"qat": {{"float_layers": ["cnn.blocks.0.conv"]}}}}  # which norm and ReLU are fused to
"""
    folder.mkdir()
    path = folder / "suite.py"
    path.write_text(text)
    return path
