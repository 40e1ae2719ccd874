"""Accuracy of the plain loop and of ours after the same epochs with the same schedule, over seeds.

Run: python -m benchmarks.training_accuracy --root FOLDER [--images N] [--epochs N] [--seeds N]

Both loops are those of benchmarks/training.py on the default network: AdamW, OneCycle, label
smoothing, crop and flip. What differs is what makes ours fast: augmentation by batches, bfloat16
where the processor multiplies it, fused batch norm, the path of attention, and no decay of norms
and biases. FOLDER has train/<class>/... and test/<class>/... of 10 classes. With 6,400 images and
6 epochs a seed takes about 6 min on two slow cores (AVX2).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from torch import Tensor, nn

from benchmarks.training import BATCH, CLASSES, MEAN, STD, Ours, Plain
from data_sets.batches import BatchLoader
from data_sets.source import DatasetArgs
from dataset import load_dataset
from machine.environment import environment
from train_eval import evaluate


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", required=True, help="a folder of images")
    parser.add_argument("--images", type=int, help="training images, drawn at random (all)")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = load_dataset(DatasetArgs(name="ImageFolder", root=args.root, image_size=32), "data")
    if len(data.info.classes) != CLASSES or min(args.epochs, args.seeds) < 1:
        parser.error(f"needs a folder of {CLASSES} classes, and at least one epoch and seed")
    if min(args.images or BATCH, len(data.arrays.train_labels)) < BATCH:
        parser.error(f"needs at least {BATCH} training images, a batch")
    found: dict[str, list[float]] = {"plain": [], "ours": []}
    print(json.dumps(environment(device)))
    for seed in range(args.seeds):
        drawn = torch.randperm(
            len(data.arrays.train_labels), generator=torch.Generator().manual_seed(seed)
        )[: args.images]
        images, labels = data.arrays.train_images[drawn], data.arrays.train_labels[drawn]
        steps = args.epochs * (len(images) // BATCH)
        for name, kind in ("plain", Plain), ("ours", Ours):
            started = time.perf_counter()
            loop = kind(images, labels, device, seed=seed, steps=steps)
            for _ in range(args.epochs):
                loop.run(len(images) // BATCH)
            accuracy = test_accuracy(loop.model, data.arrays.test_images, data.arrays.test_labels)
            found[name].append(accuracy)
            took = time.perf_counter() - started
            print(f"seed {seed}  {name:6} {accuracy:6.2f} %  {took:7.1f} s", flush=True)
    for name, values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(f"{name:6} {statistics.mean(values):.2f} ± {spread:.2f} (n = {len(values)})")
    pairs = [ours - plain for plain, ours in zip(found["plain"], found["ours"], strict=True)]
    print(
        json.dumps(
            {
                "ours_minus_plain": round(statistics.mean(pairs), 2),
                "by_seed": [round(p, 2) for p in pairs],
            }
        )
    )


def test_accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Percent of the test images right, evaluated alike for both."""
    device = next(model.parameters()).device
    loader = BatchLoader(
        images.to(device), labels.to(device), 64, mean=MEAN, std=STD, num_classes=CLASSES,
        training=False, device=device,
    )  # fmt: skip
    return evaluate(model.eval(), loader).accuracy


if __name__ == "__main__":
    main()
