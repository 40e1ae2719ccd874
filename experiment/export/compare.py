"""A file against the network that it was made from; only one that agrees is kept."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_sets.batches import BatchLoader
from engines.program import Program
from engines.trial import of_another_class, relative_norm
from machine.noise import silence
from machine.processor import int8_saturates
from methods.quantization.record import float_layer_names, needs_vnni, quantizable_layers
from stages.deployment import Deployed

BATCH = 64  # images at once with which a file of any batch size is compared

# Largest ‖difference‖ / ‖logits‖, and share of images whose class may change.
FLOAT_TOLERANCE = (1e-4, 0.001)
INT8_TOLERANCE = (0.1, 0.02)  # the same for int8
INT8_ROUNDING = 2.0  # and at most so many times what int8 itself moves the float logits by


class ExportError(RuntimeError):
    """A file could not be written, or does not compute what it should; the message is one line."""


class Runtime(NamedTuple):
    """A file as its own runtime sees it."""

    run: Callable[[Tensor], Tensor]  # images in 0..1 `[B, C, H, W]` → logits `[B, num_classes]`
    about: dict[str, str]  # what the file says of itself
    int8_layers: int | None = None  # layers that it computes in int8; None where it cannot tell


class Expected(NamedTuple):
    """What files are compared with, and how far they may be from it."""

    logits: Tensor  # the network's own on the test split, `[N, num_classes]`
    relative: float  # largest ‖difference‖ / ‖logits‖
    other_class: float  # largest share of the images, 0 to 1


class FileComparison(NamedTuple):
    """A file against the network that it was made from, on the whole test split."""

    largest: float  # difference of a logit
    relative: float  # ‖difference‖ / ‖logits‖
    other_class: float  # share of the images, 0 to 1
    accuracy: float  # of the file, in percent
    network_accuracy: float
    int8_layers: int | None  # that its runtime computes in int8, on this machine; None: not known


@dataclass(frozen=True)
class Subject:
    """A network with all that its files say and are compared with."""

    deployed: Deployed
    test: BatchLoader
    about: dict[str, str]

    @property
    def shape(self) -> tuple[int, int, int]:
        args = self.deployed.state.model_args
        return (args["in_channels"], *args["image_size"])

    @property
    def int8_layers(self) -> int:
        """How many layers are to be computed in int8."""
        quant, model = self.deployed.state.quant, self.deployed.float_network
        if quant is None:
            return 0
        kept = float_layer_names(model, quant.float_layers)
        return len(quantizable_layers(model)) - len(kept)

    @property
    def program(self) -> Program:
        """The network as engines take it, but images in 0..1, which it normalises itself."""
        program = self.deployed.programs[0]
        graph = copy.deepcopy(program.graph)
        graph.register_buffer("_mean", self.test.mean.cpu().clone())
        graph.register_buffer("_std", self.test.std.cpu().clone())
        images = next(node for node in graph.graph.nodes if node.op == "placeholder")
        with graph.graph.inserting_before(images.next):
            mean, std = map(graph.graph.get_attr, ("_mean", "_std"))
            centred = graph.graph.call_function(torch.ops.aten.sub.Tensor, (images, mean))
            normal = graph.graph.call_function(torch.ops.aten.div.Tensor, (centred, std))
        images.replace_all_uses_with(normal, delete_user_cb=lambda user: user is not centred)
        graph.recompile()
        return replace(program, graph=graph)

    def module(self, layout: torch.memory_format) -> nn.Module:
        """Images in 0..1 → logits, as operations that exporters read, computed in `layout`."""
        network: nn.Module = self.deployed.float_network
        if self.deployed.state.quant is not None:
            network = self.deployed.programs[0].graph
        network = copy.deepcopy(network).to(memory_format=layout)
        return _Normalizing(network, self.test.mean, self.test.std, layout)


@dataclass(frozen=True)
class Format:
    """A kind of file. `write` may leave more files beside the one that it is told."""

    ending: str
    packages: tuple[str, ...]  # optional ones, to write and to read it
    write: Callable[[Subject, Path, int | None], None]  # with the batch size, where it is fixed
    read: Callable[[Path], Runtime]
    compiled: bool = False  # machine code: for one batch size, and by a C++ compiler


def export(
    subject: Subject, format_: Format, path: Path, batch: int | None, expected: Expected
) -> FileComparison:
    """Write a file, read it again, compare it with the network, and only then put it at `path`.

    Raises ExportError; then there is no new file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        draft = Path(folder) / path.name
        try:
            with silence():  # exporters remark on their own innards, by both
                format_.write(subject, draft, batch)
                runtime = format_.read(draft)
        except RuntimeError as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExportError(f"cannot be written and read again: {reason}") from error
        found = compare_file(runtime, subject, batch, expected)
        for file in sorted(draft.parent.iterdir(), key=lambda file: file == draft):
            file.replace(path.parent / file.name)  # weights first, then what refers to them
    return found


@torch.inference_mode()
def reference(subject: Subject) -> Expected:
    """The network's logits on the test split, with the tolerance.

    Every runtime sums in its own order, so that some values round to the neighbouring int8 level,
    and what follows from that is of the size of int8's own rounding error.
    """
    network, plain = subject.deployed.network, subject.deployed.float_network
    logits = torch.cat([network(images) for images, _ in subject.test])
    if subject.deployed.state.quant is None:
        return Expected(logits, *FLOAT_TOLERANCE)
    moved = relative_norm(logits, torch.cat([plain(images) for images, _ in subject.test]))
    relative, other_class = INT8_TOLERANCE
    return Expected(logits, min(relative, INT8_ROUNDING * moved), other_class)


@torch.inference_mode()
def compare_file(
    runtime: Runtime, subject: Subject, batch: int | None, expected: Expected
) -> FileComparison:
    """Run the test split through a file. Raises ExportError where it does not give the network's
    logits, or others when it is run again."""
    images, labels = (t[subject.test.index] for t in (subject.test.images, subject.test.labels))
    size = batch or BATCH

    def run(part: Tensor) -> Tensor:
        padding = size - len(part) if batch else 0
        padded = F.pad(part.float().div(255), (0, 0, 0, 0, 0, 0, 0, padding))
        return runtime.run(padded.contiguous())[: len(part)].clone()

    def accuracy(logits: Tensor) -> float:
        return 100 * float((logits.argmax(1) == labels).double().mean())

    first = run(images[:size])
    found = torch.cat([run(part) for part in images.split(size)])
    if found.shape != expected.logits.shape:
        shapes = f"{list(found.shape)}, expected {list(expected.logits.shape)}"
        raise ExportError(f"gives logits {shapes}")
    if not torch.allclose(first, run(images[:size]), atol=1e-5, equal_nan=True):
        raise ExportError("gives other logits when it is run again")
    relative = relative_norm(found, expected.logits)
    other = float(of_another_class(found, expected.logits, relative).double().mean())
    if not (relative <= expected.relative and other <= expected.other_class):
        raise ExportError(
            f"differs from the network by {relative:.2%} of its logits (allowed "
            f"{expected.relative:.2%}), at {other:.2%} of the images in the class (allowed "
            f"{expected.other_class:.2%}){_likely_cause(subject)}"
        )
    return FileComparison(
        largest=float((found - expected.logits).abs().max()),
        relative=relative,
        other_class=other,
        accuracy=accuracy(found),
        network_accuracy=accuracy(expected.logits),
        int8_layers=runtime.int8_layers,
    )


def _likely_cause(subject: Subject) -> str:
    quant = subject.deployed.state.quant
    if quant is None or not needs_vnni(quant) or not int8_saturates():
        return ""
    return "; this CPU has no VNNI, without which int8 products saturate: see reduce_range"


class _Normalizing(nn.Module):
    """Images in 0..1, contiguous → logits. The arithmetic of BatchLoader.normalize."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor, layout: torch.memory_format):
        super().__init__()
        self.network, self.layout = network, layout
        self.register_buffer("mean", mean.cpu().clone())
        self.register_buffer("std", std.cpu().clone())

    def forward(self, images: Tensor) -> Tensor:
        normal = (images - self.mean) / self.std
        return self.network(normal.contiguous(memory_format=self.layout))
