"""int8 inference against float and against other runtimes, on three networks.

Run: python -m benchmarks.inference            (about 25 min on 2 cores)
     python -m benchmarks.inference --quick    (reference network, 2 threads: under 3 min)

Peers need: pip install onnx onnxscript onnxruntime openvino nncf. Networks have random weights and
batch norm statistics from the calibration images (scikit-learn's Digits, enlarged): that makes no
difference to speed. Every variant's logits are compared with fp32 eager's before it is timed.
All variants of one network, batch size and number of threads are timed in turn, each number of
threads in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.engines import (
    ONNX_INT8,
    OPENVINO_INT8,
    OURS,
    VARIANTS,
    Engine,
    Subject,
    Variant,
    quiet,
)
from config import DEFAULT_MODEL_PARAMS
from dataset import DataLoaders
from machine.environment import environment
from machine.files import write_json
from machine.timing import latencies
from methods import costs
from model import HybridCNNTransformer
from stages.pruning import PruneSpec, prune
from stages.stage import Context
from stages.state import build, state_of

HOME = Path(__file__).parents[1]

REFERENCE, DEFAULT, PRUNED = "reference", "default", "pruned"
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
}
NETWORKS = tuple(ARGS)
BATCHES, THREADS = (1, 8, 64), (1, 2)
CALIBRATION, CHECKED = 256, 64  # images
SEED = 0
SECONDS = {True: 0.8, False: 1.5}  # of timing a variant, quick or not
BLOCK, REST = 0.02, 0.012  # seconds; libgomp's idle threads wait actively for 5 ms
PEERS = ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf")
NEEDS = {"ONNX Runtime": ("onnx", "onnxscript", "onnxruntime"), "OpenVINO": ("openvino", "nncf")}


def digits(count: int) -> Tensor:
    """Digits as `[count, 3, 32, 32]`, normalised, in an order that never changes."""
    images = torch.from_numpy(load_digits().images[:count]).float()[:, None] / 16
    images = F.interpolate(images, size=(32, 32), mode="bilinear").expand(-1, 3, -1, -1)
    return ((images - images.mean()) / images.std()).contiguous()


class _WithoutData(Context):
    def __init__(self) -> None:
        super().__init__(None, torch.device("cpu"), SEED, say=lambda text: None)  # type: ignore[arg-type]

    def loaders(self, *args: Any, **options: Any) -> Any:
        return DataLoaders([], [], [], [])  # type: ignore[arg-type]


def network(name: str, images: Tensor) -> HybridCNNTransformer:
    """One of NETWORKS in eval mode; batch norms have the statistics of `images`."""
    torch.manual_seed(SEED)
    model = HybridCNNTransformer(**ARGS[name])
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
    """How far logits are from `expected`, relative to how far those are from their mean."""
    found = torch.cat(
        [
            torch.as_tensor(engine.run(engine.place(part))).float().clone()
            for part in images.split(batch)
        ]
    )
    return float((found - expected).norm() / (expected - expected.mean(0)).norm())


def missing(name: str) -> str | None:
    """The packages that a variant lacks, as a reason not to run it; None where it has all."""
    needed = next((packages for key, packages in NEEDS.items() if name.startswith(key)), ())
    lacking = [package for package in needed if importlib.util.find_spec(package) is None]
    return f"not installed: pip install {' '.join(lacking)}" if lacking else None


def prepared(
    name: str, variant: Variant, subject: Subject, batch: int, images: Tensor, expected: Tensor
) -> tuple[Engine | None, dict[str, Any]]:
    """The engine, unless it is missing or wrong, and what is known of it."""
    reason = missing(name)
    if reason:
        return None, {"skipped": reason}
    with quiet():
        engine = variant.make(subject, batch)
        off = error(engine, images, expected, batch)
    if not off <= variant.tolerance:
        return None, {"error": off, "skipped": f"wrong: logits are off by {off:.1%}"}
    return engine, {"error": off}


def measured(subject: Subject, name: str, batch: int, seconds: float) -> list[dict[str, Any]]:
    """A row a variant: every engine's logits checked, then all timed in turn."""
    images = digits(CALIBRATION + CHECKED)[CALIBRATION:]
    rows, calls, timed = [], [], []
    with torch.inference_mode():
        expected = subject.model(images)
        for variant_name, variant in VARIANTS.items():
            engine, row = prepared(variant_name, variant, subject, batch, images, expected)
            key = {"network": name, "batch": batch, "threads": subject.threads}
            rows.append({**key, "variant": variant_name, **row})
            if engine is not None:
                placed = engine.place(images[:batch].clone())
                calls.append(lambda _, engine=engine, placed=placed: engine.run(placed))
                timed.append(rows[-1])
    loads = [os.getloadavg()[0]]
    times = latencies(calls, images, seconds=seconds, block=BLOCK, rest=REST)
    loads.append(os.getloadavg()[0])
    for row, time in zip(timed, times, strict=True):
        row |= {name: time[name] for name in ("median", "p95", "runs")}
        row |= {"load_average": loads}
    return rows


def work(options: argparse.Namespace, threads: int) -> None:
    """All networks and batch sizes with this process's number of threads, to `options.output`."""
    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            calibration = digits(CALIBRATION)
            model = network(name, calibration)
            subject = Subject(model, calibration, Path(folder), threads)
            macs, params = costs.count_macs(model)[0], sum(p.numel() for p in model.parameters())
            print(
                f"{name}: {macs / 1e6:.1f} M MACs, {params / 1e6:.3f} M parameters, "
                f"CNN {model.model_args['cnn_channels']}, {threads} thread(s)",
                flush=True,
            )
            for batch in options.batches:
                found = measured(subject, name, batch, SECONDS[options.quick])
                rows += [{**row, "macs": macs, "params": params} for row in found]
                print_table(found)
    write_json(options.output, {"environment": described(), "rows": rows})


def described() -> dict[str, Any]:
    """Machine, versions and threads."""
    installed = {name: metadata.version(name) for name in PEERS if importlib.util.find_spec(name)}
    return {**environment(torch.device("cpu")), **installed}


def ratio(rows: list[dict[str, Any]], batch: int, others: tuple[str, ...]) -> float | None:
    """The fastest of `others` over ours, for the reference network on most threads; above 1: ours.

    None where one side was not timed.
    """
    times = {
        row["variant"]: row["median"]
        for row in rows
        if row["network"] == REFERENCE
        and row["batch"] == batch
        and row["threads"] == max(r["threads"] for r in rows)
        and "median" in row
    }
    theirs = [times[name] for name in others if name in times]
    return round(min(theirs) / times[OURS], 3) if theirs and OURS in times else None


def summary(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """The last line."""
    return {
        "vs_fp32_eager_b64": ratio(rows, 64, ("fp32 eager",)),
        "vs_onnxruntime_int8_b64": ratio(rows, 64, (ONNX_INT8,)),
        "vs_openvino_int8_b64": ratio(rows, 64, OPENVINO_INT8),
        "vs_openvino_int8_b1": ratio(rows, 1, OPENVINO_INT8),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """One network, batch size and number of threads."""
    head = f"{rows[0]['network']}, batch {rows[0]['batch']}, {rows[0]['threads']} thread(s)"
    base = next((row["median"] for row in rows if "median" in row), None)
    print(f"\n| {head} | median ms | p95 ms | × fp32 eager | logits off |\n|---|---|---|---|---|")
    for row in rows:
        if "median" not in row:
            print(f"| {row['variant']} | {row['skipped']} | | | |")
            continue
        print(
            f"| {row['variant']} | {row['median']:.3f} | {row['p95']:.3f} | "
            f"{base / row['median']:.2f} | {row['error']:.1e} |"
        )
    print(flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="reference, 2 threads, batch 1, 64")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS)
    parser.add_argument("--batches", nargs="+", type=int)
    parser.add_argument("--threads", nargs="+", type=int)
    parser.add_argument("--output", type=Path, default=HOME / "results/benchmark_inference.json")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.networks = options.networks or (NETWORKS[:1] if options.quick else NETWORKS)
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
    result = summary(rows)
    settings = {"seed": SEED, "seconds": SECONDS[options.quick], "block": BLOCK, "rest": REST}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        options.output,
        {"environment": environments, "settings": settings, "rows": rows, "summary": result},
    )
    print(json.dumps(environments))
    print(f"written to {options.output}")
    print(json.dumps(result))
    if any(row.get("skipped", "").startswith("wrong") for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
