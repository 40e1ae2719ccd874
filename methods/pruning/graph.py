"""The prunable dimensions of any network, found by its graph and shown to be right by its numbers.

A dimension counts only if a cut is shown to be right: in a random network every unit that goes is
a copy of one that stays, so that the network without it, where what listened to it listens to the
other one instead, has to give the same logits, through any norm and any nonlinearity.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from machine.files import canonical_json
from methods.pruning.axes import Units, units_of
from methods.pruning.cutting import SHAPES, Dimension, Member, Weights, cut
from methods.pruning.silence import silent_tensors_of
from model import Network, blueprint, build_network
from networks.foreign import line_of
from networks.shapes import reshape

TOLERANCE = 1e-4  # of the largest logit, within which two float32 networks are one


class Followed(NamedTuple):
    """What a graph says: units that stand and fall together, and layers that can be silent."""

    units: list[Units]
    silent: dict[str, list[str]]


class Found(NamedTuple):
    """What of a network can be cut, and what not, with the reason."""

    dimensions: list[Dimension]
    refused: list[tuple[Dimension, str]]


def found_by_graph(model_args: dict[str, Any]) -> Found:
    """What of such a network can be cut. Raises ValueError for a graph that cannot be followed."""
    refused = _shown(_key(model_args, SHAPES))  # of the whole network, whose code is the same
    dims = _dimensions(_key(model_args))
    return Found(
        [d for d in dims if d.name not in refused],
        [(d, refused[d.name]) for d in dims if d.name in refused],
    )


def silent_tensors(model_args: dict[str, Any]) -> dict[str, list[str]]:
    """Layer → the tensors that are zero where an output channel is silent, its weight first.

    Raises ValueError for a graph that cannot be followed.
    """
    return _followed(_key(model_args)).silent


def _key(model_args: dict[str, Any], *without: str) -> bytes:
    return canonical_json({k: v for k, v in model_args.items() if k not in without})


@functools.lru_cache(maxsize=256)
def _followed(about: bytes) -> Followed:
    args = json.loads(about)
    network = blueprint(args).eval()
    network.with_exits = bool(args["exits"])
    images = torch.empty(2, args["in_channels"], *args["image_size"], device="meta")
    try:
        with torch.no_grad():
            program = torch.export.export(network, (images,))
    except Exception as error:
        raise ValueError(
            f"{args['architecture']} cannot be followed by torch.export, and so not pruned "
            f"({line_of(error)})"
        ) from error
    names: dict[Any, list[str]] = {}
    for name, value in [
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ]:
        names.setdefault(id(value), []).append(name)
    shared = [name for several in names.values() if len(several) > 1 for name in several]
    return Followed(units_of(program, shared), silent_tensors_of(program))


@functools.lru_cache(maxsize=256)
def _dimensions(about: bytes) -> list[Dimension]:
    network = blueprint(json.loads(about))
    dims: list[Dimension] = []
    for units in _followed(about).units:
        dimension = _dimension(network, units)
        again = sum(d.name.partition("#")[0] == dimension.name for d in dims)
        if again:  # other channels of the same layer, with other listeners
            dimension = replace(dimension, name=f"{dimension.name}#{again + 1}")
        dims.append(dimension)
    return dims


def _dimension(network: nn.Module, units: Units) -> Dimension:
    maker = next(place.tensor for place, _ in units.members if place.role == "out")
    layer = network.get_submodule(maker.rpartition(".")[0])
    members = tuple(
        Member(place.tensor, place.axis, place.role, torch.from_numpy(index))
        for place, index in units.members
    )
    convolution = isinstance(layer, nn.modules.conv._ConvNd)
    target = "embed" if units.normed else "conv" if convolution else "ffn"
    size = len(units.members[0][1])
    return Dimension(maker.rpartition(".")[0], target, size, SHAPES, None, members)


# --- shown by numbers ---------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
@torch.no_grad()
def _shown(about: bytes) -> dict[str, str]:
    """Name → why a dimension is left alone, of those that the graph gives."""
    args, dims = json.loads(about), _dimensions(about)
    odd = [d for d in dims if d.target == "embed" and d.size % 2]
    refused = {d.name: "a norm runs over an odd number of units" for d in odd}
    with _random(0):
        network, images = _lively(args)
        rest = [d for d in dims if d.name not in refused]
        if unlike := _unlike(args, network, images, rest):
            refused |= unlike
            left = [d for d in rest if d.name not in unlike]
            if why := _difference(args, network, images, left):
                refused |= {d.name: why for d in left}
    return refused


def _unlike(
    args: dict[str, Any], network: Network, images: Tensor, dims: Sequence[Dimension]
) -> dict[str, str]:
    """Those of `dims` whose cut is not as it should be, found by halving."""
    why = _difference(args, network, images, dims)
    if why is None:
        return {}
    if len(dims) == 1:
        return {dims[0].name: why}
    half = len(dims) // 2
    return {
        **_unlike(args, network, images, dims[:half]),
        **_unlike(args, network, images, dims[half:]),
    }


def _difference(
    args: dict[str, Any], network: Network, images: Tensor, dims: Sequence[Dimension]
) -> str | None:
    """What is wrong with the network without every second unit of `dims`, copies of the others."""
    weights: Weights = dict(network.state_dict())
    for tensor in {member.tensor for dimension in dims for member in dimension.members}:
        weights[tensor] = weights[tensor].clone()
    pairs = []
    for dimension in dims:
        one, other = torch.randperm(dimension.size)[: dimension.size // 2 * 2].view(2, -1)
        pairs.append((dimension, one, other))
        for member in dimension.members:
            if member.role != "in":
                stay, go = member.index[one].flatten(), member.index[other].flatten()
                twins = weights[member.tensor].index_select(member.axis, stay)
                weights[member.tensor].index_copy_(member.axis, go, twins)
    try:
        expected = _with(network, args, weights)(images)
        for dimension, one, other in pairs:
            for member in dimension.members:
                if member.role == "in":
                    stay, go = member.index[one].flatten(), member.index[other].flatten()
                    heard = weights[member.tensor].index_select(member.axis, go)
                    weights[member.tensor].index_add_(member.axis, stay, heard)
        smaller = cut(args, weights, [(dimension, other) for dimension, _, other in pairs])
        logits = _with(network, *smaller)(images)
        if logits.shape != expected.shape:
            return f"the cut network gives logits {list(logits.shape)}"
    except Exception as error:
        return f"the cut network does not run ({line_of(error)})"
    off = float((logits - expected).abs().max() / expected.abs().max())
    return None if off <= TOLERANCE else f"the cut network's logits are off by {off:.1%}"


def _with(network: Network, args: dict[str, Any], weights: Weights) -> Network:
    """A copy with other weights, as `build_network` makes it, without initialising them."""
    tensors = [*network.parameters(), *network.buffers()]
    placed = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
    reshape(placed, args.get(SHAPES, {}))
    placed.load_state_dict(weights, assign=True)
    return placed


def _lively(args: dict[str, Any]) -> tuple[Network, Tensor]:
    """A random network and two images, in float64 where its code takes that.

    Fifty layers can make a float32 rounding as large as the logits.
    """
    network = build_network(args).eval()
    network.with_exits = bool(args["exits"])
    images = torch.randn(2, args["in_channels"], *args["image_size"])
    try:
        with torch.random.fork_rng(devices=[]):
            _enliven(network.double(), images.double())
        return network, images.double()
    except Exception:  # numbers of another type in its code
        _enliven(network.float(), images)
        return network, images


def _enliven(network: nn.Module, images: Tensor) -> None:
    """Random weights that keep what runs through them at one size, so that nothing hides.

    Norms divide by the root of the mean square, as a deviation near 0 would make rounding large.
    """
    for name, value in network.named_parameters():
        if value.ndim > 1:
            value.uniform_(-1, 1).mul_((6 * len(value) / value.numel()) ** 0.5)
        elif name.endswith("bias"):
            value.uniform_(-0.5, 0.5)
        else:
            value.uniform_(0.5, 1.5)

    def observe(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        over = [axis for axis in range(inputs[0].ndim) if axis != 1]
        if isinstance(norm.running_mean, Tensor) and isinstance(norm.running_var, Tensor):
            norm.running_mean.copy_(inputs[0].mean(over))
            norm.running_var.copy_(inputs[0].square().mean(over))

    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(observe) for norm in norms]
    network(images)
    for hook in hooks:
        hook.remove()


@contextmanager
def _random(seed: int) -> Iterator[None]:
    """Random numbers of `seed`; afterwards those of before go on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
