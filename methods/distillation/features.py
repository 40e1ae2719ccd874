"""Where two networks can be compared inside, and how their features are watched."""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from machine.files import canonical_json
from methods.costs import example_image
from model import HYBRID, architecture_of, blueprint
from networks.args import ModelArgs


class FeaturePair(NamedTuple):
    """Two modules whose outputs have the same positions, with their numbers of channels."""

    student: str
    teacher: str
    positions: int
    channels: tuple[int, int]  # student's, teacher's


def places(student_args: dict[str, Any], teacher_args: dict[str, Any]) -> list[FeaturePair]:
    """Where two networks can be compared: the last module of each size of feature map that both
    have, and the last tokens where both have as many (the class token apart)."""
    mine, theirs = _maps(student_args), _maps(teacher_args)
    return [
        FeaturePair(mine[at][0], theirs[at][0], math.prod(at[1:]), (mine[at][1], theirs[at][1]))
        for at in mine
        if at in theirs
    ]


Place = tuple[str, int, int]  # 'maps', height, width; 'tokens', how many, 1


def _maps(model_args: dict[str, Any]) -> dict[Place, tuple[str, int]]:
    """Where there are features → module and channels, of the maps and the last tokens."""
    if architecture_of(model_args) != HYBRID:
        return dict(_found(canonical_json(model_args)))
    sizes = ModelArgs(**model_args).feature_sizes()
    channels, dim = model_args["cnn_channels"], model_args["embed_dim"]
    found = {("maps", *size): (f"cnn.blocks.{i}.pool", channels[i]) for i, size in enumerate(sizes)}
    if model_args["fusion"] == "serial":
        rows, columns = sizes[-1]
        found["tokens", rows * columns, 1] = "transformer.norm", dim
    elif model_args["fusion"] == "parallel_attention":
        rows, columns = (side // model_args["patch_size"] for side in model_args["image_size"])
        found["tokens", rows * columns, 1] = "transformer.norm", dim
    return found


@functools.lru_cache(maxsize=64)
def _found(about: bytes) -> dict[Place, tuple[str, int]]:
    """What the modules of a network give for an image, the last of each shape, as in its forward.

    Modules that run more than once are left out, as nobody could say which of their outputs counts.
    """
    network, runs = blueprint(json.loads(about)), Counter[str]()
    seen: list[tuple[Place, tuple[str, int]]] = []

    def keeper(name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            runs[name] += 1
            if not isinstance(output, Tensor) or output.ndim not in (3, 4):
                return
            if output.ndim == 4:
                channels, height, width = output.shape[1:]
                place = "maps", height, width
            else:
                count, channels = output.shape[1:]
                with_class = math.isqrt(count) ** 2 != count  # a class token beside a square grid
                place = "tokens", count - with_class, 1
            seen.append((place, (name, channels)))

        return keep

    for name, module in network.named_modules():
        if name:
            module.register_forward_hook(keeper(name))
    with torch.no_grad():
        network.eval()(example_image(network))
    return {place: at for place, at in seen if runs[at[0]] == 1}


class Watch:
    """The outputs of some of a network's modules at its last call, `[B, positions, channels]`."""

    def __init__(self, network: nn.Module, modules: Iterable[tuple[str, int]]):
        self.seen: dict[str, Tensor] = {}
        for name, positions in modules:
            modules = dict(network.named_modules())
            found = [m for n, m in modules.items() if f".{n}".endswith(f".{name}")]
            found = [modules[name]] if name in modules else found
            if len(found) != 1:  # under a part's name where FX has split a network with exits
                raise ValueError(f"{name} stands {len(found)} times in the network")
            found[0].register_forward_hook(self._keeper(name, positions))

    def _keeper(self, name: str, positions: int) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            tokens = output.flatten(2).transpose(1, 2) if output.ndim == 4 else output
            self.seen[name] = tokens[:, -positions:]  # a class token comes first

        return keep
