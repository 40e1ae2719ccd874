"""Every engine against every other, and against peers' own int8, on our networks and two others.

Run: python -m benchmarks.inference            (about 40 min on 2 cores)
     python -m benchmarks.inference --quick    (default network, 2 threads: about 3 min)

The peers are ONNX Runtime's own quantizer and NNCF with OpenVINO: pip install nncf. Networks have
random weights and batch norm statistics from the calibration images (scikit-learn's Digits,
enlarged): that makes no difference to speed. Every variant's logits are compared with the float
network's before it is timed. All variants of one network, batch size and number of threads are
timed in turn, each number of threads in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.engines import FORMS, PEERS, TODAY, VARIANTS, Engine, Subject, Variant, quiet
from config import DEFAULT_MODEL_PARAMS
from dataset import DataLoaders
from engines import ENGINES
from engines.program import EngineError
from machine.environment import environment
from machine.files import write_json
from machine.processor import bf16_is_fast
from machine.timing import latencies
from methods import costs
from model import Network, build_network, resolved_args
from stages.pruning import PruneSpec, prune
from stages.stage import Context
from stages.state import build, state_of

HOME = Path(__file__).parents[1]
Rows = list[dict[str, Any]]

REFERENCE, DEFAULT, PRUNED, EXITS = "reference", "default", "pruned", "exits"
RESNET, MOBILENET = "torchvision:resnet18", "torchvision:mobilenet_v3_small"
# Relative error up to which int8 of a network that was never trained is timed: all toolkits' int8
# is alike there, and its speed hangs on no weight.
UNTRAINED = {MOBILENET: 0.6}
ARGS: dict[str, dict[str, Any]] = {
    # 1.51 M parameters, 115 M MACs
    REFERENCE: {
        "cnn_channels": [64, 128, 256],
        "cnn_pools": [2, 2, 1],
        "embed_dim": 256,
        "ffn_dim": 512,
    },
    DEFAULT: DEFAULT_MODEL_PARAMS,
    PRUNED: DEFAULT_MODEL_PARAMS,
    EXITS: {**DEFAULT_MODEL_PARAMS, "exits": ["cnn", "layer_0"]},
    RESNET: {"architecture": RESNET, "image_size": 224},
    MOBILENET: {"architecture": MOBILENET, "image_size": 224},
}
NETWORKS = tuple(ARGS)
BATCHES, THREADS = (1, 8, 64), (1, 2)
CALIBRATION, CHECKED = 256, 64  # images of 32×32
LARGE = 32  # images of 224×224 to calibrate and to check with
SEED = 0
SECONDS = {True: 0.8, False: 1.5}  # of timing a variant, quick or not
BLOCK, REST = 0.02, 0.012  # seconds; libgomp's idle threads wait actively for 5 ms
PACKAGES = ("onnx", "onnxruntime", "openvino", "nncf")
TIES = 0.97  # of the best peer's speed: as fast as it


def digits(count: int, side: int = 32) -> Tensor:
    """Digits as `[count, 3, side, side]`, normalised, in an order that never changes."""
    images = torch.from_numpy(load_digits().images[:count]).float()[:, None] / 16
    images = F.interpolate(images, size=(side, side), mode="bilinear").expand(-1, 3, -1, -1)
    return ((images - images.mean()) / images.std()).contiguous()


def images_for(name: str) -> tuple[Tensor, Tensor]:
    """Those that a network is calibrated on, and those that its logits are compared on."""
    side = ARGS[name].get("image_size", 32)
    counts = (CALIBRATION, CHECKED) if side == 32 else (LARGE, LARGE)
    calibration, checked = digits(sum(counts), side).split(counts)
    return calibration, checked


class _WithoutData(Context):
    def __init__(self) -> None:
        super().__init__(None, torch.device("cpu"), SEED, say=lambda text: None)  # type: ignore[arg-type]

    def loaders(self, *args: Any, **options: Any) -> Any:
        return DataLoaders([], [], [], [])  # type: ignore[arg-type]


def network(name: str, images: Tensor) -> Network:
    """One of NETWORKS in eval mode; batch norms have the statistics of `images`."""
    torch.manual_seed(SEED)
    model = build_network(resolved_args(ARGS[name]))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches
    with torch.no_grad():
        model.train()(images)
    if name == PRUNED:
        spec = PruneSpec(mode="structural", keep={"macs": 0.5}, scope="global", round_to=16)
        model = build(prune(state_of(model), spec, _WithoutData()))  # criterion l1 needs none
    return model.eval()


def error(engine: Engine, images: Tensor, expected: Tensor, batch: int) -> float:
    """How far logits are from `expected`, relative to how far those are from their mean.

    On images of more than 32 pixels it is relative to the logits: the networks for these have
    random weights, which tell images of digits apart by less than int8 rounds, peers' as well.
    """
    found = torch.cat(
        [
            torch.as_tensor(engine.run(engine.place(part))).float().clone()
            for part in images.split(batch)
        ]
    )
    mean = expected.mean(0) if images.shape[-1] <= 32 else 0
    return float((found - expected).norm() / (expected - mean).norm())


def missing(name: str, subject: Subject) -> str | None:
    """Why a variant cannot be run; None where it can."""
    if name in PEERS:
        needed = "nncf" if "NNCF" in name else "onnxruntime"
        lacks = importlib.util.find_spec(needed) is None
        return f"not installed: pip install {needed}" if lacks else None
    kind, _, engine = name.partition(", ")
    if kind == "bf16" and not bf16_is_fast("cpu"):
        return "this processor would only emulate it"
    deployed = getattr(subject, FORMS[kind][0])
    unfit = (ENGINES[engine].unfit(program) for program in deployed.programs)
    return ENGINES[engine].unavailable() or next(filter(None, unfit), None)


def prepared(
    name: str, variant: Variant, subject: Subject, batch: int, images: Tensor, expected: Tensor
) -> tuple[Engine | None, dict[str, Any]]:
    """The engine, unless it is missing or wrong, and what is known of it."""
    reason = missing(name, subject)
    if reason:
        return None, {"skipped": reason}
    started = time.perf_counter()
    try:
        with quiet():
            engine = variant.make(subject, batch)
            engine.run(engine.place(images[:batch]))
    except EngineError as refused:
        return None, {"skipped": str(refused)}
    seconds = time.perf_counter() - started
    with quiet():
        off = error(engine, images, expected, batch)
    about = {"error": off, "ready_seconds": seconds}
    args = subject.model.model_args
    untrained = UNTRAINED.get(args.get("architecture"), 0.0) if images.shape[-1] > 32 else 0.0
    tolerance = max(variant.tolerance, untrained)
    if not off <= tolerance and not args["exits"]:
        return None, {**about, "skipped": f"wrong: logits are off by {off:.1%}"}
    return engine, about


Made = tuple[dict[str, Any], Engine | None]  # a row, and what is timed for it


def checked(subject: Subject, name: str, batch: int, images: Tensor) -> list[Made]:
    """A row a variant, every engine's logits compared with float's on `images`; None: not timed."""
    key = {"network": name, "batch": batch, "threads": subject.threads}
    made = []
    with torch.inference_mode():
        expected = subject.plain(images)
        for variant_name, variant in VARIANTS.items():
            engine, row = prepared(variant_name, variant, subject, batch, images, expected)
            made.append(({**key, "variant": variant_name, **row}, engine))
    return made


def timed(made: list[Made], subject: Subject, batch: int, images: Tensor, seconds: float) -> Rows:
    """The rows, all variants timed in turn on `images`.

    Of a network that is left early a batch of 1 is the mean over images.
    """
    pairs = [(row, engine) for row, engine in made if engine is not None]
    calls = [_call(engine, images, batch, subject) for _, engine in pairs]
    count = len(images) if subject.model.model_args["exits"] and batch == 1 else 1
    loads = [os.getloadavg()[0]]
    times = latencies(calls, images, seconds=seconds, block=BLOCK, rest=REST)
    loads.append(os.getloadavg()[0])
    for (row, _), time_ in zip(pairs, times, strict=True):
        row |= {what: time_[what] / count for what in ("median", "p95", "p99")}
        row |= {"runs": time_["runs"], "load_average": loads}
    return [row for row, _ in made]


def _call(engine: Engine, images: Tensor, batch: int, subject: Subject) -> Any:
    """What is timed: a batch, or every image one by one where each takes its own time."""
    singly = batch == 1 and subject.model.model_args["exits"]
    placed = [engine.place(part.clone()) for part in images.split(batch)][: None if singly else 1]

    def call(_: Tensor) -> None:
        for each in placed:
            engine.run(each)

    return call


def work(options: argparse.Namespace, threads: int) -> None:
    """All networks and batch sizes with this process's number of threads, to `options.output`."""
    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            calibration = images_for(name)[0]
            model = network(name, calibration)
            subject = Subject(model, calibration, Path(folder), threads)
            macs = costs.count_macs(subject.plain)[0]
            params = sum(p.numel() for p in model.parameters())
            print(
                f"{name}: {macs / 1e6:.1f} M MACs, {params / 1e6:.3f} M parameters, "
                f"{_widths(model)}{threads} thread(s)",
                flush=True,
            )
            for batch in options.batches:
                images = images_for(name)[1]
                made = checked(subject, name, batch, images)
                found = timed(made, subject, batch, images, SECONDS[options.quick])
                rows += [{**row, "macs": macs, "params": params} for row in found]
                print_table(found)
    write_json(options.output, {"environment": described(), "rows": rows})


def _widths(model: Network) -> str:
    """What pruning may have changed of a network of ours."""
    channels = model.model_args.get("cnn_channels")
    return "" if channels is None else f"CNN {channels}, "


def described() -> dict[str, Any]:
    """Machine, versions and threads."""
    there = [name for name in PACKAGES if importlib.util.find_spec(name)]
    return {**environment(torch.device("cpu")), **{n: metadata.version(n) for n in there}}


def cells(rows: Rows) -> Rows:
    """Network, batch size and threads: our fastest int8, the fastest peer, and what Inductor takes.

    'float' is the fastest network without int8, in float32 or bfloat16; 'ready_seconds' is what it
    took to make our fastest one ready.
    """
    found = []
    for key in dict.fromkeys((row["network"], row["batch"], row["threads"]) for row in rows):
        timed = {
            row["variant"]: row
            for row in rows
            if (row["network"], row["batch"], row["threads"]) == key and "median" in row
        }
        mine = {name: row["median"] for name, row in timed.items() if name.startswith("int8 ours")}
        theirs = {name: row["median"] for name, row in timed.items() if name in PEERS}
        floats = {name: row["median"] for name, row in timed.items() if not name.startswith("int8")}
        if not mine or not theirs:
            continue
        best, peer = (min(each, key=each.__getitem__) for each in (mine, theirs))
        plain = min(floats, key=floats.__getitem__, default=None)
        found.append(
            {
                "network": key[0],
                "batch": key[1],
                "threads": key[2],
                "ours": best,
                "peer": peer,
                "float": plain,
                "vs_peer": theirs[peer] / mine[best],
                "vs_float": floats[plain] / mine[best] if plain else None,
                "vs_today": timed[TODAY]["median"] / mine[best] if TODAY in timed else None,
                "ready_seconds": timed[best].get("ready_seconds"),
            }
        )
    return found


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The last line: over all cells; `vs_today_b1` is that of the default network."""
    today = [
        cell["vs_today"]
        for cell in found
        if cell["network"] == DEFAULT and cell["batch"] == 1 and cell["vs_today"]
    ]
    ratios = [cell["vs_peer"] for cell in found]
    return {
        "cells": len(found),
        "vs_best_peer_min": round(min(ratios), 3) if ratios else None,
        "vs_best_peer_median": round(statistics.median(ratios), 3) if ratios else None,
        "vs_today_b1": round(statistics.median(today), 3) if today else None,
        "ready_seconds_median": (
            round(statistics.median(cell["ready_seconds"] for cell in found), 2) if found else None
        ),
    }


def print_cells(found: list[dict[str, Any]]) -> None:
    """Who is the fastest where; what is lost to a peer is marked."""
    print("\n| network | batch | threads | ours | vs peer | vs float | vs Inductor alone |")
    print("|---|---|---|---|---|---|---|")
    for cell in found:
        mark = "" if cell["vs_peer"] >= TIES else f" (lost to {cell['peer']})"
        today = f"{cell['vs_today']:.2f}" if cell["vs_today"] else "–"
        print(
            f"| {cell['network']} | {cell['batch']} | {cell['threads']} | {cell['ours']} | "
            f"{cell['vs_peer']:.2f}{mark} | {cell['vs_float']:.2f} over {cell['float']} | {today} |"
        )


def print_table(rows: list[dict[str, Any]]) -> None:
    """One network, batch size and number of threads."""
    head = f"{rows[0]['network']}, batch {rows[0]['batch']}, {rows[0]['threads']} thread(s)"
    base = next((row["median"] for row in rows if "median" in row), None)
    print(f"\n| {head} | median ms | p99 ms | × float, eager | logits off | ready s |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        if "median" not in row:
            print(f"| {row['variant']} | {row['skipped']} | | | | |")
            continue
        print(
            f"| {row['variant']} | {row['median']:.3f} | {row['p99']:.3f} | "
            f"{base / row['median']:.2f} | {row['error']:.1e} | {row['ready_seconds']:.2f} |"
        )
    print(flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="default network, 2 threads, batch 1, 64"
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS)
    parser.add_argument("--batches", nargs="+", type=int)
    parser.add_argument("--threads", nargs="+", type=int)
    parser.add_argument("--output", type=Path, default=HOME / "results/benchmark_inference.json")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.networks = options.networks or ((DEFAULT,) if options.quick else NETWORKS)
    options.batches = options.batches or ((1, 64) if options.quick else BATCHES)
    options.threads = options.threads or (THREADS[-1:] if options.quick else THREADS)
    return options


def main() -> None:
    options = parsed()
    if options.worker:
        work(options, options.worker)
        return
    rows: list[dict[str, Any]] = []
    environments = {}
    with tempfile.TemporaryDirectory() as folder:
        for threads in options.threads:
            output = Path(folder) / f"{threads}.json"
            command = [sys.executable, "-m", "benchmarks.inference", *sys.argv[1:]]
            command += ["--worker", str(threads), "--output", str(output)]
            limits = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL")}
            subprocess.run(command, env=os.environ | limits, check=True)
            part = json.loads(output.read_text())
            rows += part["rows"]
            environments = part["environment"]
    del environments["threads"]
    found = cells(rows)
    result = summary(found)
    settings = {"seed": SEED, "seconds": SECONDS[options.quick], "block": BLOCK, "rest": REST}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        options.output,
        {
            "environment": environments,
            "settings": settings,
            "rows": rows,
            "cells": found,
            "summary": result,
        },
    )
    print_cells(found)
    print(json.dumps(environments))
    print(f"written to {options.output}")
    print(json.dumps(result))
    if any(row.get("skipped", "").startswith("wrong") for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
