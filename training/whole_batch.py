"""One network trained by several processes, as torchrun starts them: data parallel.

The first process runs the program. The others only wait for `fit` and take part in it, so that one
process decides, measures and writes. Each trains on its slice of every batch, which all draw alike
(images, augmentation, dropout), and what depends on the whole batch is reduced over all of them:
gradients, batch norms' statistics, ranges of fake quantization. So the number of processes changes
a result only by rounding.

Not torch's DistributedDataParallel: that averages the gradients of one module over equal slices,
and here slices may differ in size, a distillation has parameters outside of the network, and the
loss, the hits and the wish to stop travel along in one message. Its SyncBatchNorm needs a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.team import Team


class Shard:
    """One process's part of every batch of `batch` images. Raises ValueError where it is empty."""

    def __init__(self, team: Team, batch: int, stop_requested: Callable[[], bool]):
        if batch < team.size:
            raise ValueError(
                f"a batch of {batch} images is less than one for each of {team.size} processes; "
                "set a larger batch_size, or start fewer"
            )
        self.batch, self.stop_requested, self.stopping = batch, stop_requested, False
        self.rows = part_of(torch.arange(batch), team)
        self.weight = len(self.rows) / batch
        self.team = team

    def rows_of(self, values: Tensor) -> Tensor:
        return values[self.rows[0] : self.rows[-1] + 1]

    def reduce(
        self, optimizer: torch.optim.Optimizer, loss: Tensor, hits: Tensor
    ) -> tuple[Tensor, Tensor]:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        stop = torch.full_like(loss, float(self.stop_requested()))
        figures = torch.stack([loss.detach(), hits.to(loss.dtype), stop.detach()])
        bucket = torch.cat([*(gradient.reshape(-1) for gradient in gradients), figures])
        dist.all_reduce(bucket)
        *parts, figures = bucket.split([*(gradient.numel() for gradient in gradients), 3])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        self.stopping = bool(figures[2] > 0)
        return figures[0], figures[1]

    def synchronize(self, module: nn.Module) -> None:
        """Make batch norm and dropout in `module` see the whole batch.

        A module gets another class rather than another takes its place: so its name, its hooks and
        its parameters, which an optimizer may hold, stay what they are.
        """
        layers = whole_batch_layers()
        for part in module.modules():
            if type(part) in layers:
                part.__class__ = layers[type(part)]
                part.shard = self  # type: ignore[assignment]


def part_of(index: Tensor, team: Team) -> Tensor:
    return index.tensor_split(team.size)[team.rank]


def all_reduce_extremes(values: Tensor) -> Tensor:
    """Least and largest value over all processes, `[2]`."""
    low, high = torch.aminmax(values.float())
    pair = torch.stack([-low, high])
    dist.all_reduce(pair, dist.ReduceOp.MAX)
    return torch.stack([-pair[0], pair[1]])


class _Sum(torch.autograd.Function):
    """The sum over all processes, of values and of their gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient.contiguous())


class _BatchNorm2d(nn.BatchNorm2d):
    """Mean and variance are those of the whole batch, put together in double precision."""

    shard: Shard

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            return super().forward(images)
        values = images.float()
        variance, mean = torch.var_mean(values, (0, 2, 3), correction=0)  # [C]
        mean, variance = mean.double(), variance.double()
        moments = torch.stack([mean, variance + mean.square()])
        mean, square = _Sum.apply(self.shard.weight * moments)
        variance = (square - mean.square()).clamp_min(0)
        self._remember(mean.detach(), variance.detach(), images)
        scale = self.weight * (variance + self.eps).rsqrt().float()
        centred = values - mean.float()[:, None, None]
        normed = centred * scale[:, None, None] + self.bias[:, None, None]
        return normed.to(images.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, images: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        count = self.shard.batch * images.shape[2] * images.shape[3]
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.float(), self.momentum)
        self.running_var.lerp_((variance * count / (count - 1)).float(), self.momentum)


class _Dropout(nn.Dropout):
    """Drawn for the whole batch, so that processes stay in step and drop as one would."""

    shard: Shard

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return values
        whole = values.new_ones((self.shard.batch, *values.shape[1:]))
        return values * self.shard.rows_of(super().forward(whole))


@functools.cache
def whole_batch_layers() -> dict[type[nn.Module], type[nn.Module]]:
    """Layer → its form that sees the whole batch."""
    from torchvision.ops import StochasticDepth  # a second of importing, which few runs need

    class WholeBatchStochasticDepth(StochasticDepth):
        """Drawn for the whole batch."""

        shard: Shard

        def forward(self, values: Tensor) -> Tensor:
            if not self.training or self.p == 0:
                return values
            whole = values.new_ones((self.shard.batch, *[1] * (values.ndim - 1)))
            return values * self.shard.rows_of(super().forward(whole))

    return {
        nn.BatchNorm2d: _BatchNorm2d,
        nn.Dropout: _Dropout,
        StochasticDepth: WholeBatchStochasticDepth,
    }
