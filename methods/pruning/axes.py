"""Which positions of which tensors stand and fall together, in any network: followed by its graph.

Every position along every axis of a weight has a label. The labels travel with the activations
through the operations that torch.export writes down; an addition ties those of its two sides, a
concatenation puts them one behind the other, and what ties two positions makes one unit of them.
Whatever an operation does not say stays whole: its labels are pinned, so that a unit is found late
rather than wrongly.

torch-pruning (1.6.1) finds such groups too, by the graph of gradients. It is not used here: beside
bare parameters (a position's embedding) it takes every concatenation for one along the tokens, so
that a CNN's channels and a Transformer's become one group, and in ShuffleNetV2 it divides by zero.
The tests compare with its cuts where it can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram

from methods.pruning.nodes import argument, blocks, named, shape_of, tensors_of

Labels = np.ndarray  # int64, one a position of an axis; STAYS where it cannot go
Axes = list["Labels | None"]  # of a value, axis by axis; None: an axis that stays whole
STAYS = 0
# Element by element, though their operators do not say so.
POINTWISE = {
    "alias", "alpha_dropout", "celu", "clone", "contiguous", "detach", "dropout", "elu",
    "feature_alpha_dropout", "feature_dropout", "float", "gelu", "hardswish", "hardtanh",
    "leaky_relu", "lift_fresh_copy", "mish", "relu6", "selu", "silu", "softplus", "to",
    "_to_copy", "type_as",
}  # fmt: skip
RESHAPING = {"flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "_unsafe_view", "view"}
REDUCING = {"amax", "amin", "logsumexp", "max", "mean", "min", "norm", "std", "sum", "var"}
ALONG = {"cumsum", "flip", "log_softmax", "roll", "softmax"}  # an axis that keeps its size


class Place(NamedTuple):
    """An axis of a tensor, and its role: see `Member` in cutting.py."""

    tensor: str
    axis: int
    role: str


class Units(NamedTuple):
    """A row of units that lie alike: in these places, at these positions `[units, k]` each."""

    members: list[tuple[Place, np.ndarray]]
    normed: bool  # whether a norm over the units mixes them


def units_of(program: ExportedProgram, shared: Iterable[str] = ()) -> list[Units]:
    """The units of a network in eval mode; tensors with several names (`shared`) stay whole."""
    walk = _Walk(program)
    for node in program.graph.nodes:
        walk.visit(node)
    for tensor in shared:
        if tensor in walk.own:
            walk.pin(*walk.own[tensor])
    return walk.units(walk.groups())


class _Walk:
    def __init__(self, program: ExportedProgram):
        self.values: dict[fx.Node, Any] = {}  # Axes, or a list of Axes
        self.tensors = tensors_of(program)
        self.own: dict[str, Axes] = {}
        self.places: dict[tuple[str, int], str] = {}  # roles, in the order of the network
        self.count = 1  # of labels
        self.ties: list[tuple[Labels, Labels]] = []
        self.pinned: list[Labels] = [np.array([STAYS])]
        self.normed: list[Labels] = []

    def pin(self, *axes: Labels | None) -> None:
        self.pinned += [labels for labels in axes if labels is not None]

    def tie(self, one: Labels | None, other: Labels | None) -> None:
        """Position by position; with an axis that stays whole, so does the other."""
        if one is None or other is None:
            self.pin(one, other)
        elif one is not other:
            self.ties.append((one, other))

    def of_tensor(self, tensor: str, shape: Sequence[int]) -> Axes:
        if tensor not in self.own:
            self.own[tensor] = []
            for size in shape:
                self.own[tensor].append(np.arange(self.count, self.count + size))
                self.count += size
        return self.own[tensor]

    def place(self, node: Any, axis: int, role: str) -> Labels | None:
        """The labels of a weight's axis; None where it is not a weight but made of others."""
        if node not in self.tensors:
            self.pin(*self.value(node))
            return None
        labels = self.of_tensor(self.tensors[node], shape_of(node))[axis]
        if self.places.setdefault((self.tensors[node], axis), role) != role:
            self.pin(labels)
        return labels

    def value(self, node: Any) -> Axes:
        """The axes of what a node gives; a weight that no layer has is a carrier on every axis."""
        if not isinstance(node, fx.Node):
            return []
        if node in self.tensors:
            return [self.place(node, axis, "norm") for axis in range(len(shape_of(node)))]
        found = self.values.get(node)
        return found if found is not None else [None] * len(shape_of(node))

    # --- the operations ---------------------------------------------------------------------------

    def visit(self, node: fx.Node) -> None:
        if node.op == "output":
            for made in node.all_input_nodes:
                self.pin(*self.value(made))
        if node.op != "call_function" or node.meta.get("val") is None:
            return
        if not isinstance(node.target, torch._ops.OpOverload):  # getitem of a list, sizes
            source = node.args[0] if node.args else None
            if isinstance(source, fx.Node) and isinstance(self.values.get(source), list):
                chosen = self.values[source]
                self.values[node] = chosen[node.args[1]] if chosen else None
            return
        name = named(node).rstrip("_")
        rule: Callable[[fx.Node], Any] | None = getattr(self, f"_{name}", None)
        if rule is None:
            if torch.Tag.pointwise in node.target.tags or name in POINTWISE:
                rule = self._pointwise
            elif name in RESHAPING:
                rule = self._reshaped
            elif name in REDUCING:
                rule = self._reduced
            elif name in ALONG:
                rule = self._along
            elif "pool" in name or name.startswith("upsample"):
                rule = self._windows
            else:
                rule = self._unknown
        self.values[node] = rule(node)

    def _unknown(self, node: fx.Node) -> Any:
        for source in node.all_input_nodes:
            found = self.value(source)
            for axes in found if found and isinstance(found[0], list) else [found]:
                self.pin(*axes)
        return None

    def _pointwise(self, node: fx.Node) -> Axes:
        shape = shape_of(node)
        result: Axes = [None] * len(shape)
        known = [False] * len(shape)
        for source in node.all_input_nodes:
            sizes, axes = shape_of(source), self.value(source)
            for axis, size in enumerate(sizes):
                at = len(shape) - len(sizes) + axis
                if size != shape[at]:  # one for all
                    self.pin(axes[axis])
                elif not known[at]:
                    result[at], known[at] = axes[axis], True
                else:
                    self.tie(result[at], axes[axis])
                    result[at] = None if axes[axis] is None else result[at]
        return result

    def _reshaped(self, node: fx.Node) -> Axes:
        source = node.args[0]
        axes, old, new = self.value(source), shape_of(source), shape_of(node)
        result: Axes = [None] * len(new)
        for before, after in blocks(old, new):
            labelled = [axis for axis in before if axes[axis] is not None]
            large = [axis for axis in after if new[axis] > 1]
            if len(labelled) == len(large) == 1:  # else an axis is cut up, or two become one
                inner = math.prod(old[a] for a in before if a > labelled[0])
                outer = math.prod(old[a] for a in before if a < labelled[0])
                labels: Any = axes[labelled[0]]
                result[large[0]] = np.tile(np.repeat(labels, inner), outer)
            else:
                self.pin(*[axes[axis] for axis in labelled])
        return result

    def _kept(self, node: fx.Node, dims: Iterable[int], removed: bool = False) -> Axes:
        """All axes but `dims`, which stay whole, and go where `removed`."""
        axes = self.value(node.args[0])
        gone = {dim % len(axes) for dim in dims} if axes else set()
        self.pin(*[axes[dim] for dim in gone])
        axes = [None if dim in gone else labels for dim, labels in enumerate(axes)]
        return [labels for dim, labels in enumerate(axes) if not (removed and dim in gone)]

    def _reduced(self, node: fx.Node) -> Any:
        dims = argument(node, "dim")
        every = range(len(self.value(node.args[0])))
        dims = every if dims in (None, []) else [dims] if isinstance(dims, int) else dims
        axes = self._kept(node, dims, removed=not argument(node, "keepdim"))
        values = node.meta["val"]  # of min and max along an axis, two
        return [axes] * len(values) if isinstance(values, list | tuple) else axes

    def _along(self, node: fx.Node) -> Axes:
        dims = argument(node, "dim" if argument(node, "dim") is not None else "dims")
        every = range(len(self.value(node.args[0])))
        return self._kept(node, every if not dims and dims != 0 else np.atleast_1d(dims).tolist())

    def _windows(self, node: fx.Node) -> Any:
        """Pooling and enlarging, over all axes behind the channels."""
        axes = self._kept(node, range(2, len(shape_of(node.args[0]))))
        values = node.meta["val"]
        return [axes] * len(values) if isinstance(values, list | tuple) else axes

    def _changed(self, node: fx.Node) -> Axes:
        """Of an axis that is no longer as long nothing is known."""
        old, new = shape_of(node.args[0]), shape_of(node)
        return self._kept(node, [i for i in range(len(old)) if old[i] != new[i]])

    _slice = _pad = _constant_pad_nd = _narrow = _changed

    def _expand(self, node: fx.Node) -> Axes:
        old, new = shape_of(node.args[0]), shape_of(node)
        more = len(new) - len(old)
        axes = self._kept(node, [i for i in range(len(old)) if old[i] != new[more + i]])
        return [*[None] * more, *axes]

    def _permute(self, node: fx.Node) -> Axes:
        axes = self.value(node.args[0])
        return [axes[dim] for dim in node.args[1]]  # type: ignore[union-attr, index]

    def _transpose(self, node: fx.Node) -> Axes:
        axes = list(self.value(node.args[0]))
        one, other = node.args[1:3]
        axes[one], axes[other] = axes[other], axes[one]  # type: ignore[index]
        return axes

    def _t(self, node: fx.Node) -> Axes:
        return self.value(node.args[0])[::-1]

    def _select(self, node: fx.Node) -> Axes:
        return self._kept(node, [argument(node, "dim")], removed=True)

    def _unbind(self, node: fx.Node) -> list[Axes]:
        return [self._select(node)] * len(node.meta["val"])

    def _split(self, node: fx.Node) -> list[Axes]:
        return [self._kept(node, [argument(node, "dim")])] * len(node.meta["val"])

    _chunk = _split_with_sizes = _split

    def _cat(self, node: fx.Node) -> Axes:
        sources: Any = node.args[0]
        shape, dim = shape_of(node), argument(node, "dim") % len(shape_of(node))
        every = [self.value(source) for source in sources]
        result = list(every[0])
        for axes in every[1:]:
            for axis in range(len(shape)):
                if axis != dim:
                    self.tie(result[axis], axes[axis])
                    result[axis] = None if axes[axis] is None else result[axis]
        if all(axes[dim] is None for axes in every):
            result[dim] = None
        else:
            sizes = [shape_of(source)[dim] for source in sources]
            result[dim] = np.concatenate(
                [
                    np.full(size, STAYS) if axes[dim] is None else axes[dim]
                    for axes, size in zip(every, sizes, strict=True)
                ]
            )
        return result

    def _matmul(self, node: fx.Node) -> Any:
        sources = node.args[:2]
        if any(len(shape_of(source)) < 2 for source in sources):
            return self._unknown(node)
        one, other = (self.value(source) for source in sources)
        self.pin(one[-1], other[-2], *one[:-2], *other[:-2])  # the sum, and what is done in a row
        return [*[None] * (len(shape_of(node)) - 2), one[-2], other[-1]]

    _bmm = _mm = _matmul

    def _scaled_dot_product_attention(self, node: fx.Node) -> Axes:
        for source in node.all_input_nodes:
            self.pin(*self.value(source)[:-1])
        self.pin(*[self.value(source)[-1] for source in node.args[:2]])
        return [*[None] * (len(shape_of(node)) - 1), self.value(node.args[2])[-1]]

    # --- the layers -------------------------------------------------------------------------------

    def _linear(self, node: fx.Node) -> Axes:
        axes = self.value(node.args[0])
        self.tie(axes[-1], self.place(node.args[1], 1, "in"))
        made = self.place(node.args[1], 0, "out")
        self._bias(node, made)
        return [*axes[:-1], made]

    def _convolution(self, node: fx.Node) -> Axes:
        images, weight = node.args[:2]
        axes = self._kept(node, range(2, len(shape_of(images))))
        groups = argument(node, "groups")
        channels, filters = shape_of(images)[1], shape_of(weight)[0]
        if groups == channels == filters > 1:  # depthwise: a filter goes with its channel
            self.tie(axes[1], self.place(weight, 0, "norm"))
            self._bias(node, axes[1])
            return axes
        axes[1] = self._consumed(axes[1], weight)
        self._bias(node, axes[1])
        if groups > 1:
            self.pin(axes[1], self.place(weight, 1, "in"))
        return axes

    def _consumed(self, channels: Labels | None, weight: Any) -> Labels | None:
        if shape_of(weight)[1] == (0 if channels is None else len(channels)):
            self.tie(channels, self.place(weight, 1, "in"))
        else:  # grouped, or of an axis that stays whole
            self.pin(channels, self.place(weight, 1, "in"))
        return self.place(weight, 0, "out")

    _conv1d = _conv2d = _conv3d = _convolution

    def _bias(self, node: fx.Node, made: Labels | None) -> None:
        bias = argument(node, "bias")
        if bias is not None:
            self.tie(made, self.place(bias, 0, "out"))

    def _carried(self, node: fx.Node, labels: Labels | None, names: Sequence[str]) -> None:
        for name in names:
            tensor = argument(node, name)
            if tensor is not None:
                self.tie(labels, self.place(tensor, 0, "norm"))

    def _batch_norm(self, node: fx.Node) -> Axes:
        axes = self.value(node.args[0])
        self._carried(node, axes[1], ["weight", "bias", "running_mean", "running_var"])
        return axes

    def _layer_norm(self, node: fx.Node) -> Any:
        if len(argument(node, "normalized_shape")) > 1:
            return self._unknown(node)
        axes = self.value(node.args[0])
        self._carried(node, axes[-1], ["weight", "bias"])
        self.normed += [] if axes[-1] is None else [axes[-1]]
        return axes

    def _group_norm(self, node: fx.Node) -> Any:
        if argument(node, "num_groups") > 1:  # whose number a smaller width need not divide
            return self._unknown(node)
        axes = self.value(node.args[0])
        self._carried(node, axes[1], ["weight", "bias"])
        self.normed += [] if axes[1] is None else [axes[1]]
        return axes

    def _prelu(self, node: fx.Node) -> Axes:
        axes = self.value(node.args[0])
        if shape_of(node.args[1])[0] > 1:
            self.tie(axes[1], self.place(node.args[1], 0, "slope"))
        return axes

    # --- what follows -----------------------------------------------------------------------------

    def groups(self) -> np.ndarray:
        """The number of its group for every label; STAYS's own for all that are pinned."""
        from scipy.sparse import coo_matrix  # half a second, which a hybrid need not wait for
        from scipy.sparse.csgraph import connected_components

        one = np.concatenate([tie[0] for tie in self.ties] or [np.array([], int)])
        other = np.concatenate([tie[1] for tie in self.ties] or [np.array([], int)])
        graph = coo_matrix((np.ones(len(one)), (one, other)), shape=(self.count, self.count))
        groups = connected_components(graph, directed=False)[1]
        whole = np.isin(groups, groups[np.concatenate(self.pinned)])
        return np.where(whole, groups[STAYS], groups)

    def units(self, groups: np.ndarray) -> list[Units]:
        places = [Place(tensor, axis, role) for (tensor, axis), role in self.places.items()]
        where: dict[int, list[tuple[int, list[int]]]] = {}  # group → (place, positions)
        for number, place in enumerate(places):
            labels = self.own[place.tensor][place.axis]
            assert labels is not None
            for position, group in enumerate(groups[labels].tolist()):
                if group != groups[STAYS]:
                    found = where.setdefault(group, [])
                    if not found or found[-1][0] != number:
                        found.append((number, []))
                    found[-1][1].append(position)
        rows: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for group, found in where.items():
            rows.setdefault(tuple((number, len(at)) for number, at in found), []).append(group)
        mixed = set(groups[np.concatenate([np.array([], int), *self.normed])].tolist())
        result = []
        for signature, members in rows.items():
            roles = {places[number].role for number, _ in signature}
            if len(members) > 1 and {"out", "in"} <= roles:
                index = [
                    (places[number], np.array([where[group][i][1] for group in members]))
                    for i, (number, _) in enumerate(signature)
                ]
                result.append(Units(index, any(group in mixed for group in members)))
        return result
