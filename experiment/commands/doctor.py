"""`python main.py doctor`: what this machine and installation have, and what to do about the rest.

Imports torch and the project only after it has found that they can be imported.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from machine.compiler import missing, trial
from machine.installation import Diagnosis, installed, packages, python

if TYPE_CHECKING:
    from experiment.suite.records import Suite


OF_TORCH = ("eager", "inductor")  # engines; the others are packages of the same name
OPTIONAL = {"ray": "--executor ray", "tensorboard": "--tensorboard"}
MARKS = {"ok": "ok  ", "note": "note", "bad": "BAD "}
LEAST_FREE = 1e9  # free bytes below which a disk is called nearly full


def doctor_command(arguments: list[str], console: object = None) -> int:
    """Run the subcommand; returns the exit code: 1 where something must be mended.

    Prints by itself: what the console prints with may be missing.
    """
    args = _parser().parse_args(arguments)
    bad = 0
    try:
        for finding in _findings(args.config):
            bad += finding.mark == "bad"
            print(f"{MARKS[finding.mark]}  {finding.subject:14} {finding.text}", flush=True)
            if finding.remedy:
                print(f"{'':21}→ {finding.remedy}", flush=True)
        ready = "ready: python main.py --config configs/quickstart.py"
        print(f"{bad} to be mended" if bad else ready, flush=True)
    except BrokenPipeError:  # as `| head` leaves it; what Python flushes at its end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 1 if bad else 0


def _findings(config: str) -> Iterator[Diagnosis]:
    yield python()
    found = packages()
    yield from found
    if any(finding.mark == "bad" for finding in found):
        yield Diagnosis("note", "machine, suite", "not looked at while packages are missing")
        yield folder("this folder", Path.cwd())
        return
    yield _optional()
    yield from _machine()
    yield from engines()
    yield backends()
    yield from _suite(config)


def _optional() -> Diagnosis:
    there = [f"{name} {version}" for name in OPTIONAL if (version := installed(name))]
    lacking = [f"{name} (for {use})" for name, use in OPTIONAL.items() if not installed(name)]
    text = f"{', '.join(there) or 'none'}"
    return Diagnosis("ok", "optional", text + (f"; not: {', '.join(lacking)}" if lacking else ""))


def _machine() -> Iterator[Diagnosis]:
    """Processor, memory, GPUs and compiler."""
    import torch

    from machine.processor import bf16_is_fast, cpu_model, int8_saturates, isa
    from machine.waiting import way_of_waiting

    flags = isa()
    text = f"{cpu_model()}, {torch.get_num_threads()} threads of {os.cpu_count()} processors "
    text += f"({way_of_waiting()}); "
    text += " ".join(flags) or "none of the int8 and bf16 instructions"
    text += f"; trains in {'bf16' if bf16_is_fast('cpu') else 'fp32'}"
    if int8_saturates():
        yield Diagnosis("note", "processor", f"{text}; no VNNI: int8 gains less, in 7 bits")
    else:
        yield Diagnosis("ok", "processor", text)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Diagnosis("ok", "memory", f"{memory / 1e9:.1f} GB")
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        yield Diagnosis("ok", f"cuda:{number}", f"{about.name}, {about.total_memory / 1e9:.0f} GB")
    if torch.cuda.device_count() == 0:
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        if shutil.which("nvidia-smi"):
            text = f"torch ({build}) sees none, though nvidia-smi is here"
            remedy = "a newer driver, or torch and torchvision for your CUDA version (README)"
            yield Diagnosis("note", "GPU", text, remedy)
        else:
            yield Diagnosis("ok", "GPU", f"none; torch ({build}) runs on the processor")
    yield compiler()


def compiler() -> Diagnosis:
    """Whether a C++ compiler makes programs that run, with OpenMP, as Inductor needs it."""
    reason = missing()
    works, text = trial() if reason is None else (False, f"engine 'inductor' {reason}")
    if works:
        return Diagnosis("ok", "compiler", text)
    return Diagnosis("note", "compiler", text, "install g++ with OpenMP; other engines need none")


def engines() -> Iterator[Diagnosis]:
    """What runs networks here, and what does not and why."""
    from engines import ENGINES

    lacking = {name: engine.unavailable() for name, engine in ENGINES.items()}
    there = [name for name, why in lacking.items() if why is None]
    versions = {name: f"torch {installed('torch')}" for name in OF_TORCH}
    text = ", ".join(f"{name} ({versions.get(name) or installed(name)})" for name in there)
    yield Diagnosis("ok", "engines", text)
    for name, why in lacking.items():
        if why is not None:
            yield Diagnosis("note", "engines", f"{name} {why}")


def backends() -> Diagnosis:
    """Which backends of quantization this build of torch has."""
    from methods.quantization.backends import BACKENDS, unavailable

    lacking = {name: unavailable(name) for name in BACKENDS}
    text = ", ".join(name for name, why in lacking.items() if why is None)
    lost = [f"{name} {why}" for name, why in lacking.items() if why is not None]
    return Diagnosis("note" if lost else "ok", "backends", "; ".join([text, *lost]))


def _suite(config: str) -> Iterator[Diagnosis]:
    """The suite, its data sets and its folders."""
    from experiment.suite.messages import ConfigError
    from experiment.suite.schema import load_suite

    try:
        suite = load_suite(config)
    except ConfigError as error:
        for problem in error.problems:
            yield Diagnosis("bad", "suite", problem)
        return
    yield Diagnosis("ok", "suite", f"{config}: {len(suite.experiments)} experiments, no mistakes")
    yield from _data(suite)
    yield folder("DATA_DIR", suite.data_dir)
    yield folder("MODEL_SAVE_DIR", suite.model_dir)
    yield folder("RESULTS_DIR", suite.results_dir)


def _data(suite: Suite) -> Iterator[Diagnosis]:
    from data_sets.cifar import ARCHIVES

    for info in {e.dataset_args: e.data for e in suite.experiments}.values():
        shape = "×".join(map(str, (info.in_channels, *info.image_size)))
        text = f"{info.name}, {len(info.classes)} classes, {shape}"
        archive = ARCHIVES.get(info.name)
        if archive is None or (suite.data_dir / archive.file).exists():
            yield Diagnosis("ok", "data", f"{text}: found")
            continue
        yield Diagnosis(
            "note",
            "data",
            f"{text}: {archive.file} is not in {suite.data_dir}/; the first run downloads it",
            "offline, put it there, or run --config configs/quickstart.py, which needs none",
        )


def folder(name: str, path: Path) -> Diagnosis:
    """Whether a folder, there already or not, can be written, and how much room it has."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        return Diagnosis("bad", name, f"{path} cannot be written ({error.strerror})", "use another")
    text = f"{path} can be written, {free / 1e9:.1f} GB free"
    if free < LEAST_FREE:
        return Diagnosis("note", name, text, "make room, or name a folder on another disk")
    return Diagnosis("ok", name, text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        print(f"command line: {message}; see python main.py doctor --help", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python main.py doctor",
        description="What this machine and installation have, and what to do about the rest.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", default="config.py", metavar="FILE", help="the suite")
    return parser
