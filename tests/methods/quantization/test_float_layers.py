"""Every layer kept float, with every backend: it stays float, all others are int8, training works.

What is deployed is what was simulated. A value between two levels may go to the other one, so that
logits move, but by less than int8 moves them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.ao.quantization import disable_observer, enable_fake_quant

from machine.processor import has_vnni
from methods.quantization import backends, fake_quant
from methods.quantization.backends import BACKENDS
from methods.quantization.record import Quant, float_layer_names, quantizable_layers
from stages.deployment import calibrated
from stages.pruning import PruneSpec, prune
from stages.qat import QatSpec, qat
from stages.stage import Context
from stages.state import build, state_of
from tests.support.chains import FAST
from tests.support.int8 import int8_layers, off, to_int8
from tests.support.tiny import FUSIONS, tiny

NETWORKS: dict[str, dict[str, Any]] = {
    "serial": {"num_layers": 1, "ffn_activation": "relu"},
    "parallel": {"fusion": "parallel"},
    "patches": {"fusion": "parallel_attention", "num_layers": 1, "cnn_separable": True},
    "exits": {"num_layers": 2, "exits": ["cnn", "layer_0"]},
}


def cases() -> list[Any]:
    """Every layer of every fusion; elsewhere one that something is fused to, and a head."""
    found: list[Any] = []
    for network, args in NETWORKS.items():
        names = quantizable_layers(tiny(**args))
        fused = tiny(**args)._fuse_modules_for_quantization()[-1][0]
        few = [fused, next(name for name in names if name.endswith("head"))]
        every = names if network != "exits" else few
        found += [(network, "x86", layer) for layer in every]
        found += [(network, "pt2e", layer) for layer in (few if network == "serial" else few[:1])]
    others = [backend for backend in BACKENDS if backend not in ("x86", "pt2e")]
    return found + [("serial", b, layer) for b in others for layer in ("cnn.blocks.0.conv", "head")]


@pytest.mark.parametrize(("network", "backend", "layer"), cases())
def test_one_layer_stays_float(network: str, backend: str, layer: str) -> None:
    if backends.unavailable(backend) is not None:
        pytest.skip(f"{backend} is not in this build of torch")
    model, images = tiny(**NETWORKS[network]), torch.randn(32, 1, 8, 8)
    for scheme in ("ptq", "qat"):
        quant = Quant(scheme, backend, float_layers=(layer,), reduce_range=True)
        prepared = backends.prepare(model, quant)
        if scheme == "qat":  # whose masters training hands back
            names, found = backends.master_names(prepared, model, quant), prepared.state_dict()
            assert len(set(names.values())) == len(names)
            for name, value in model.state_dict().items():
                assert torch.equal(found[names[name]], value), name
        backends.observe(prepared, backend, [(images, images)], 1)
        quant = backends.with_trained_ranges(quant, prepared)
        deployed = to_int8(model, quant)
        assert int8_layers(deployed) == set(quantizable_layers(model)) - {layer}
        if backend == "onednn" and not has_vnni():
            continue  # its products saturate, of which a run warns
        with torch.inference_mode():
            expected, logits = prepared(images), deployed(images)
            moved = off(logits, expected)  # while it observes, nothing is rounded
            assert 0 < moved < 0.05
            if backend == "pt2e":
                fake_quant.set_quantizing(prepared, True)
                assert off(prepared(images), logits) < min(0.006, moved)
            elif scheme == "qat":
                prepared.apply(enable_fake_quant).apply(disable_observer)
                assert off(prepared.eval()(images), logits) < 0.75 * moved


@pytest.mark.parametrize("backend", ["x86", "pt2e"])
@pytest.mark.parametrize("pattern", ["cnn.*", "*.fc?", "transformer.layers.[01].*", "*[!d]"])
def test_patterns_keep_layers_float(pattern: str, backend: str) -> None:
    model, images = tiny(), torch.randn(32, 1, 8, 8)
    quant = Quant("ptq", backend, float_layers=(pattern,), reduce_range=True)
    quant = backends.with_calibrated_ranges(model, quant, [(images, images)])
    kept = float_layer_names(model, [pattern])
    assert kept
    deployed = to_int8(model, quant)
    assert int8_layers(deployed) == set(quantizable_layers(model)) - set(kept)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_pruned_networks_train_with_float_layers(fusion: str, ctx: Context) -> None:
    """All that is fused stays float; its masters move, and what was pruned stays zero."""
    state = prune(state_of(tiny(fusion=fusion, ffn_activation="relu")), PruneSpec(ratio=0.4), ctx)
    fused = [group[0] for group in build(state)._fuse_modules_for_quantization()]
    end = qat(state, QatSpec(backend="x86", float_layers=fused, **FAST), ctx)
    deployed = calibrated(end, ctx)
    assert not int8_layers(deployed.network) & set(fused)
    for layer in fused:
        before, after = state.weights[f"{layer}.weight"], end.weights[f"{layer}.weight"]
        assert not torch.equal(before, after)
        assert torch.equal(before.flatten(1).any(1), after.flatten(1).any(1))
