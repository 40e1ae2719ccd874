"""Layers found in graphs, against lists written by hand."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from methods.layers import layers_of
from tests.support.others import MOBILENET, RESNET18, VIT, other, written


def test_what_is_a_layer_and_what_is_not(tmp_path: Path) -> None:
    """Called twice it is one; functions, subclasses, other kinds and what is never called are
    none."""
    found = layers_of(other(written(tmp_path, "Odd"), side=8).model_args)
    assert found.called == (
        *("stem", "twice", "recurrent", "read_twice", "plain", "tokens", "features"),
        *("left", "right"),
    )
    assert found.norms == {"plain": "norm5", "features": "norm7"}
    assert set(found.heads) == {"left", "right"}
    assert found.products_beside == 4  # own, bare, up, line


def test_layers_of_torchvision() -> None:
    resnet = other(RESNET18, side=8)
    found = layers_of(resnet.model_args)
    assert found.heads == ("fc",) and found.products_beside == 0
    names = [n for n, m in resnet.named_modules() if isinstance(m, nn.Conv2d)]
    assert found.called == (*names, "fc")
    norms = {n: n.replace("conv", "bn").replace("sample.0", "sample.1") for n in names}
    assert found.norms == norms
    mobile = other(MOBILENET, side=8)
    found = layers_of(mobile.model_args)
    convs = [n for n, m in mobile.named_modules() if type(m) in (nn.Conv2d, nn.Linear)]
    assert set(found.called) == set(convs) and found.heads == ("classifier.3",)
    assert set(convs) - set(found.norms) == {
        n for n in convs if n.endswith(("fc1", "fc2")) or n.startswith("classifier")
    }


def test_attention_of_torch_is_beside_the_layers() -> None:
    found = layers_of(other(VIT).model_args)
    assert found.products_beside == 4 and found.heads == ("heads.head",)  # two a layer
    assert not any("attention" in name for name in found.called)
    assert len(found.called) == 6
