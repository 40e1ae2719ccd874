"""Multiply-accumulates of a network, counted from its arguments alone."""

from __future__ import annotations

import itertools


def macs_by_hand(args: dict) -> int:
    """Multiply-accumulates of a network with 3×3 convolutions, from its arguments alone."""
    size, before, macs = args["image_size"], args["in_channels"], 0
    for channels, pool in zip(args["cnn_channels"], args["cnn_pools"], strict=True):
        macs += size * size * channels * before * 9
        size, before = size // pool, channels
    dim, classes = args["embed_dim"], args["num_classes"]
    tokens = size * size
    if args["fusion"] == "serial":
        macs += tokens * before * dim
        features = dim
    elif args["fusion"] == "parallel":
        widths = [before * 4, *args["mlp_dims"]]
        macs += sum(a * b for a, b in itertools.pairwise(widths))
        features, tokens = before + widths[-1], 0
    else:
        patch = args["patch_size"]
        tokens = (args["image_size"] // patch) ** 2
        macs += tokens * dim * args["in_channels"] * patch * patch
        features = before + dim
    if tokens:
        for _ in range(args["num_layers"]):
            macs += tokens * dim * 3 * dim  # qkv
            macs += 2 * tokens * tokens * dim  # q·kᵀ and ·v, over all heads
            macs += tokens * dim * dim  # proj
            macs += 2 * tokens * dim * args["ffn_dim"]
    return macs + features * classes
