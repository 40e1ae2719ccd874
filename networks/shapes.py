"""A network with narrower tensors than its constructor gives: how a pruned one is rebuilt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn


def reshape(network: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give the named parameters and buffers smaller shapes, in place, and their modules the widths.

    What stays of a tensor is its beginning. A depthwise convolution stays depthwise. Raises
    ValueError for shapes that do not fit the network.
    """
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, shape in shapes.items():
        before = tensors.get(name)
        if (
            before is None
            or before.ndim != len(shape)
            or any(not 1 <= new <= old for new, old in zip(shape, before.shape, strict=True))
        ):
            raise ValueError(f"shapes.{name}: {list(shape)} does not fit the network")
        owner, _, leaf = name.rpartition(".")
        module = network.get_submodule(owner)
        kept = before.detach()[tuple(slice(size) for size in shape)].clone()
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(kept, before.requires_grad)
        else:
            module._buffers[leaf] = kept
    for owner in dict.fromkeys(name.rpartition(".")[0] for name in shapes):
        _set_widths(network.get_submodule(owner))


def _set_widths(module: nn.Module) -> None:
    """What a module says of its own widths, as its tensors have them."""
    weight = getattr(module, "weight", None)
    match module:
        case nn.Conv2d():
            assert isinstance(weight, Tensor)
            depthwise = module.groups == module.in_channels == module.out_channels
            module.out_channels = weight.shape[0]
            module.groups = weight.shape[0] if depthwise else module.groups
            module.in_channels = weight.shape[1] * module.groups
        case nn.Linear():
            module.out_features, module.in_features = module.weight.shape
        case nn.BatchNorm2d() | nn.BatchNorm1d():
            module.num_features = len(_any(module))
        case nn.LayerNorm():
            module.normalized_shape = tuple(module.weight.shape)
        case nn.GroupNorm():
            module.num_channels = len(module.weight)
        case nn.PReLU():
            module.num_parameters = len(module.weight)


def _any(module: nn.Module) -> Tensor:
    return next(t for t in (*module.parameters(), *module.buffers()) if t.ndim)


def shapes_of(weights: Mapping[str, Tensor], whole: nn.Module) -> dict[str, list[int]]:
    """The shapes that differ from those of the network as its constructor gives it."""
    return {
        name: list(weights[name].shape)
        for name, value in whole.state_dict().items()
        if weights[name].shape != value.shape
    }
