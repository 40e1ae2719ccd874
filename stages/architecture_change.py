"""What a stage did to the architecture: widths, MACs and parameters before and after."""

from __future__ import annotations

from typing import Any

from methods import costs
from model import blueprint
from stages.stage import Context
from stages.state import ModelState


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
    for key, (old, new) in widths.items():
        ctx.say(f"       {key:13} {old} → {new}")
    lost = sorted(layers, key=lambda name: layers_after[name] - layers[name])
    for name in lost[:5]:
        now = layers_after[name] / 1e6
        ctx.say(f"       {name:38} {layers[name] / 1e6:8.3f} → {now:8.3f} M MACs")
    ctx.say(
        f"       in all {macs / 1e6:.2f} → {macs_after / 1e6:.2f} M MACs "
        f"({macs_after / macs:.1%}), {params / 1e3:.1f} → {params_after / 1e3:.1f} k parameters"
    )


def _changed(before: ModelState, after: ModelState) -> dict[str, list[Any]]:
    old, new = before.model_args, after.model_args
    return {key: [old[key], new[key]] for key in old if old[key] != new[key]}
