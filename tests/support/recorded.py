"""CUDA graphs' rules on the CPU: a step is noted once, and then done again without its Python.

`CpuGraph` notes every operation that a step asks for, backward and optimizer included, with the
tensors that it reads and writes; a replay does the same operations on the same memory. What
recording on a GPU refuses it refuses: to look at a value, a shape that values decide, a copy from
the host. As there, nothing of the recorded step itself is carried out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stages import fitting
from training import cuda_graph
from training.cuda_graph import CapturedStep, Recording

aten = torch.ops.aten
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)
LOOKS = {"aten::item", "aten::_local_scalar_dense", "aten::equal", "aten::nonzero"}
# What looks at a learning rate or a scale on the CPU, where on a GPU its kernel gets the address.
ON_CPU_ALONE = (
    "aten::_fused_",
    "aten::_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
)


class CpuGraph(TorchDispatchMode):
    """What ran inside, `replay`able. Raises RuntimeError where a GPU would have to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[Any, Any, Any, Any]] = []  # operation, arguments, by name, results
        self.before: dict[int, tuple[Any, Any]] = {}  # memory from outside, and what it held
        self.inside: set[int] = set()  # memory that the step itself asked for

    def __enter__(self) -> CpuGraph:
        self.generator = torch.get_rng_state()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.set_rng_state(self.generator)
        for storage, held in self.before.values():
            storage.copy_(held)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        _refuse(operation, args)
        for tensor in _tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.before and storage._cdata not in self.inside:
                self.before[storage._cdata] = storage, storage.clone()
        results = operation(*args, **kwargs)
        for tensor in _tensors(results):
            if (memory := tensor.untyped_storage()._cdata) not in self.before:
                self.inside.add(memory)
        self.noted.append((operation, args, kwargs, results))
        return results

    @torch.inference_mode()
    def replay(self) -> None:
        for operation, args, kwargs, results in self.noted:
            found = operation(*args, **kwargs)
            for then, now in zip(_tensors(results), _tensors(found), strict=True):
                if then.untyped_storage()._cdata != now.untyped_storage()._cdata:
                    then.copy_(now)


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _refuse(operation: Any, args: Any) -> None:
    masks = operation in INDEXING and any(index.dtype == torch.bool for index in _tensors(args[1]))
    decided = operation not in INDEXING and torch.Tag.dynamic_output_shape in operation.tags
    if torch.Tag.data_dependent_output in operation.tags or decided or masks:
        raise RuntimeError(f"{operation} looks at a value while a step is recorded")
    if operation is aten.lift_fresh.default:
        raise RuntimeError("a tensor is made of the host's values while a step is recorded")


class CpuStep(CapturedStep):
    """`CapturedStep` with a CpuGraph."""

    def _as_it_is(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return self.step(images, labels)

    def _recorded(self, images: Tensor, labels: Tensor) -> Recording:
        images, labels = images.clone(), labels.clone()
        with _without_looks(), CpuGraph() as graph:
            loss, hits = self.step(images, labels)
        return Recording(graph, images, labels, loss, hits)


@contextmanager
def _without_looks() -> Iterator[None]:
    """Raises RuntimeError where an operator looked at a value in its C++, unseen by CpuGraph."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        yield
    assert found.profiler is not None and found.profiler.kineto_results is not None
    ran = found.profiler.kineto_results.events()  # as they are: to parse them takes seconds
    for look in ran:
        if look.name() in LOOKS:
            within = [e.name() for e in ran if e.start_ns() <= look.start_ns() <= e.end_ns()]
            if not any(name.startswith(ON_CPU_ALONE) for name in within):
                raise RuntimeError(f"{' > '.join(within)} while a step is recorded")


@contextmanager
def steps_are(*, recorded: bool) -> Iterator[list[CpuStep]]:
    """Inside, `fit` takes its steps by CpuStep; if not `recorded`, all as they are, as it warms up.

    Learning rates are float32 tensors in both, so what comes out may be compared to the bit. The
    steps that were made are in the list.
    """
    made: list[CpuStep] = []

    def make(*args: Any) -> CpuStep:
        made.append(CpuStep(*args))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "CapturedStep", make)
        patch.setattr(fitting, "why_not_recorded", lambda *about: None)
        patch.setattr(fitting, "fuse_blocks", lambda *about: False)  # no kernel of a GPU's
        if not recorded:
            patch.setattr(cuda_graph, "WARM_UP", math.inf)
        yield made
