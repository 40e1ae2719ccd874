"""Where two networks can be compared inside, and how their features are watched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from networks.args import ModelArgs


class FeaturePair(NamedTuple):
    """Two modules whose outputs have the same positions, with their numbers of channels."""

    student: str
    teacher: str
    positions: int
    channels: tuple[int, int]  # student's, teacher's


def places(student_args: dict[str, Any], teacher_args: dict[str, Any]) -> list[FeaturePair]:
    """Where two networks can be compared: the last CNN block of each size of feature map that both
    have, and the last tokens where both have as many (the class token apart)."""
    mine, theirs = _maps(student_args), _maps(teacher_args)
    return [
        FeaturePair(mine[at][0], theirs[at][0], at[1] * at[2], (mine[at][1], theirs[at][1]))
        for at in mine
        if at in theirs
    ]


def _maps(model_args: dict[str, Any]) -> dict[tuple[str, int, int], tuple[str, int]]:
    """(kind, height, width) → module and channels, of the CNN's maps and the last tokens."""
    sizes = ModelArgs(**model_args).feature_sizes()
    channels, dim = model_args["cnn_channels"], model_args["embed_dim"]
    found = {("maps", *size): (f"cnn.blocks.{i}.pool", channels[i]) for i, size in enumerate(sizes)}
    if model_args["fusion"] == "serial":
        rows, columns = sizes[-1]
        found["tokens", rows, columns] = "transformer.norm", dim
    elif model_args["fusion"] == "parallel_attention":
        rows, columns = (side // model_args["patch_size"] for side in model_args["image_size"])
        found["tokens", rows, columns] = "transformer.norm", dim
    return found


class Watch:
    """The outputs of some of a network's modules at its last call, `[B, positions, channels]`."""

    def __init__(self, network: nn.Module, modules: Iterable[tuple[str, int]]):
        self.seen: dict[str, Tensor] = {}
        for name, positions in modules:
            found = [m for n, m in network.named_modules() if f".{n}".endswith(f".{name}")]
            if len(found) != 1:  # under a part's name where FX has split a network with exits
                raise ValueError(f"{name} stands {len(found)} times in the network")
            found[0].register_forward_hook(self._keeper(name, positions))

    def _keeper(self, name: str, positions: int) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            tokens = output.flatten(2).transpose(1, 2) if output.ndim == 4 else output
            self.seen[name] = tokens[:, -positions:]  # a class token comes first

        return keep
