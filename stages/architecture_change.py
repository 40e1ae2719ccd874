"""What a stage did to the architecture: widths, MACs and parameters before and after."""

from __future__ import annotations

from typing import Any

from torch import nn

from methods import costs
from model import HYBRID, architecture_of, blueprint
from stages.stage import Context
from stages.state import ModelState

SHOWN = 5  # layers, those that lost most


def report(before: ModelState, after: ModelState, ctx: Context) -> None:
    """Note widths, MACs and parameters before and after, by layer, and show where they went."""
    one, other = blueprint(before.model_args), blueprint(after.model_args)
    macs, layers = costs.count_macs(one)
    macs_after, layers_after = costs.count_macs(other)
    if layers.keys() != layers_after.keys():  # the layers have other names or numbers now
        layers, layers_after = {}, {}
    params, params_after = (sum(p.numel() for p in m.parameters()) for m in (one, other))
    widths = _changed(before, after)
    ctx.details.update(
        widths=widths,
        macs=[macs, macs_after],
        params=[params, params_after],
        layer_macs={name: [layers[name], layers_after[name]] for name in layers},
    )
    for key, (old, new) in _largest(widths):
        ctx.say(f"       {key:13} {old} → {new}")
    if architecture_of(before.model_args) != architecture_of(after.model_args):
        ctx.say(
            f"       a {architecture_of(before.model_args)} → a {architecture_of(after.model_args)}"
        )
    lost = sorted(layers, key=lambda name: layers_after[name] - layers[name])
    for name in lost[:SHOWN]:
        now = layers_after[name] / 1e6
        ctx.say(f"       {name:38} {layers[name] / 1e6:8.3f} → {now:8.3f} M MACs")
    ctx.say(
        f"       in all {macs / 1e6:.2f} → {macs_after / 1e6:.2f} M MACs "
        f"({macs_after / macs:.1%}), {params / 1e3:.1f} → {params_after / 1e3:.1f} k parameters"
    )


def _changed(before: ModelState, after: ModelState) -> dict[str, list[Any]]:
    """What differs: a hybrid's arguments, the widths of any other network's layers."""
    old, new = before.model_args, after.model_args
    if architecture_of(old) != architecture_of(new):
        return {}
    if architecture_of(old) == HYBRID:
        return {key: [old[key], new[key]] for key in old if old[key] != new[key]}
    mine, theirs = (_widths(blueprint(args)) for args in (old, new))
    return {
        name: [width, theirs[name]]
        for name, width in mine.items()
        if theirs.get(name, width) != width
    }


def _widths(network: nn.Module) -> dict[str, int]:
    layers = (nn.Conv2d, nn.Linear)
    return {n: len(m.weight) for n, m in network.named_modules() if isinstance(m, layers)}


def _largest(widths: dict[str, list[Any]]) -> list[tuple[str, list[Any]]]:
    """Those that are shown: a hybrid's few, and of layers the ones that lost most."""
    by_layer = all(isinstance(pair[0], int) for pair in widths.values())
    if not by_layer:
        return list(widths.items())
    return sorted(widths.items(), key=lambda item: item[1][1] - item[1][0])[:SHOWN]
