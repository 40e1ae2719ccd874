"""What a network costs by count: multiply-accumulates, in all, by layer, by exit."""

from __future__ import annotations

import functools
import itertools
import json
import math
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from machine.files import canonical_json
from model import HYBRID, Network, architecture_of, blueprint
from networks.args import ModelArgs, richer
from networks.attention import attention_written_out


def count_macs(
    model: Network, inputs: tuple[torch.Tensor, ...] | None = None
) -> tuple[int, dict[str, int]]:
    """Multiply-accumulates for one image: in all, and by Conv2d or Linear layer.

    `inputs` are what a part of a network takes (None: one image).
    torch's FlopCounterMode, with attention written out as matmuls: some versions count the fused
    CPU kernel as nothing.
    """
    from torch.utils.flop_counter import FlopCounterMode  # brings triton, a sixth of a second

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operation, which no counter looks into
    try:
        with (
            attention_written_out(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
            torch.no_grad(),
        ):
            model(*(inputs or (example_image(model),)))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    by_module = counter.get_flop_counts()
    root = type(model).__name__
    layers = {
        name: sum(by_module.get(f"{root}.{name}", {}).values()) // 2
        for name in [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    }
    return counter.get_total_flops() // 2, layers


def part_macs(model: Network) -> list[tuple[int, dict[str, int]]]:
    """`count_macs` of each part between exits, exit heads included."""
    counts, inputs = [], (example_image(model),)
    for part in model.parts():
        counts.append(count_macs(part, inputs))
        with torch.no_grad():
            inputs = part(*inputs)[1:]
    return counts


def planned_macs(model_args: dict[str, Any]) -> list[int]:
    """Multiply-accumulates for an image that leaves at each exit, and at the network's end.

    What `part_macs` adds up to; of a hybrid by arithmetic, without a network, so that a config is
    checked and widths are searched in 0.1 ms, where counting takes 40 and at first a second.
    """
    if architecture_of(model_args) != HYBRID:
        return list(_counted_macs(canonical_json(model_args)))
    checked = ModelArgs(**model_args)
    args = checked.resolved()
    channels, classes, fusion = args["cnn_channels"], args["num_classes"], args["fusion"]
    sides, macs = [tuple(args["image_size"]), *checked.feature_sizes()], 0
    gates = richer(args, "cnn_squeeze_excite")
    for i, (before, after) in enumerate(itertools.pairwise([args["in_channels"], *channels])):
        kernel, stride = args["cnn_kernels"][i] ** 2, args["cnn_strides"][i]
        positions = math.prod(math.ceil(side / stride) for side in sides[i])  # before pooling
        each = before * (kernel + after) if args["cnn_separable"] else before * kernel * after
        macs += positions * each + 2 * after * gates[i]
    spent, features = {"cnn": macs}, channels[-1]
    if fusion == "parallel":
        widths = [channels[-1] * args["mlp_grid"] ** 2, *args["mlp_dims"]]
        macs += sum(before * after for before, after in itertools.pairwise(widths))
        features += widths[-1]
    else:
        dim, patch = args["embed_dim"], args["patch_size"]
        serial = fusion == "serial"
        features = dim if serial else channels[-1] + dim
        tokens = math.prod(sides[-1] if serial else (side // patch for side in sides[0]))
        macs += tokens * dim * (channels[-1] if serial else args["in_channels"] * patch**2)
        tokens += args["pooling"] == "class_token"
        for i in range(args["num_layers"]):
            inner = args["num_heads"][i] * args["head_dim"][i]
            macs += tokens * dim * (4 * inner + 2 * args["ffn_dim"][i]) + 2 * tokens**2 * inner
            spent[f"layer_{i}"] = macs
        if args["pooling"] == "sequence":
            macs += tokens * dim  # the tokens' scores
    heads = [classes * (channels[-1] if p == "cnn" else features) for p in args["exits"]]
    heads = list(itertools.accumulate(heads, initial=0))[1:]
    at_exits = [spent[place] + head for place, head in zip(args["exits"], heads, strict=True)]
    return [*at_exits, macs + sum(heads[-1:]) + classes * features]


@functools.lru_cache(maxsize=4096)
def _counted_macs(about: bytes) -> tuple[int, ...]:
    counts = part_macs(blueprint(json.loads(about)))
    return tuple(itertools.accumulate(macs for macs, _ in counts))


def planned_attention(model_args: dict[str, Any]) -> int:
    """Of `planned_macs`, those between queries, keys and values, which no layer has."""
    if architecture_of(model_args) != HYBRID:
        macs, layers = count_macs(blueprint(model_args))
        return macs - sum(layers.values())
    checked = ModelArgs(**model_args)
    args = checked.resolved()
    if args["fusion"] == "parallel":
        return 0
    if args["fusion"] == "serial":
        tokens = math.prod(checked.feature_sizes()[-1])
    else:
        tokens = math.prod(side // args["patch_size"] for side in args["image_size"])
    tokens += args["pooling"] == "class_token"
    inner = sum(h * d for h, d in zip(args["num_heads"], args["head_dim"], strict=True))
    return 2 * tokens**2 * inner


def example_image(model: Network) -> torch.Tensor:
    """One black image `[1, C, H, W]` of the shape that the network takes, where the network is."""
    shape = (1, model.model_args["in_channels"], *model.model_args["image_size"])
    return torch.zeros(shape, device=next(model.parameters()).device)
