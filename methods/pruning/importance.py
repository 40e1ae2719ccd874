"""How much each unit of a dimension matters: the criteria, and what they need to be told.

A criterion gives one score a unit, higher is dearer. Weight criteria are pure functions of tensors;
'taylor', 'hessian' and 'activation' look at calibration images.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.pruning.cutting import Dimension, Member, Weights
from model import Network

Batches = Iterable[tuple[Tensor, Tensor]]
CRITERIA = (
    "l1", "l2", "fpgm", "bn_scale", "lamp", "taylor", "hessian", "activation", "random",
)  # fmt: skip


def importance(
    model: Network,
    dims: Sequence[Dimension],
    criterion: str,
    calibration: Callable[[], Batches],
    seed: int = 0,
) -> list[Tensor]:
    """A score a unit for each dimension: float `[units]`. `calibration()` gives fresh batches.

    Raises ValueError where a criterion does not apply to a dimension.
    """
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        return [torch.rand(d.size, generator=generator) for d in dims]
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    parts = [_parts(d, weights) for d in dims]
    flat = [part for of_dimension in parts for part in of_dimension]
    if criterion == "activation":
        scores = _activations(model, flat, calibration())
    elif criterion == "taylor":
        scores = _taylor(model, flat, weights, calibration())
    elif criterion == "hessian":
        scores = _hessian(model, flat, weights, calibration())
    else:
        score = {"l1": l1, "l2": l2, "lamp": l2, "fpgm": fpgm, "bn_scale": bn_scale}[criterion]
        scores = [score(part, weights) for part in flat]
    scores = [_dead_last(s, part, weights) for s, part in zip(scores, flat, strict=True)]
    joined, position = [], 0
    for of_dimension in parts:
        joined.append(torch.cat(scores[position : position + len(of_dimension)]))
        position += len(of_dimension)
    return [lamp(norms) for norms in joined] if criterion == "lamp" else joined


def calibration_batches(loader: Batches, count: int) -> Callable[[], Batches]:
    """Gives the first `count` batches of `loader` afresh at each call, on the CPU."""
    return lambda: ((x.cpu(), y.cpu()) for x, y in itertools.islice(loader, count))


def _dead_last(scores: Tensor, dimension: Dimension, weights: Weights) -> Tensor:
    """Scores with 0 for units that a mask has silenced, whatever still listens to them."""
    makers = [m for m in _matrices(dimension, weights) if m.role == "out"]
    alive = sum(by_unit(weights[m.tensor].abs(), m) for m in makers)
    return torch.where(torch.as_tensor(alive) > 0, scores, torch.zeros_like(scores))


def l1(dimension: Dimension, weights: Weights) -> Tensor:
    """Mean over the tensors of Σ|w| (arXiv:1608.08710, over coupled tensors arXiv:2301.12900)."""
    sums = [by_unit(weights[m.tensor].abs(), m) for m in _matrices(dimension, weights)]
    return torch.stack(sums).mean(0)


def l2(dimension: Dimension, weights: Weights) -> Tensor:
    """Mean over the tensors of the euclidean norm."""
    squares = [by_unit(weights[m.tensor].square(), m) for m in _matrices(dimension, weights)]
    return torch.stack(squares).sqrt().mean(0)


def lamp(norms: Tensor) -> Tensor:
    """Each unit's square norm over that of all units not smaller, `[units]` (arXiv:2010.07611)."""
    ascending = norms.square().sort(stable=True)
    remaining = ascending.values.flip(0).cumsum(0).flip(0)  # of this unit and all larger ones
    scores = torch.empty_like(norms)
    scores[ascending.indices] = ascending.values / remaining.clamp_min(1e-30)
    return scores


def fpgm(dimension: Dimension, weights: Weights) -> Tensor:
    """Sum of distances to the other units' filters: what is like many can go (arXiv:1811.00250)."""
    total = torch.zeros(dimension.size)
    for member in _matrices(dimension, weights):
        if member.role == "out":
            rows = weights[member.tensor].movedim(member.axis, 0).flatten(1)
            units = rows[member.index].flatten(1)  # [units, k * fan_in]
            total += torch.cdist(units, units).sum(1)
    return total


def bn_scale(dimension: Dimension, weights: Weights) -> Tensor:
    """|γ| of the norms on the dimension (arXiv:1708.06519). Raises ValueError if it has none."""
    scales = [by_unit(weights[m.tensor].abs(), m) for m in norm_scales(dimension, weights)]
    if not scales:
        raise ValueError(f"criterion 'bn_scale': {dimension.name} has no norm; choose another")
    return torch.stack(scales).mean(0)


def norm_scales(dimension: Dimension, weights: Weights) -> list[Member]:
    """Where the scales of the norms on the dimension are."""
    return [
        m
        for m in dimension.members
        if m.role == "norm" and m.tensor.endswith(".weight") and weights[m.tensor].ndim == 1
    ]


def by_unit(values: Tensor, member: Member) -> Tensor:
    """Sum `values`, of the member's tensor's shape, over what belongs to each unit: `[units]`."""
    along = values.movedim(member.axis, 0).reshape(values.shape[member.axis], -1).sum(1)
    return along[member.index].sum(1)


def _matrices(dimension: Dimension, weights: Weights) -> list[Member]:
    return [m for m in dimension.members if m.role != "norm" and weights[m.tensor].ndim > 1]


def _parts(dimension: Dimension, weights: Weights) -> list[Dimension]:
    """The dimension itself; of 'depth', each layer as a dimension with one unit."""
    if dimension.target != "depth":
        return [dimension]
    return [_layer_as_unit(dimension, i, weights) for i in range(dimension.size)]


def _layer_as_unit(depth: Dimension, number: int, weights: Weights) -> Dimension:
    layer = f"{depth.name}.{number}"
    members = []
    for name, role in (("attention.qkv", "out"), ("fc1", "out")):
        members.append(_whole(f"{layer}.{name}.weight", 0, role, weights))
    for name in ("attention.proj", "fc2"):  # what they add to the stream is the layer's effect
        members.append(_whole(f"{layer}.{name}.weight", 1, "in", weights))
    return Dimension(layer, "depth", 1, depth.key, number, tuple(members))


def _whole(tensor: str, axis: int, role: str, weights: Weights) -> Member:
    return Member(tensor, axis, role, torch.arange(weights[tensor].shape[axis])[None])


# --- with calibration images --------------------------------------------------------------------


def _gradients(model: Network, batches: Batches) -> Iterable[dict[str, Tensor]]:
    """Gradients of the mean cross-entropy, batch by batch, of the network as it is deployed.

    With early exits it is the mean over all of them.
    """
    model.eval()
    for images, labels in batches:
        model.zero_grad(set_to_none=True)
        every = model.every_logits(images)
        torch.stack([F.cross_entropy(logits, labels) for logits in every]).mean().backward()
        yield {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)


def _taylor(
    model: Network, dims: Sequence[Dimension], weights: Weights, batches: Batches
) -> list[Tensor]:
    """|Σ w·∂L/∂w| of what a unit feeds: the loss's first-order change without it.

    arXiv:1906.10771. Taken at the consumers, where it equals |Σ a·∂L/∂a| over activations.
    """
    scores = [torch.zeros(d.size) for d in dims]
    for gradients in _gradients(model, batches):
        for score, dimension in zip(scores, dims, strict=True):
            change = torch.zeros(dimension.size)
            for m in _consumers(dimension):
                change += by_unit(weights[m.tensor] * gradients[m.tensor], m)
            score += change.abs()
    return scores


def _hessian(
    model: Network, dims: Sequence[Dimension], weights: Weights, batches: Batches
) -> list[Tensor]:
    """½ Σ w²·h, the second-order change, the Fisher diagonal for h (arXiv:1801.05787)."""
    scores = [torch.zeros(d.size) for d in dims]
    for gradients in _gradients(model, batches):
        for score, dimension in zip(scores, dims, strict=True):
            for m in _consumers(dimension):
                score += 0.5 * by_unit((weights[m.tensor] * gradients[m.tensor]).square(), m)
    return scores


@torch.no_grad()
def _activations(model: Network, dims: Sequence[Dimension], batches: Batches) -> list[Tensor]:
    """Mean |activation| of each unit, where it is first consumed (arXiv:1607.03250)."""
    scores = [torch.zeros(d.size) for d in dims]
    handles, seen = [], [False] * len(dims)
    for number, dimension in enumerate(dims):
        layer, member = _listener(model, dimension)

        def add(
            layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor,
            number: int = number, member: Member = member,
        ) -> None:  # fmt: skip
            axis = 1 if isinstance(layer, nn.modules.conv._ConvNd) else -1
            mean = inputs[0].abs().movedim(axis, 0).flatten(1).mean(1)  # [positions]
            scores[number] += mean[member.index].mean(1)
            seen[number] = True

        handles.append(layer.register_forward_hook(add))
    for images, _ in batches:
        model.eval()(images)
    for handle in handles:
        handle.remove()
    for dimension, was_seen in zip(dims, seen, strict=True):
        if not was_seen:
            raise ValueError(_unseen(dimension))
    return scores


def _listener(model: Network, dimension: Dimension) -> tuple[nn.Module, Member]:
    """The first layer that takes the units, and where."""
    for member in _consumers(dimension):
        layer = model.get_submodule(member.tensor.rpartition(".")[0])
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            return layer, member
    raise ValueError(_unseen(dimension))


def _unseen(dimension: Dimension) -> str:
    return (
        f"criterion 'activation': what {dimension.name} feeds is used without being called; "
        "choose another"
    )


def _consumers(dimension: Dimension) -> list[Member]:
    return [m for m in dimension.members if m.role == "in"]
