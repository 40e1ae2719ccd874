"""Equal epochs: a peer's own program has our images, ours trains too, and runs are not repeated."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from stages import fitting
from tests.support.noise_folder import noise_folder

PEERS_MAIN = """
import sys, numpy, torch, torchvision.datasets as datasets
from utils.losses import share
from src import Model

def cls_train(loader, model):
    model.train()

def cls_validate(loader, model):
    return share(sum(int(label) == 3 for _, label in loader), len(loader))

def main():
    keep = lambda image: torch.from_numpy(numpy.array(image))
    splits = [
        datasets.__dict__["CIFAR10"](root=sys.argv[-1], train=train, download=train, transform=keep)
        for train in (True, False)
    ]
    torch.save([list(zip(*split)) for split in splits], sys.argv[-1] + "/seen.pth")
    torch.save([torch.rand(4), sys.argv[1:-1]], sys.argv[-1] + "/told.pth")
    model = Model(6, 2)
    for _ in range(int(sys.argv[sys.argv.index("--epochs") + 1])):
        cls_train(splits[0], model)
        cls_validate(splits[1], model)
"""


@pytest.fixture
def ten_classes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)  # decoded images are kept in data/
    return noise_folder(tmp_path)


@pytest.fixture
def equal_epochs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark, in a process that is as before when it has run."""
    monkeypatch.setattr("sys.path", sys.path[:])
    monkeypatch.setattr("sys.argv", sys.argv[:])
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", torchvision.datasets.CIFAR10)
    monkeypatch.setattr(fitting, "train_one_epoch", fitting.train_one_epoch)
    for name in ("utils", "utils.losses", "src"):
        monkeypatch.setitem(sys.modules, name, None)  # so that what the peer leaves is undone
        del sys.modules[name]
    return importlib.import_module("benchmarks.equal_epochs")


def test_a_peers_own_main_has_our_images(equal_epochs: Any, ten_classes: Path) -> None:
    files = {"examples/main.py": PEERS_MAIN, "examples/utils/__init__.py": ""}
    files["examples/utils/losses.py"] = "def share(some, all): return 100 * some / all"
    files["src/__init__.py"] = "from torch.nn import Linear as Model"
    for name, text in files.items():
        path = ten_classes / "peer" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = equal_epochs.peer(ten_classes / "peer", str(ten_classes), 40, 2, 5)
    assert found["accuracy"] == 10 and found["parameters"] == 14  # the test split's classes; a 6×2
    assert len(found["wall_seconds"]) == len(found["cpu_seconds"]) == 2
    seen = torch.load(ten_classes / "seen.pth")
    drawn, told = torch.load(ten_classes / "told.pth")
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(5)))
    assert told[:8] == [
        *("--dataset", "cifar10", "--model", "cct_2", "--conv-size", "3", "--conv-layers", "2")
    ]
    for side in ("hybrid", "muon"):
        _, dataset = equal_epochs.data_of(str(ten_classes), 40, side)
        mine = dataset.arrays.train_images[dataset.train_index], dataset.arrays.train_labels
        assert torch.equal(torch.stack(seen[0][0]), mine[0].permute(0, 2, 3, 1))
        assert list(seen[0][1]) == mine[1][dataset.train_index].tolist()
        assert len(seen[0][1]) == 40 and len(seen[1][1]) == 20


def test_our_side_of_equal_epochs_trains(equal_epochs: Any, ten_classes: Path) -> None:
    found = equal_epochs.ours("muon", str(ten_classes), 40, 2, 0)
    assert found["accuracy"] % 5 == 0 and found["parameters"] == 414_314  # of 20 test images
    assert len(found["wall_seconds"]) == len(found["cpu_seconds"]) == 2


def test_equal_epochs_runs_what_is_not_there_yet(
    equal_epochs: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = []

    def run_apart(job: dict[str, Any]) -> dict[str, Any]:
        asked.append((job["side"], job["seed"]))
        seconds = [1.0 + job["seed"], 5.0]
        about = {name: job[name] for name in equal_epochs.SAME}
        told = {"accuracy": 80.0 + job["seed"], "parameters": 7, "precision": "fp32"}
        return about | told | {"wall_seconds": seconds, "cpu_seconds": seconds}

    monkeypatch.setattr(equal_epochs, "run_apart", run_apart)
    command = ["--root", str(tmp_path), "--json", str(tmp_path / "runs.json"), "--sides", "muon"]
    equal_epochs.main([*command, "--seed", "0"])
    equal_epochs.main([*command, "--seed", "0", "2"])
    assert asked == [("muon", 0), ("muon", 2)]
    (found,) = json.loads(capsys.readouterr().out.splitlines()[-1]).values()
    assert found == {
        "accuracy": 81.0, "deviation": 1.41, "n": 2, "parameters": 7,
        "wall_seconds_an_epoch": 4.0, "cpu_seconds_an_epoch": 4.0,
    }  # fmt: skip
    equal_epochs.main([*command, "--seed", "0", "--epochs", "3"])
    assert asked[2:] == [("muon", 0)]
    with pytest.raises(SystemExit):
        equal_epochs.main([*command, "cct"])
    assert "side cct needs --peer" in capsys.readouterr().err
