"""Weights that a training starts from: a file with a state_dict, or torchvision's by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from machine.files import sha256
from networks.foreign import TORCHVISION, NetworkError
from networks.network import Network

SUFFIXES = (".pth", ".pt", ".bin")
WRAPPERS = ("state_dict", "model", "weights", "state")  # keys under which files keep the tensors


class Start(NamedTuple):
    """Which weights: as the config names them, and a digest of what they are."""

    weights: str
    digest: str


def start_of(named: str, args: Mapping[str, Any]) -> Start:
    """What a config's `weights` means for a network of resolved `args`. Raises NetworkError."""
    if named.endswith(SUFFIXES):
        path = Path(named)
        if not path.is_file():
            raise NetworkError(f"there is no file {named}")
        return Start(named, sha256(path.read_bytes()))
    return Start(named, _torchvision(named, args).url)


def load(network: Network, start: Start) -> list[str]:
    """Give `network` these weights; returns the tensors of a classifier for other classes, which
    stay as they are. Raises NetworkError."""
    args = network.model_args
    if start.weights.endswith(SUFFIXES):
        tensors = _in_file(Path(start.weights), start.digest)
    else:
        try:
            tensors = _torchvision(start.weights, args).get_state_dict(progress=False)
        except Exception as error:  # as many kinds as there are ways to be offline
            raise NetworkError(
                f"{start.weights} could not be downloaded ({type(error).__name__}); go online, or "
                "name a file"
            ) from error
    own = network.state_dict()
    new = {name for name in own if _is_of_other_classes(own[name], tensors.get(name), args)}
    lacking = [name for name in own if name not in tensors]
    if lacking or (extra := [name for name in tensors if name not in own]):
        text = f"lacks {lacking[0]}" if lacking else f"has {extra[0]}, which the network has not"
        raise NetworkError(f"{start.weights} {text}; it is of another network")
    for name, value in own.items():
        if name not in new and tensors[name].shape != value.shape:
            raise NetworkError(
                f"{start.weights} has {name} as {list(tensors[name].shape)}, the network as "
                f"{list(value.shape)}; it is of another network"
            )
    network.load_state_dict({**tensors, **{name: own[name] for name in new}})
    return sorted(new)


def _is_of_other_classes(mine: Tensor, theirs: Tensor | None, args: Mapping[str, Any]) -> bool:
    return (
        theirs is not None
        and mine.ndim > 0
        and len(mine) == args["num_classes"]
        and mine.ndim == theirs.ndim
        and mine.shape[1:] == theirs.shape[1:]
        and len(mine) != len(theirs)
    )


def _in_file(path: Path, digest: str) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NetworkError(f"{path} cannot be read: {error.strerror}") from error
    if sha256(content) != digest:
        raise NetworkError(f"{path} has changed since the config was checked; start again")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error of its own
        raise NetworkError(
            f"{path} is no file of tensors that torch.load reads with weights_only: "
            f"{type(error).__name__}; save the network's state_dict()"
        ) from error
    for key in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise NetworkError(f"{path} holds no state_dict; save the network's state_dict()")
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def _torchvision(named: str, args: Mapping[str, Any]) -> Any:
    """torchvision's record of such weights. Raises NetworkError."""
    from torchvision import models

    name = str(args.get("architecture", ""))
    if not name.startswith(TORCHVISION):
        raise NetworkError(f"{named!r} should be a file ({', '.join(SUFFIXES)})")
    try:
        known = models.get_model_weights(name.removeprefix(TORCHVISION))
    except ValueError:
        raise NetworkError(f"torchvision has no weights for {name}; name a file") from None
    if named not in known.__members__:
        raise NetworkError(f"{named!r} is not known; {name} has {', '.join(known.__members__)}")
    return known[named]
