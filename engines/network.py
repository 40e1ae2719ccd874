"""A program on its engines, as a module that takes any batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines import ENGINES
from engines.program import SHAKEN, EngineError, Program, Ready, shaken
from machine.waiting import one_thread
from model import check_images

PREFERENCE = ("onnxruntime", "openvino", "inductor", "eager")  # where nothing was measured
PART_SIZES = (4, 16)  # what a part between exits is made for as well: batches get smaller there
CHECKED = 4  # images of noise by which a new engine is compared with the graph
FARTHEST = 0.05  # ‖difference‖ / ‖values‖ from the graph: a few values round to the other side


class EngineNetwork(nn.Module):
    """Images `[B, C, H, W]` → logits `[B, num_classes]`, by the engine of the batch's size.

    Of a part of a network with early exits: its tensors → a tuple of tensors. `engines` says by
    batch size which engine runs it, a key of ENGINES; other sizes go to that of the largest one,
    padded with zeros or cut in pieces where it knows fixed sizes alone. What is not `ready` yet is
    made so when it first comes, and compared with the graph unless that is done elsewhere
    (`checked`). Raises ValueError for images of another shape, EngineError.
    """

    def __init__(
        self,
        program: Program,
        engines: Mapping[int, str],
        threads: int | None = None,
        *,
        checked: bool = False,
    ):
        super().__init__()
        if program.is_part:
            last = engines[max(engines)]
            more = () if ENGINES[last].COMPILES else PART_SIZES
            engines = {1: engines[min(engines)], **dict.fromkeys(more, last), **engines}
        self.program, self.engines = program, dict(sorted(engines.items()))
        self.graph = program.graph  # whose weights are the network's size
        self.threads, self.checked = threads, checked
        self.made: dict[tuple[str, int | None], Ready] = {}
        self.register_state_dict_post_hook(_without_zero_points)

    @property
    def model_args(self) -> dict[str, Any]:
        return self.program.model_args

    def forward(self, *inputs: Tensor) -> Any:
        if not self.program.is_part:
            check_images(self, inputs)
        outputs = self._run(inputs)
        return tuple(outputs) if self.program.is_part else outputs[0]

    def ready(self, size: int) -> Ready:
        """What runs a batch of `size` images, made now where it was not yet."""
        engine = self.engines.get(size) or self.engines[max(self.engines)]
        batch = size if size in self.engines or ENGINES[engine].FIXED_BATCH else None
        if (engine, batch) not in self.made:
            threads = self.threads or torch.get_num_threads()
            made = ENGINES[engine].ready(self.program, batch, threads)
            if not self.checked:
                self._verify(made, engine, batch or CHECKED)
            self.made[engine, batch] = made
        return self.made[engine, batch]

    def _run(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        count = len(inputs[0])
        if count in self.engines or not ENGINES[self.engines[max(self.engines)]].FIXED_BATCH:
            return self.ready(count).run(_contiguous(inputs))
        found, start = [], 0
        for size in self._sizes(count):
            pieces: Sequence[Tensor] = [value[start : start + size] for value in inputs]
            if lacking := size - len(pieces[0]):
                with one_thread():
                    pieces = [F.pad(v, (0, 0) * (v.ndim - 1) + (0, lacking)) for v in pieces]
            values = self.ready(size).run(_contiguous(pieces))
            found.append([value[: size - lacking] for value in values])
            start += size
        with one_thread():
            return [torch.cat(values) for values in zip(*found, strict=True)]

    def _sizes(self, count: int) -> list[int]:
        """Which batch sizes make up `count` images, the last one filled up with black ones.

        A part between exits gets few images of many: no size is filled up by half or more.
        """
        sizes: list[int] = []
        while count > 0:
            larger = min((size for size in self.engines if size >= count), default=None)
            if larger is None or (self.program.is_part and larger >= 2 * count):
                sizes.append(max(size for size in self.engines if size <= count))
            else:
                sizes.append(larger)
            count -= sizes[-1]
        return sizes

    @torch.inference_mode()
    def _verify(self, made: Ready, engine: str, size: int) -> None:
        inputs = self.program.examples(size)
        expected = self.graph(*inputs)
        expected = expected if self.program.is_part else (expected,)
        off, allowed = farthest(made.run(inputs), expected), FARTHEST
        if not off < allowed and self.program.int8_layers:
            moved = self.graph(*shaken(inputs))
            moved = moved if self.program.is_part else (moved,)
            allowed = max(allowed, SHAKEN * farthest(moved, expected))
        if not off < allowed:
            raise EngineError(
                f"{engine}: values at batch {size} differ from the graph's by {off:.1%}"
            )


def farthest(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest ‖difference‖ / ‖values‖ of some tensors."""
    return max(
        float((one - value).norm() / value.norm().clamp_min(1e-6))
        for one, value in zip(found, expected, strict=True)
    )


def _contiguous(inputs: Sequence[Tensor]) -> list[Tensor]:
    if all(value.is_contiguous() for value in inputs):
        return list(inputs)
    with one_thread():
        return [value.contiguous() for value in inputs]


def preferred(program: Program) -> str:
    """The engine that runs a program where none was measured. Raises EngineError without one."""
    whys = {}
    for name in PREFERENCE:
        if name not in ENGINES:
            continue
        why = ENGINES[name].unavailable() or ENGINES[name].unfit(program)
        if why is None:
            return name
        whys[name] = why
    listed = "; ".join(f"{name} {why}" for name, why in whys.items())
    raise EngineError(f"no engine here runs this network: {listed}")


def _without_zero_points(module: nn.Module, state: Any, prefix: str, local_metadata: Any) -> None:
    """Symmetric weights have no zero points; torchao's graph holds zeros for them."""
    for name in [n for n in state if "_zero_point_" in n and not state[n].any()]:
        del state[name]
