"""Networks that others wrote: torchvision's classifiers by name, and classes in a user's file.

`model_args` are then the arguments of the constructor, looked up in its signature, beside what the
data set decides: `num_classes`, and `in_channels` and `image_size` where it takes them.
"""

from __future__ import annotations

import copy
import difflib
import functools
import importlib.util
import inspect
import json
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from machine.files import sha256
from machine.noise import without_warnings
from networks.network import Network, adopted
from networks.shapes import reshape

TORCHVISION = "torchvision:"
FACTS = ("image_size", "in_channels", "num_classes")  # which the data set decides
# Keys of model_args that are not the constructor's; 'stem' where it is torchvision's.
OURS = ("architecture", "shapes", "exits")
PLAIN = (bool, int, float, str, type(None))
STEMS = ("small",)


class NetworkError(ValueError):
    """Arguments that build no network; `key` of `model_args` is to blame, where one is."""

    def __init__(self, text: str, key: str | None = None):
        super().__init__(text)
        self.text, self.key = text, key


class Constructor(NamedTuple):
    """What makes a network, and the names of what it takes."""

    make: Callable[..., nn.Module]
    takes: Mapping[str, inspect.Parameter]
    defaults: Mapping[str, Any]  # of what it takes, those that are plain data
    from_torchvision: bool = False

    def facts(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """What it takes of the data set's shape."""
        found = {key: args[key] for key in FACTS if key in self.takes}
        if "image_size" in found:
            height, width = args["image_size"]
            wants = str(self.takes["image_size"].annotation)
            if "int" in wants and "tuple" not in wants and "list" not in wants:
                if height != width:
                    raise NetworkError(
                        f"the constructor takes one side of square images, these are {height}×"
                        f"{width}; choose dataset_args.image_size, or another network",
                        "architecture",
                    )
                found["image_size"] = height
            else:
                found["image_size"] = (height, width)
        return found


def constructor(name: str, registry: Mapping[str, type[Network]]) -> Constructor:
    """What makes the networks of an architecture's name. Raises NetworkError."""
    if name in registry:
        return _of_class(registry[name])
    if name.startswith(TORCHVISION):
        return _of_torchvision(name.removeprefix(TORCHVISION))
    file, colon, kind = name.rpartition(":")
    if colon and file.endswith(".py"):
        return _of_class(_class_in(file, kind))
    known = ", ".join(registry)
    raise NetworkError(
        f"{name!r} is none of {known}, 'torchvision:NAME', 'FILE.py:CLASS'{_hint(name, registry)}",
        "architecture",
    )


def resolved(
    model_args: Mapping[str, Any], registry: Mapping[str, type[Network]]
) -> dict[str, Any]:
    """`model_args` as plain data, looked up in the constructor's signature, defaults filled in.

    Raises NetworkError for a key that it does not take, one that it needs and values that are no
    plain data.
    """
    name = str(model_args["architecture"])
    made_by = constructor(name, registry)
    ours = (*OURS, *FACTS, *(["stem"] if made_by.from_torchvision else []))
    own = {k: v for k, v in model_args.items() if k not in ours}
    for key, value in own.items():
        if key not in made_by.takes:
            known = [k for k in made_by.takes if k not in FACTS]
            listed = ", ".join(known) or "no such key"
            raise NetworkError(f"{name} takes {listed}{_hint(key, known)}", key)
        if not _is_plain(value):
            raise NetworkError("should be plain data: numbers, text, lists and dicts of these", key)
    if "num_classes" not in made_by.takes:
        raise NetworkError(f"{name} should take num_classes, which the data set decides")
    missing = [
        key
        for key, parameter in made_by.takes.items()
        if parameter.default is inspect.Parameter.empty and key not in (*own, *FACTS)
    ]
    if missing:
        raise NetworkError(f"{name} needs it; give it in model_args", missing[0])
    height, width = _size(model_args.get("image_size", 32))
    found: dict[str, Any] = {
        "architecture": name,
        "image_size": [height, width],
        "in_channels": model_args.get("in_channels", 3),
        "num_classes": model_args.get("num_classes", 10),
        **copy.deepcopy({k: v for k, v in made_by.defaults.items() if k not in FACTS}),
        **json.loads(json.dumps(own)),
        "exits": list(model_args.get("exits", [])),
    }
    if made_by.from_torchvision and (stem := model_args.get("stem")) is not None:
        if stem not in STEMS:
            raise NetworkError("is 'small' or left out", "stem")
        found["stem"] = stem
    if model_args.get("shapes"):
        found["shapes"] = model_args["shapes"]
    return found


def built(model_args: Mapping[str, Any], registry: Mapping[str, type[Network]]) -> Network:
    """The network of resolved arguments, freshly initialised. Raises NetworkError."""
    args = dict(model_args)
    made_by = constructor(args["architecture"], registry)
    own = {k: v for k, v in args.items() if k in made_by.takes and k not in FACTS}
    if "exits" in made_by.takes:
        own["exits"] = list(args["exits"])
    elif args["exits"]:
        raise NetworkError(f"the constructor of {args['architecture']} takes no exits")
    try:
        # torchvision remarks on how its own initialisations will change.
        with without_warnings() if made_by.from_torchvision else nullcontext():
            network = made_by.make(**copy.deepcopy(own), **made_by.facts(args))
    except NetworkError:
        raise
    except Exception as error:
        raise NetworkError(f"{args['architecture']} cannot be built: {line_of(error)}") from error
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{args['architecture']} gives no nn.Module", "architecture")
    if made_by.from_torchvision:
        _fit_stem(network, args)
    if args.get("shapes"):
        reshape(network, args["shapes"])
    return adopted(network, args, ordered=_is_ordered(made_by, own, args))


_ORDERED: dict[tuple[Any, str], bool] = {}


def _is_ordered(made_by: Constructor, own: dict[str, Any], args: Mapping[str, Any]) -> bool:
    """Whether a user's code fails on images in channels_last alone; tried once, on black images.

    On a CPU, as tensors without data do not tell how what runs will lie in memory.
    """
    if source_digest(args["architecture"]) is None:
        return False
    key = made_by.make, json.dumps({k: v for k, v in args.items() if k != "shapes"}, sort_keys=True)
    if key not in _ORDERED:
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            twin = made_by.make(**copy.deepcopy(own), **made_by.facts(args)).eval()
            images = torch.zeros(2, args["in_channels"], *args["image_size"])
        last, first = torch.channels_last, torch.contiguous_format
        _ORDERED[key] = not _takes(twin, images, last) and _takes(twin, images, first)
    return _ORDERED[key]


def _takes(network: nn.Module, images: Tensor, layout: torch.memory_format) -> bool:
    try:
        with torch.no_grad():
            network.to(memory_format=layout)(images.to(memory_format=layout))
    except Exception:  # for any reason; check_runs will tell
        return False
    return True


def check_runs(network: Network) -> None:
    """Raise NetworkError for a network that does not make logits of images as it should."""
    args = network.model_args
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise NetworkError(f"{args['architecture']} has no parameters that could be trained")
    device = next(network.parameters()).device
    images = torch.zeros(2, args["in_channels"], *args["image_size"], device=device)
    images = images.to(memory_format=torch.channels_last)
    network.to(memory_format=torch.channels_last)
    expected = (2, args["num_classes"])
    for training in (False, True):
        try:
            with torch.no_grad():
                found = network.train(training)(images)
        except Exception as error:
            raise NetworkError(f"{args['architecture']} does not run: {line_of(error)}") from error
        finally:
            network.eval()
        if not isinstance(found, Tensor) or tuple(found.shape) != expected:
            what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            mode = " in training" if training else ""
            raise NetworkError(
                f"{args['architecture']} should give logits {list(expected)} of two images, "
                f"{mode and 'in training '}it gives {what}"
            )


def source_digest(name: str) -> str | None:
    """Digest of the user's file that an architecture's name means; None where there is none."""
    file, colon, _ = name.rpartition(":")
    if not (colon and file.endswith(".py")) or name.startswith(TORCHVISION):
        return None
    return sha256(Path(file).read_bytes())


# --- where constructors come from -----------------------------------------------------------------


def _of_class(kind: Callable[..., nn.Module]) -> Constructor:
    takes = _parameters(kind)
    defaults = {k: p.default for k, p in takes.items() if _is_plain(p.default)}
    return Constructor(kind, takes, defaults)


def _of_torchvision(name: str) -> Constructor:
    from torchvision import models

    names = models.list_models(module=models)
    kind = getattr(models, name, None)
    if isinstance(kind, type) and issubclass(kind, nn.Module):
        return _of_class(kind)._replace(from_torchvision=True)
    if name not in names:
        text = f"torchvision has no classifier {name!r}{_hint(name, names)}"
        raise NetworkError(text, "architecture")
    make = models.get_model_builder(name)
    own = {k: p for k, p in _parameters(make).items() if k not in ("weights", "progress")}
    free = {  # what the builder leaves to its caller: all else of the class it sets itself
        k: p
        for k, p in _parameters(typing.get_type_hints(make).get("return")).items()
        if k in FACTS or p.default is not inspect.Parameter.empty
    }
    return Constructor(make, {**free, **own}, {}, from_torchvision=True)


def _parameters(make: Any) -> dict[str, inspect.Parameter]:
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = inspect.signature(make).parameters
    return {name: p for name, p in found.items() if p.kind not in variable}


def _class_in(file: str, name: str) -> type[nn.Module]:
    path = Path(file)
    if not path.is_file():
        raise NetworkError(
            f"there is no file {file}; paths are seen from where main.py is run", "architecture"
        )
    try:
        module = _module(path.resolve(), path.stat().st_mtime_ns)
    except (Exception, SystemExit) as error:
        raise NetworkError(
            f"{file} cannot be imported: {line_of(error)}", "architecture"
        ) from error
    kind = getattr(module, name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        kinds = [
            n
            for n, value in vars(module).items()
            if isinstance(value, type)
            and issubclass(value, nn.Module)
            and value.__module__ == module.__name__
        ]
        raise NetworkError(
            f"{file} has no nn.Module {name!r}; it has {', '.join(kinds) or 'none'}", "architecture"
        )
    return kind


@functools.cache
def _module(path: Path, changed: int) -> ModuleType:
    """The module in a user's file, imported once in each version; it may import its neighbours."""
    name = f"{path.stem}_{sha256(path.read_bytes())[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


# --- torchvision's networks on other images -------------------------------------------------------


def _fit_stem(network: nn.Module, args: Mapping[str, Any]) -> None:
    """The first convolution for the data's channels, and for small images without its strides.

    Of a ResNet as for CIFAR: 3×3 in the place of 7×7, and no max pooling after it.
    """
    name, first = next((name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d))
    small = args.get("stem") == "small"
    if small and first.stride == first.kernel_size:
        raise NetworkError(
            f"'small' is not for {args['architecture']}, which cuts images in patches", "stem"
        )
    if args["in_channels"] == first.in_channels and not small:
        return
    kernel, stride, padding = first.kernel_size, first.stride, first.padding
    if small:
        kernel, stride, padding = (3, 3), (1, 1), (1, 1)
    new = nn.Conv2d(
        args["in_channels"],
        first.out_channels,
        kernel,  # type: ignore[arg-type]
        stride,  # type: ignore[arg-type]
        padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    owner, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(owner), leaf, new)
    if small and isinstance(getattr(network, "maxpool", None), nn.MaxPool2d):
        network.maxpool = nn.Identity()


def _size(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    return isinstance(value, PLAIN)


def _hint(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, known, 3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def line_of(error: BaseException) -> str:
    """What an error of others says, in one line."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__
