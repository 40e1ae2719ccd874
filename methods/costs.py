"""What a network costs by count: multiply-accumulates, in all, by layer, by exit."""

from __future__ import annotations

import torch
from torch import nn

from model import HybridCNNTransformer
from networks.attention import attention_written_out


def count_macs(
    model: HybridCNNTransformer, inputs: tuple[torch.Tensor, ...] | None = None
) -> tuple[int, dict[str, int]]:
    """Multiply-accumulates for one image: in all, and by Conv2d or Linear layer.

    `inputs` are what a part of a network takes (None: one image).
    torch's FlopCounterMode, with attention written out as matmuls: some versions count the fused
    CPU kernel as nothing.
    """
    from torch.utils.flop_counter import FlopCounterMode  # brings triton, a sixth of a second

    with attention_written_out(), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*(inputs or (example_image(model),)))
    by_module = counter.get_flop_counts()
    root = type(model).__name__
    layers = {
        name: sum(by_module.get(f"{root}.{name}", {}).values()) // 2
        for name in [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    }
    return counter.get_total_flops() // 2, layers


def part_macs(model: HybridCNNTransformer) -> list[tuple[int, dict[str, int]]]:
    """`count_macs` of each part between exits, exit heads included."""
    counts, inputs = [], (example_image(model),)
    for part in model.parts():
        counts.append(count_macs(part, inputs))
        with torch.no_grad():
            inputs = part(*inputs)[1:]
    return counts


def example_image(model: HybridCNNTransformer) -> torch.Tensor:
    """One black image `[1, C, H, W]` of the shape that the network takes, where the network is."""
    shape = (1, model.model_args["in_channels"], *model.model_args["image_size"])
    return torch.zeros(shape, device=next(model.parameters()).device)
