"""Accuracy and seconds an epoch of a peer's own code and recipe, and of ours, after equal epochs.

Run: python -m benchmarks.equal_epochs --peer CHECKOUT --root FOLDER --json FILE
         [--images 20000] [--epochs 15] [--seed 0 1 2] [--sides cct hybrid muon] [--threads 1]

CHECKOUT is of SHI-Labs/Compact-Transformers. Its examples/main.py trains CCT-2/3x2 by the command
that its README has for CPUs: AdamW at 5e-4, five epochs of warm-up and a cosine, AutoAugment, crop
and flip. hybrid is the default network as in configs/cifar10_folder.py, muon that of
configs/cifar10_muon.py. FOLDER has train/<class>/... and test/<class>/... of 10 classes. All are
trained on the same images in the same pixels, which are decoded before the clock starts, and judged
on the test images after the last epoch. Each run is a process of its own, and stands in FILE as
soon as it is done; what stands there is not run again. Only training is timed, not evaluation.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor

from dataset import Dataset, load_dataset
from experiment.suite.schema import load_suite
from machine.environment import environment
from machine.files import write_json
from stages import fitting
from stages.deployment import deploy
from stages.finetuning import TrainSpec, train
from stages.stage import Context
from stages.state import initial_state
from train_eval import evaluate, train_one_epoch

HOME = Path(__file__).parents[1]
CONFIGS = {"hybrid": "cifar10_folder.py", "muon": "cifar10_muon.py"}
PEER = ["--dataset", "cifar10", "--model", "cct_2", "--conv-size", "3", "--conv-layers", "2"]
VALIDATION_SHARE = 0.2  # of the training images; no side trains on them
SAME = ("side", "seed", "images", "epochs", "threads")  # what makes two runs the same


class Clock:
    """Seconds of every call of the functions that it is put around, by the wall and of the CPU."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            found = function(*args, **options)
            self.wall.append(time.perf_counter() - wall)
            self.cpu.append(time.process_time() - cpu)
            return found

        return timed

    def seconds(self) -> dict[str, list[float]]:
        return {
            "wall_seconds": [round(each, 3) for each in self.wall],
            "cpu_seconds": [round(each, 3) for each in self.cpu],
        }


def data_of(root: str, images: int, side: str = "hybrid") -> tuple[Any, Dataset]:
    """The experiment of `side`, and the images that all sides train on and are judged by."""
    overrides = [
        f"dataset_args.root={root}",
        f"dataset_args.validation_share={VALIDATION_SHARE}",
        f"dataset_args.train_images={images}",
    ]
    suite = load_suite(HOME / "configs" / CONFIGS[side], overrides=overrides)
    experiment = suite.experiments[0]
    return experiment, load_dataset(experiment.dataset_args, suite.data_dir)


def ours(side: str, root: str, images: int, epochs: int, seed: int) -> dict[str, Any]:
    """One training of this project: by `fit`, as the suite's baseline has it."""
    experiment, dataset = data_of(root, images, side)
    spec = experiment.sequence[0][1]
    assert isinstance(spec, TrainSpec)
    clock, device = Clock(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fitting.train_one_epoch = clock.around(train_one_epoch)
    ctx = Context(dataset, device, seed)
    start = initial_state(experiment.model_args, seed)
    trained = train(start, spec.model_copy(update={"epochs": epochs}), ctx)
    network = deploy(trained, device).network
    return {
        "accuracy": evaluate(network, ctx.loaders().test).accuracy,
        "parameters": sum(p.numel() for p in network.parameters()),
        "precision": ctx.details["precision"],
        **clock.seconds(),
    }


class SameImages(torch.utils.data.Dataset[tuple[Any, int]]):
    """The images of `dataset` as torchvision's CIFAR10 has them: PIL images, transformed."""

    def __init__(self, dataset: Dataset, train: bool, transform: Callable[[Any], Tensor]):
        arrays = dataset.arrays
        images, labels = arrays.test_images, arrays.test_labels
        if train:
            images = arrays.train_images[dataset.train_index]
            labels = arrays.train_labels[dataset.train_index]
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()  # [N, H, W, C]
        self.images, self.labels = [Image.fromarray(each) for each in pixels], labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.images[index]), self.labels[index]


def peer(checkout: Path, root: str, images: int, epochs: int, seed: int) -> dict[str, Any]:
    """One training by the peer's own main, on our images in the place of torchvision's CIFAR10."""
    _, dataset = data_of(root, images)
    sys.path[:0] = [str(checkout / "examples"), str(checkout)]  # its `utils` and `src`
    found = importlib.util.spec_from_file_location("peer", checkout / "examples" / "main.py")
    assert found is not None and found.loader is not None
    program: Any = importlib.util.module_from_spec(found)
    found.loader.exec_module(program)
    clock, accuracies, models = Clock(), list[float](), list[torch.nn.Module]()
    validate = program.cls_validate

    def validated(loader: Any, model: torch.nn.Module, *args: Any, **options: Any) -> float:
        models[:] = [model]
        accuracies.append(validate(loader, model, *args, **options))
        return accuracies[-1]

    def same(root: str, train: bool, download: bool, transform: Any) -> SameImages:
        return SameImages(dataset, train, transform)

    program.cls_train, program.cls_validate = clock.around(program.cls_train), validated
    torchvision.datasets.CIFAR10 = same
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        options = ["--epochs", str(epochs), "--workers", "0", "--print-freq", "-1"]
        options += ["--checkpoint-path", f"{folder}/checkpoint.pth", root]
        sys.argv = ["main.py", *PEER, *options]
        program.main()
    return {
        "accuracy": accuracies[-1],
        "parameters": sum(p.numel() for p in models[0].parameters()),
        "precision": "fp32",
        **clock.seconds(),
    }


def run(job: dict[str, Any]) -> dict[str, Any]:
    """One run, in this process."""
    torch.set_num_threads(job["threads"])
    side, rest = job["side"], (job["root"], job["images"], job["epochs"], job["seed"])
    with contextlib.redirect_stdout(sys.stderr):
        found = peer(Path(job["peer"]), *rest) if side == "cct" else ours(side, *rest)
    return {name: job[name] for name in SAME} | found


def run_apart(job: dict[str, Any]) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.equal_epochs", "--job", json.dumps(job)]
    limits = {"OMP_NUM_THREADS": str(job["threads"])}
    done = subprocess.run(
        command, cwd=HOME, env=os.environ | limits, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def summary(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per side the mean accuracy, its deviation over seeds, and the median seconds an epoch."""
    found = {}
    for side in dict.fromkeys(row["side"] for row in runs):
        rows = [row for row in runs if row["side"] == side]
        values = [row["accuracy"] for row in rows]
        wall, cpu = (
            statistics.median(each for row in rows for each in row[f"{kind}_seconds"])
            for kind in ("wall", "cpu")
        )
        found[side] = {
            "accuracy": round(statistics.mean(values), 2),
            "deviation": round(statistics.stdev(values), 2) if len(values) > 1 else None,
            "n": len(values),
            "parameters": rows[0]["parameters"],
            "wall_seconds_an_epoch": round(wall, 2),
            "cpu_seconds_an_epoch": round(cpu, 2),
        }
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", help="a checkout of SHI-Labs/Compact-Transformers")
    parser.add_argument("--root", help="a folder of images, train/ and test/ in it")
    parser.add_argument("--json", type=Path, help="the file of all runs, read and written")
    parser.add_argument("--images", type=int, default=20_000, help="training images")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    sides = ["cct", *CONFIGS]
    parser.add_argument("--sides", nargs="+", choices=sides, default=sides)
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.job:
        print(json.dumps(run(args.job)))
        return
    if not args.root or not args.json:
        parser.error("needs --root and --json")
    if "cct" in args.sides and not (Path(args.peer or "") / "examples" / "main.py").is_file():
        parser.error("side cct needs --peer, a checkout with examples/main.py in it")
    runs = json.loads(args.json.read_text())["runs"] if args.json.exists() else []
    wanted = []
    for seed in args.seed:
        for side in args.sides:
            about = (side, seed, args.images, args.epochs, args.threads)
            job = dict(zip(SAME, about, strict=True))
            wanted.append(job)
            if any(job.items() <= row.items() for row in runs):
                continue
            places = {"root": str(Path(args.root).resolve())}
            if side == "cct":
                places["peer"] = str(Path(args.peer).resolve())
            runs.append(run_apart(job | places))
            machine = environment(torch.device("cpu"))
            write_json(args.json, {"environment": machine, "runs": runs})
            row = runs[-1]
            print(f"seed {seed}  {side:7} {row['accuracy']:6.2f} %", flush=True)
    found = summary([row for row in runs if any(job.items() <= row.items() for job in wanted)])
    print("| side | parameters | accuracy % | wall s an epoch | CPU s an epoch |")
    print("|---|---|---|---|---|")
    for side, row in found.items():
        spread = "" if row["deviation"] is None else f" ± {row['deviation']}"
        accuracy = f"{row['accuracy']}{spread} (n = {row['n']})"
        seconds = f"{row['wall_seconds_an_epoch']} | {row['cpu_seconds_an_epoch']}"
        print(f"| {side} | {row['parameters']} | {accuracy} | {seconds} |")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
