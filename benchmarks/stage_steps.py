"""What a training step of every stage costs, against a step of plain training.

Run: python -m benchmarks.stage_steps [--quick] [--device cuda] [--batch N] [--save FILE]
     (about 3 min on 2 idle cores, under 1 min with --quick; on a GPU not run yet, planned for 2)
The default network, images of noise in batches of 128, AdamW, bfloat16 where it is fast. Each stage
runs up to its first step (`qat, ranges frozen`: of its second half), which is taken from it: with
recording and compiling as `fit` has them. Then all are timed in turn. A teacher is the network
itself, so that what it costs is one more forward pass. On a GPU each stands there a second time as
it is with `compile: False`, neither compiled nor recorded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from data_sets.source import Arrays, DataInfo
from dataset import Dataset
from machine.environment import environment
from machine.files import write_json
from stages import fitting
from stages.distillation import DistillSpec, distill
from stages.early_exit import EarlyExitSpec, early_exit
from stages.finetuning import FinetuneSpec, TrainSpec, finetune, train
from stages.pruning import PruneSpec, prune
from stages.qat import QatSpec, qat
from stages.stage import Context
from stages.state import ModelState, initial_state
from train_eval import TrainResult
from training.cuda_graph import TrainingStep

GOAL = 1.5  # times a step of plain training, recorded
WARM_UP = 6  # steps, in which code is compiled and a step recorded
PLAIN, UNRECORDED = "train", ", as it is"
Run = Callable[[ModelState, dict[str, Any], Context], object]


def _masked(state: ModelState, recipe: dict[str, Any], ctx: Context) -> object:
    cut = prune(state, PruneSpec(ratio=0.4), ctx)
    return finetune(cut, FinetuneSpec(**recipe, sparsity=1e-4), ctx)


def _distilled(**options: Any) -> Run:
    options |= {"width": 1.0, "teacher": "current"}
    return lambda state, recipe, ctx: distill(state, DistillSpec(**recipe, **options), ctx)


def _left_early(trunk: Any) -> Run:
    return lambda state, recipe, ctx: early_exit(state, EarlyExitSpec(**recipe, trunk=trunk), ctx)


def _aware(state: ModelState, recipe: dict[str, Any], ctx: Context) -> object:
    return qat(state, QatSpec(**recipe), ctx)


STAGES: dict[str, tuple[Run, int]] = {  # and the epoch of two whose first step is timed
    PLAIN: (lambda state, recipe, ctx: train(state, TrainSpec(**recipe), ctx), 0),
    "finetune, masked, sparsity": (_masked, 0),
    "distill": (_distilled(), 0),
    "distill, features": (_distilled(feature_weight=1.0, attention_weight=1.0), 0),
    "qat, ranges move": (_aware, 0),
    "qat, ranges frozen": (_aware, 1),
    "early_exit, joint": (_left_early("joint"), 0),
    "early_exit, frozen trunk": (_left_early("frozen"), 0),
}


class Caught(Exception):
    """The step that `fit` was about to take."""

    def __init__(self, step: TrainingStep):
        super().__init__()
        self.step = step


class Side:
    """A stage's step, and how long it took."""

    def __init__(self, name: str, state: ModelState, recipe: dict[str, Any], ctx: Context):
        run, wanted = STAGES[name]

        def caught(model: nn.Module, loader: Any, *about: Any, **options: Any) -> TrainResult:
            model.train()
            if options["epoch"] == wanted:
                raise Caught(options["step"])
            options["step"](*next(iter(loader)))  # ranges have to be known
            return TrainResult(1.0, 0.0, 0.0, 0.0)

        with mock.patch.object(fitting, "train_one_epoch", caught):
            try:
                run(state, recipe, ctx)
            except Caught as found:
                self.step = found.step
        self.details = {key: ctx.details[key] for key in ("compiled", "recorded", "precision")}
        self.seconds: list[float] = []

    def run(self, images: Tensor, labels: Tensor, steps: int) -> None:
        wait = torch.cuda.synchronize if images.is_cuda else (lambda: None)
        wait()
        started = time.perf_counter()
        for _ in range(steps):
            self.step(images, labels)
        wait()
        self.seconds.append((time.perf_counter() - started) / steps)


def noise(args: dict[str, Any], batch: int) -> Dataset:
    """Images of noise, three batches of them, and some to validate by."""
    shape = args["in_channels"], *args["image_size"]
    generator = torch.Generator().manual_seed(0)
    many = 3 * batch + 64
    images = torch.randint(0, 256, (many, *shape), dtype=torch.uint8, generator=generator)
    labels = torch.arange(many) % args["num_classes"]
    classes = tuple(str(number) for number in range(args["num_classes"]))
    info = DataInfo("noise", classes, shape[0], shape[1:], "noise")
    arrays = Arrays(images, labels, images[:64], labels[:64])
    index = torch.arange(many)
    spread = [[0.5] * shape[0], [0.25] * shape[0]]
    return Dataset(info, arrays, index[64:], index[:64], *spread, flip=True)


def measured(
    device: torch.device, batch: int, rounds: int, steps: int, model_args: dict[str, Any]
) -> dict[str, Side]:
    """Every side after `rounds` times `steps` steps, in turn."""
    state = initial_state(model_args, 0)
    data = noise(state.model_args, batch)
    ways = {"": "auto", UNRECORDED: False} if device.type == "cuda" else {"": "auto"}
    sides = {}
    for name in STAGES:
        for way, compile in ways.items():
            ctx = Context(data, device, seed=0, say=lambda text: None)
            recipe = {"epochs": 2, "batch_size": batch, "compile": compile}
            sides[name + way] = Side(name, state, recipe, ctx)
    ctx = Context(data, device, seed=0)
    images, labels = next(iter(ctx.loaders(batch_size=batch).calibration))
    torch.backends.cudnn.benchmark = True  # as in `fit`
    for side in sides.values():
        side.run(images, labels, WARM_UP)
        side.seconds.clear()
    for _ in range(rounds):
        for side in sides.values():
            side.run(images, labels, steps)
    return sides


def main(arguments: list[str] | None = None, model_args: dict[str, Any] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="the GPU where there is one")
    parser.add_argument("--batch", type=int, default=128, help="images a step")
    parser.add_argument("--save", help="write all figures to this JSON file")
    args = parser.parse_args(arguments)
    chosen = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.batch < 2:
        parser.error("--batch should be 2 or more")
    if chosen == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU here")
    device = torch.device(chosen)
    rounds, steps = (3 if args.quick else 15), (50 if chosen == "cuda" else 1)
    sides = measured(device, args.batch, rounds, steps, model_args or {})
    print(json.dumps(environment(device)))
    print("\n| step | compiled | recorded | ms, median (min–max) | × train |")
    print("|---|---|---|---|---|")
    ratios, found = {}, {}
    for name, side in sides.items():
        pairs = zip(side.seconds, sides[PLAIN].seconds, strict=True)
        ratios[name] = round(statistics.median(mine / plain for mine, plain in pairs), 3)
        low, high = 1e3 * min(side.seconds), 1e3 * max(side.seconds)
        middle = 1e3 * statistics.median(side.seconds)
        found[name] = {**side.details, "ms": middle, "ms_min": low, "ms_max": high}
        yes = ["yes" if side.details[key] else "no" for key in ("compiled", "recorded")]
        print(f"| {name} | {' | '.join(yes)} | {middle:.2f} ({low:.2f}–{high:.2f}) | ", end="")
        print(f"{ratios[name]:.2f} |")
    slower = [name for name, ratio in ratios.items() if ratio > GOAL and UNRECORDED not in name]
    print(f"\nabove the goal of {GOAL} times a step of plain training: {slower or 'none'}\n")
    if args.save:
        about = {"batch": args.batch, "rounds": rounds, "steps_a_round": steps}
        whole = {**about, "sides": found, "ratios": ratios, "environment": environment(device)}
        write_json(Path(args.save), whole)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
