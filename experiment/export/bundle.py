"""A network to take away: a folder that classifies pictures without this project."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiment.export.card import Origin, card
from experiment.export.compare import Expected, FileComparison, Subject, export
from experiment.export.formats import FORMATS
from experiment.running.metrics import FIGURES, LATENCIES, measured, ratio_in_turn

BUNDLE = "a bundle"
SCRIPT = Path(__file__).with_name("classify.py")
NAMES = {  # all that a bundle may hold
    *("network.onnx", "network.xml", "network.bin", "network.pt2"),
    *("classify.py", "labels.txt", "requirements.txt", "README.md"),
}


def _speedup(latency: str) -> str:
    return "speedup" if latency == LATENCIES[0] else latency.replace("latency_ms", "speedup")


FACTS = (  # names that conditions are written with; `facts` has values
    *("accuracy_drop", "latency_ms", *FIGURES),
    *map(_speedup, LATENCIES),
)


class Kind(NamedTuple):
    """How a bundle's network is stored for an engine."""

    format: str  # a key of FORMATS
    package: str  # what runs it
    batch: int | None = None  # where it is fixed


def kind(engine: str, int8: bool) -> Kind:
    """The file of an engine, a key of ENGINES. PyTorch's own modules are no file without their
    code, so that ONNX stands for them."""
    if engine == "openvino":
        return Kind("openvino", "openvino")
    if engine == "inductor":
        return Kind("aoti", "torch", 1)
    return Kind("onnx-int8" if int8 else "onnx", "onnxruntime")


def facts(metrics: dict[str, Any], baseline: dict[str, Any] | None) -> dict[str, float]:
    """What conditions are about: figures on the test split, and those against the float baseline.

    Of the baseline itself (None) the drop is 0.
    """
    found = measured(metrics)
    found["accuracy_drop"] = (baseline or metrics)["accuracy"] - metrics["accuracy"]
    if LATENCIES[0] in found:
        found["latency_ms"] = found[LATENCIES[0]]
    for name in LATENCIES:
        if ratio := ratio_in_turn(metrics, name):
            found[_speedup(name)] = 1 / ratio
    return found


def held(path: Path) -> str | None:
    """What stands in a bundle's place: None for nothing, or in words."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    if not path.is_dir() or not {file.name for file in path.iterdir()} <= NAMES:
        return "something else"
    return BUNDLE


def write_bundle(
    subject: Subject, expected: Expected, engine: str, origin: Origin, path: Path
) -> FileComparison:
    """Write the folder `path` with all that it needs, or nothing; a bundle that is there goes.

    The network's file is compared with the network first. Raises ExportError.
    """
    made = kind(engine, subject.deployed.state.quant is not None)
    if made.batch is not None:
        fixed = {"batch": str(made.batch), "threads": str(torch.get_num_threads())}
        subject = replace(subject, about={**subject.about, **fixed})
    form = FORMATS[made.format]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".bundle-") as folder:
        draft = Path(folder) / "new"
        file = draft / f"network{form.ending}"
        found = export(subject, form, file, made.batch, expected)
        (draft / "classify.py").write_bytes(SCRIPT.read_bytes())
        (draft / "labels.txt").write_text(
            _labels(json.loads(subject.about["classes"])), encoding="utf-8"
        )
        (draft / "requirements.txt").write_text(requirements(made.package))
        text = card(subject, origin, engine, file.name, found)
        (draft / "README.md").write_text(text, encoding="utf-8")
        if path.exists():
            path.rename(Path(folder) / "old")
        draft.rename(path)
    return found


def requirements(runtime: str) -> str:
    """Versions of this machine; a build's own mark, as in 2.14.1+cpu, is not for the registry."""
    versions = {name: metadata.version(name) for name in ("numpy", "pillow", runtime)}
    return "".join(f"{name}=={version.split('+')[0]}\n" for name, version in versions.items())


def _labels(classes: Sequence[str]) -> str:
    """A class a line; what would break a line or is no text stands as \\n or \\udcff."""
    return "".join("".join(map(_plain, name)) + "\n" for name in classes)


def _plain(character: str) -> str:
    breaks = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    return character.encode("unicode_escape").decode() if breaks else character
