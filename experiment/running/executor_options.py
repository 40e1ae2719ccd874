"""Where stages run: in this process, or as tasks of a Ray cluster; the options that say so."""

from __future__ import annotations

import argparse
import importlib.util
import socket
from dataclasses import dataclass
from typing import Literal

from experiment.suite.messages import ConfigError
from machine.processor import one_of_several


@dataclass(frozen=True)
class Execution:
    """What `--executor`, `--workers` and `--address` say."""

    kind: Literal["serial", "ray"] = "serial"
    workers: int | None = None  # stages at once; None: as many as the cluster has room for
    address: str | None = None  # of a cluster that runs; None: one of our own, on this machine


def add_execution_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--executor",
        choices=["serial", "ray"],
        default="serial",
        help="where stages run: one after another here (default), or as tasks of Ray",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="ray: stages at once (default: one a core or GPU)"
    )
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="ray: a cluster that runs, or 'auto' on its machines"
    )


def execution(args: argparse.Namespace) -> Execution:
    """The options, checked. Raises ConfigError."""
    problems = []
    if args.executor == "serial":
        for name in ("workers", "address"):
            if getattr(args, name) is not None:
                problems.append(f"command line: --{name} needs --executor ray; add it")
    elif one_of_several():
        problems.append(
            "command line: --executor ray under torchrun; use torchrun to train one network with "
            "several processes, or Ray to run several stages at once"
        )
    elif importlib.util.find_spec("ray") is None:
        problems.append(
            "command line: --executor ray needs Ray, which is not installed; "
            "pip install 'ray>=2.40,<3'"
        )
    elif args.address not in (None, "auto") and (why := _unreachable(args.address)):
        problems.append(f"command line: --address {args.address}: {why}")
    if args.workers is not None and args.workers < 1:
        problems.append(f"command line: --workers should be 1 or more: {args.workers}")
    if problems:
        raise ConfigError(problems)
    return Execution(args.executor, args.workers, args.address)


def _unreachable(address: str) -> str | None:
    """Why no cluster can be at an address; Ray itself takes minutes to find out."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return "should be HOST:PORT, as ray start --head shows it, or 'auto'"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        return f"no cluster answers ({error}); start one there with ray start --head"
    return None
