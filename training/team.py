"""The processes of one torchrun that train a network together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from machine.errors import Failed
from machine.processor import one_of_several

CONTROL_TIMEOUT = timedelta(days=365)  # longest wait for the first process, which may be busy


class TeamError(Failed):
    """The processes lost one another, or one failed alone; the run cannot go on."""


class Team:
    """The processes of one torchrun, as one of them sees them."""

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size
        control = dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT)
        assert isinstance(control, dist.ProcessGroup)
        self.control = control
        self.working = False  # in `fit`, where the others may wait for something else

    def broadcast(self, value: Any = None) -> Any:
        """What the first process gives here, for all; tensors must be on the CPU."""
        box = [value]
        dist.broadcast_object_list(box, 0, self.control)
        return box[0]

    @contextmanager
    def together(self, expected: tuple[type[Exception], ...]) -> Iterator[None]:
        """Around what all do alike: errors but the `expected`, which all meet, are TeamErrors."""
        self.working = True
        try:
            yield
        except expected:
            self.working = False
            raise
        except Exception as error:
            raise TeamError(
                f"training with {self.size} processes ended: {type(error).__name__}: {error}"
            ) from error
        self.working = False

    def dismiss(self) -> None:
        """Let the others end; in the midst of training they do so when they miss the first."""
        if not self.working:
            with suppress(RuntimeError):  # one of them is gone already
                self.broadcast(None)
            dist.destroy_process_group()


_team: Team | None = None


def current_team() -> Team | None:
    """The team that this process has joined."""
    return _team


def join() -> Team | None:
    """Meet the other processes of a torchrun; None where this one runs alone."""
    global _team
    if not one_of_several():
        return None
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    on_gpus = torch.cuda.is_available() and here <= torch.cuda.device_count()
    if on_gpus:
        torch.cuda.set_device(local_rank())
    dist.init_process_group(f"cpu:gloo,cuda:{'nccl' if on_gpus else 'gloo'}")
    _team = Team(dist.get_rank(), dist.get_world_size())
    return _team


def local_rank() -> int:
    """This process's number on its machine, which is also that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))
