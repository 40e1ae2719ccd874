"""An engine tried on a network: whether it runs it, as it should, and in int8 where it should."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engines import ENGINES
from engines.network import EngineNetwork
from engines.program import SHAKEN, Program, shaken
from model import every_logits

# Largest ‖difference‖ / ‖logits‖, and share of images whose class may change.
FLOAT_TOLERANCE = (1e-3, 0.005)
ROUNDED_TOLERANCE = (0.1, 0.02)  # the same for int8 and bfloat16
# A class may change beside where two of the graph's logits are as near as an image's error may
# bring: twice the mean error for one image, √2 for two logits, rounded up.
NEAR = 4.0
SOME = 64  # images by which it is seen how far a few values move all others
CALLS = 32  # by which each batch size is compared, at most
OF_BFLOAT16 = 2**-7  # what bfloat16 everywhere, sums and heads too, moves the logits by
ROUNDING = 2.0  # and at most so many times what rounding itself moves the float logits by


class Reference(NamedTuple):
    """What engines are compared with, and how far they may be from it."""

    images: Tensor  # normalised, `[N, C, H, W]`
    logits: Tensor  # of the graph, `[N, K]`, or of all exits, `[E + 1, N, K]`
    relative: float  # largest ‖difference‖ / ‖logits‖
    other_class: float  # largest share of the logits' classes, 0 to 1


class Trial(NamedTuple):
    """An engine, what was found of it, and the network's parts on it; None where it is left out."""

    name: str
    found: dict[str, Any]  # as it stands in results: 'left_out', 'int8_layers', ...
    parts: list[EngineNetwork] | None
    sizes: Sequence[int] = ()  # batch sizes that it was made ready for


@torch.inference_mode()
def reference(programs: Sequence[Program], plain: nn.Module, images: Tensor) -> Reference:
    """The graphs' logits; `plain` is the float network, by which rounding is judged.

    Engines sum in their own order, so that some values round to the neighbouring level, and what
    follows from that is of the size of the rounding error itself.
    """
    logits = _logits([program.graph for program in programs], images, programs)
    if not any(p.int8_layers or p.precision != "float32" for p in programs):
        return Reference(images, logits, *FLOAT_TOLERANCE)
    exact = plain.every_logits(images) if programs[0].is_part else plain(images)  # type: ignore[operator]
    relative, other_class = ROUNDED_TOLERANCE
    if any(p.int8_layers for p in programs):
        some = images[:SOME]
        tipped = _logits([program.graph for program in programs], shaken((some,))[0], programs)
        relative = max(relative, SHAKEN * relative_norm(tipped, logits[..., : len(some), :]))
    moved = ROUNDING * relative_norm(logits, exact)
    if any(p.precision != "float32" for p in programs):  # runtimes choose what else they round
        moved = max(moved, OF_BFLOAT16)
    return Reference(images, logits, min(relative, moved), other_class)


@torch.inference_mode()
def tried(
    name: str,
    programs: Sequence[Program],
    sizes: Sequence[int],
    threads: int | None,
    expected: Reference,
) -> Trial:
    """An engine made ready for batches of `sizes` and compared with the graph.

    Whatever a runtime raises leaves it out, with the reason: others can do its work.
    """
    why = ENGINES[name].unavailable() or next(filter(None, map(ENGINES[name].unfit, programs)), "")
    if why:
        return Trial(name, {"left_out": why}, None)
    started = time.perf_counter()
    try:
        parts = [
            EngineNetwork(program, dict.fromkeys(sizes, name), threads, checked=True)
            for program in programs
        ]
        ready = [[part.ready(size) for size in part.engines] for part in parts]
        seconds = time.perf_counter() - started
        relative, other, count = _compared(parts, programs, sizes, expected)
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Trial(name, {"left_out": f"failed: {line}"}, None)
    known = [
        layers for sizes in ready for each in sizes if (layers := each.int8_layers) is not None
    ]
    wanted = [layer for program in programs for layer in program.int8_layers]
    lacking = [
        layer
        for program, sizes_ready in zip(programs, ready, strict=True)
        for layer in program.int8_layers
        if any(r.int8_layers is not None and layer not in r.int8_layers for r in sizes_ready)
    ]
    left_out = None
    if not (relative <= expected.relative and other <= expected.other_class):
        left_out = (
            f"disagrees with the graph: logits are off by {relative:.2%} (allowed "
            f"{expected.relative:.2%}), {other:.2%} of the images are in another class (allowed "
            f"{expected.other_class:.2%})"
        )
    elif wanted and len(lacking) == len(wanted):
        left_out = f"computes none of the {len(wanted)} int8 layers in int8"
    found = {
        "left_out": left_out,
        "int8_layers": len(wanted) - len(lacking) if known else None,
        "int8_layers_wanted": len(wanted),
        "float_instead": lacking,
        "precision": ready[0][0].precision,
        "threads": ready[0][0].threads,
        "relative_norm": relative,
        "other_class": other,
        "images": count,
        "ready_seconds": seconds,
    }
    return Trial(name, found, parts if left_out is None else None, sizes)


def _compared(
    parts: Sequence[nn.Module],
    programs: Sequence[Program],
    sizes: Sequence[int],
    expected: Reference,
) -> tuple[float, float, int]:
    """The largest ‖difference‖ / ‖logits‖ of a batch size, the share of images of another class,
    and how many images there are."""
    relative, others, count = 0.0, 0, 0
    for size in sizes:
        images = expected.images[: size * CALLS]
        found = torch.cat([_logits(parts, batch, programs) for batch in images.split(size)], -2)
        wanted = expected.logits[..., : len(images), :]
        error = relative_norm(found, wanted)
        relative = max(relative, error)
        others += int(of_another_class(found, wanted, error).sum())
        count += found[..., 0].numel()
    return relative, others / count, count


def of_another_class(found: Tensor, wanted: Tensor, error: float) -> Tensor:
    """Which images `[...]` have another class in the logits `found` than in those `wanted`, each
    `[..., K]`, where the `relative_norm` `error` is too small to tip the two.

    A network that can hardly tell classes apart, as one that was cut and not yet trained, has many
    near ties, which any rounding turns.
    """
    its = wanted.gather(-1, found.argmax(-1, keepdim=True)).squeeze(-1)
    return wanted.amax(-1) - its > NEAR * error * wanted.norm(dim=-1)


def relative_norm(found: Tensor, expected: Tensor) -> float:
    """‖found - expected‖ / ‖expected‖ over all elements."""
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


def _logits(parts: Sequence[nn.Module], images: Tensor, programs: Sequence[Program]) -> Tensor:
    return every_logits(parts, images) if programs[0].is_part else parts[0](images)
