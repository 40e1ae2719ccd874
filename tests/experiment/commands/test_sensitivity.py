"""`sensitivity` writes its scan and a picture, for pruning and for int8."""

from __future__ import annotations

import json

import main
from methods.quantization.record import quantizable_layers
from model import HybridCNNTransformer
from tests.support.suites import CHAINS, Suites, cached


def test_the_command_writes_a_scan_and_a_picture(suites: Suites) -> None:
    path = str(suites.write('EXPERIMENT_CONFIGS.append(chain("Q", "ptq"))'))
    assert main.main(["sensitivity", "Q", "--config", path, "--quantization", "x86"]) == 0
    written = json.loads((suites.results / "Q_quantization_sensitivity.json").read_text())
    model = HybridCNNTransformer(image_size=8, in_channels=1, cnn_channels=[8, 16],
                                 cnn_pools=[1, 2], embed_dim=16, num_layers=1, num_heads=2,
                                 ffn_dim=24)  # fmt: skip
    layers = {entry["layer"] for entry in written["scan"]}
    assert layers == set(quantizable_layers(model))
    picture = suites.results / "Q_quantization_sensitivity.png"
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert main.main(["sensitivity", "Q", "--config", path, "--quantization", "x68"]) == 2
    assert "--quantization x68: is not a backend; allowed" in suites.capsys.readouterr().err


def test_sensitivity_writes_curves_and_a_picture(suites: Suites) -> None:
    path = str(suites.write(CHAINS))
    arguments = ["PFQ", "--config", path, "--ratios", "0", "0.5"]
    assert main.main(["sensitivity", *arguments]) == 0
    written = json.loads((suites.results / "PFQ_sensitivity.json").read_text())
    assert written["scanned"] == "Base"
    curve = written["curves"]["cnn.blocks.0"]
    assert [point["ratio"] for point in curve] == [0.0, 0.5]
    assert (suites.results / "PFQ_sensitivity.png").read_bytes()[:4] == b"\x89PNG"
    assert suites.run(CHAINS, "--only", "Base") == 0  # the same baseline, from the store
    assert cached(suites, "Base") == [True]
    assert main.main(["sensitivity", "PQ", "--config", path]) == 2
    assert "did you mean 'PFQ'?" in suites.capsys.readouterr().err
    assert main.main(["sensitivity", *arguments, "--criterion", "bn_scale"]) == 2
