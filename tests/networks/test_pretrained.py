"""Weights to start from: whose they are, and which tensors of a classifier are new."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model import Network, build_network, resolved_args
from networks.foreign import NetworkError
from networks.pretrained import load, start_of

SMALL = {"architecture": "torchvision:squeezenet1_1", "image_size": 32}
HYBRID = {"cnn_channels": [4], "cnn_pools": [2], "embed_dim": 8, "num_heads": 2, "num_layers": 1}


def _network(**more: object) -> Network:
    return build_network(resolved_args({**HYBRID, **more}))


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_a_file_gives_its_weights_under_the_usual_keys(tmp_path: Path, wrap: str | None) -> None:
    theirs, mine = _network(), _network()
    tensors = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({wrap: tensors} if wrap else tensors, tmp_path / "a.pth")
    assert load(mine, start_of(str(tmp_path / "a.pth"), mine.model_args)) == []
    for name, value in theirs.state_dict().items():
        assert torch.equal(mine.state_dict()[name], value)


def test_a_classifier_of_other_classes_stays_new(tmp_path: Path) -> None:
    theirs, mine = _network(num_classes=7), _network(num_classes=5)
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    before = mine.state_dict()["head.weight"].clone()
    start = start_of(str(tmp_path / "a.pth"), mine.model_args)
    assert load(mine, start) == ["head.bias", "head.weight"]
    assert torch.equal(mine.state_dict()["head.weight"], before)
    assert torch.equal(mine.state_dict()["embed.weight"], theirs.state_dict()["embed.weight"])


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    mine, path = _network(), tmp_path / "a.pth"
    for other, said in [
        (_network(embed_dim=16).state_dict(), r"has embed.weight as \[16, 4\], the network as"),
        (_network(num_layers=2).state_dict(), "has transformer.layers.1"),
        ({}, "lacks cnn.blocks.0.conv.weight"),
        ({"epoch": 3}, "holds no state_dict"),
        ({"net": _network()}, "no file of tensors that torch.load reads with weights_only"),
    ]:
        torch.save(other, path)
        with pytest.raises(NetworkError, match=said):
            load(mine, start_of(str(path), mine.model_args))
    start = start_of(str(path), mine.model_args)
    path.write_bytes(b"something else")
    with pytest.raises(NetworkError, match="has changed since"):
        load(mine, start)


def test_torchvisions_weights_are_named_and_nothing_is_downloaded_for_the_check() -> None:
    args = resolved_args(SMALL)
    start = start_of("IMAGENET1K_V1", args)
    assert start.digest.startswith("https://download.pytorch.org/models/squeezenet1_1")
    with pytest.raises(NetworkError, match="squeezenet1_1 has IMAGENET1K_V1"):
        start_of("IMAGENET", args)
    with pytest.raises(NetworkError, match="should be a file"):
        start_of("IMAGENET1K_V1", resolved_args(HYBRID))
    with pytest.raises(NetworkError, match="there is no file"):
        start_of("none.pth", args)


def test_offline_a_download_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    network = build_network(resolved_args(SMALL))
    start = start_of("IMAGENET1K_V1", network.model_args)
    with pytest.raises(NetworkError, match=r"could not be downloaded \(OSError\); go online"):
        load(network, start)
