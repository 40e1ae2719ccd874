"""Work in new processes: alone, or several that share one network.

They are forked from a server that has imported all once, with the variables that torchrun sets.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from training.team import join


def forkserver() -> Any:
    """Starts processes that need not import anything, which takes three seconds each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            *("experiment.running.run", "experiment.report.write", "sklearn.datasets"),
            *("torchvision.ops", "tests.support.tiny", "tests.support.suites", __name__),
        ]
    )
    return context


def in_new_process(work: Callable[..., None], *arguments: Any) -> None:
    """`work(*arguments)` where nothing of this process is left but what is on disk."""
    process = forkserver().Process(target=work, args=arguments)
    process.start()
    assert finish([process]) == [0]


def start(size: int, work: Callable[..., None], *arguments: Any) -> list[Any]:
    """`work(*arguments)` in `size` processes, each with torchrun's variables."""
    context = forkserver()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_child, args=(rank, size, port, work, *arguments))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[Any]) -> list[int]:
    for process in processes:
        process.join(120)
        if process.exitcode is None:
            process.kill()
    return [process.exitcode for process in processes]


def _child(rank: int, size: int, port: int, work: Callable[..., None], *arguments: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    work(*arguments)


def _as_team(work: Callable[..., Any], folder: Path, *arguments: Any) -> None:
    """Each process's result goes to a file."""
    team = join()
    assert team is not None
    torch.manual_seed(0)
    torch.save(work(team, *arguments), folder / f"{team.rank}.pt")
    dist.destroy_process_group()


def in_team(size: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(team, *arguments)` returns in each of `size` processes."""
    assert finish(start(size, _as_team, work, folder, *arguments)) == [0] * size
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]
