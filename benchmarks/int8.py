"""int8 of a suite's networks on this processor: every engine and peer, with error and accuracy.

Run: make bench CIFAR10_JPEG=FOLDER    (the networks of records/int8_cpus/suite.py)
     python -m benchmarks.int8 --config configs/order_study_networks.py --json digits.json

The suite's baselines are trained, or taken from its store. Each is then run at every batch size by
all variants of benchmarks/engines.py: float32, bfloat16 and our int8 on each engine, the int8 of
ONNX Runtime's quantizer and of NNCF. Logits are compared with eager float32's, top-1 is counted on
images of the test split at the largest batch size, and all variants are timed in turn. The file is
written after every network and batch size; what is there already is not measured again, so a run
that was stopped goes on. benchmarks/int8_page.py makes a page of such files.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.engines import CALIBRATION_BATCH, Engine, Subject
from benchmarks.inference import cells as compared
from benchmarks.inference import checked, described, print_table, summary, timed
from benchmarks.int8_page import Accuracy, Cell, Record, Size, load, section
from dataset import Dataset
from experiment.running.executor import StageRunner
from experiment.running.store import Store
from experiment.suite.chains import Chain, plan
from experiment.suite.schema import load_suite
from machine.environment import VERSIONS, git_commit
from machine.errors import Refused
from machine.files import write_json
from methods import costs
from stages.stage import Context
from stages.state import build

BATCHES = (1, 8, 64)
CALIBRATION = 256  # training images
CHECKED = 256  # test images on which logits are compared
TESTED = 5_000  # test images on which top-1 is counted, where there are so many
SECONDS = 1.0  # of timing a variant
KEPT = ("error", "median", "p95", "ready_seconds", "skipped")  # of a row, beside its place


class Images:
    """Normalized images of a data set: for calibration, and of the test split with labels."""

    def __init__(self, dataset: Dataset, seed: int, batch: int):
        """`batch` is the largest batch size: whole batches are tested."""
        loaders = Context(dataset, torch.device("cpu"), seed).loaders()
        calibration = torch.cat([images for images, _ in loaders.calibration])[:CALIBRATION]
        whole = len(calibration) // CALIBRATION_BATCH * CALIBRATION_BATCH
        parts = [(images, labels) for images, labels in loaders.test]
        test, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        count = min(TESTED, len(labels)) // batch * batch
        if not whole or not count:
            raise Refused(
                f"{dataset.info.name}: {len(calibration)} training and {len(labels)} test images "
                f"are too few: {CALIBRATION_BATCH} and {batch}, a batch, are needed"
            )
        drawn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
        self.calibration = calibration[:whole].contiguous()
        self.test, self.labels = test[drawn].contiguous(), labels[drawn]

    def checked(self, batch: int) -> Tensor:
        """Whole batches of the test images."""
        return self.test[: max(batch, min(CHECKED, len(self.test)) // batch * batch)]


def classes(engine: Engine, images: Tensor, batch: int) -> Tensor:
    """The class of every image, by what is timed."""
    logits = (engine.run(engine.place(part)) for part in images.split(batch))
    return torch.cat([torch.as_tensor(part).argmax(1).clone() for part in logits])


def accuracy(found: Tensor, expected: Tensor, labels: Tensor) -> Accuracy:
    """Of the classes `found`, beside those `expected` of float."""
    right, before = found == labels, expected == labels
    return Accuracy(
        images=len(labels),
        right=int(right.sum()),
        lost=int((before & ~right).sum()),
        won=int((right & ~before).sum()),
    )


def measured(
    subject: Subject, name: str, batch: int, images: Images, with_accuracy: bool, seconds: float
) -> list[dict[str, Any]]:
    """A row a variant, `accuracy` in it where that is asked for."""
    made = checked(subject, name, batch, images.checked(batch))
    if with_accuracy:
        with torch.inference_mode():
            parts = [subject.plain(part) for part in images.test.split(batch)]
            expected = torch.cat(parts).argmax(1)
            for row, engine in made:
                if engine is not None:
                    found = classes(engine, images.test, batch)
                    row["accuracy"] = accuracy(found, expected, images.labels)
    return timed(made, subject, batch, images.checked(batch), seconds)


def as_cell(row: dict[str, Any]) -> Cell:
    own = {key: row[key] for key in KEPT if key in row}
    place = {key: row[key] for key in ("network", "batch", "threads", "variant")}
    return Cell(**place, **own, accuracy=row.get("accuracy"))


def started(path: Path, trained: str, command: str) -> Record:
    """The file as far as it is there. Raises Refused where it is of something else."""
    about = described()
    commit = git_commit() or "none"
    record = Record(
        processor=about["cpu"],
        isa=about["isa"],
        date=str(datetime.datetime.now(datetime.timezone.utc).date()),
        commits=[commit],
        source=command,
        versions={name: about[name] for name in (*VERSIONS, "nncf", "python") if name in about},
        weights=trained,
        networks={},
        cells=[],
    )
    if not path.exists():
        return record
    before = load(path)
    for field in ("processor", "versions", "weights"):
        if getattr(before, field) != getattr(record, field):
            raise Refused(
                f"{path}: '{field}' was {getattr(before, field)} when it was begun and is "
                f"{getattr(record, field)} now; give another --json"
            )
    commits = list(dict.fromkeys([*before.commits, commit]))
    return before.model_copy(update={"commits": commits, "source": command})


def weights(chain: Chain, images: str | None) -> str:
    """What the networks were trained on, and so what accuracy stands for."""
    data, spec = chain.experiment.dataset_args, chain.steps[-1].spec
    count = f"{data.train_images:,}" if data.train_images else "all"
    return (
        f"Trained on {count} training images of {images or data.name} for "
        f"{spec.epochs_trained} epochs, seed {chain.seed}"
    )


def without_folders(word: str) -> str:
    """A word of the command line as it can be published: without this machine's folders."""
    return "FILE" if word.startswith("/") else re.sub(r"(?<==)/.*", "PATH", word)


def run(options: argparse.Namespace) -> Record:
    """Everything that is not in the file yet. Raises Refused for what is wrong."""
    suite = load_suite(options.config, overrides=options.set, only=options.networks)
    chains = [chain for chain in plan(suite) if chain.baseline is None]
    command = "python -m benchmarks.int8 " + shlex.join(map(without_folders, options.words))
    record = started(options.json, weights(chains[0], options.images), command)
    runner = StageRunner(Store(suite.model_dir), suite.data_dir, suite.device, lambda: False, print)
    for chain in chains:
        name = chain.experiment.name
        there = {(cell.batch, cell.threads) for cell in record.cells if cell.network == name}
        missing = [b for b in options.batches if (b, options.threads) not in there]
        if not missing:
            continue
        images = Images(runner.dataset(chain.experiment.dataset_args), chain.seed, missing[-1])
        model = build(runner.outcome(chain.steps[-1])[0]).eval()
        macs, params = costs.count_macs(model)[0], sum(p.numel() for p in model.parameters())
        sizes = {**record.networks, name: Size(macs=macs, params=params)}
        with tempfile.TemporaryDirectory() as folder:
            subject = Subject(model, images.calibration, Path(folder), options.threads)
            for batch in missing:
                tested = batch == options.batches[-1]
                rows = measured(subject, name, batch, images, tested, options.seconds)
                print_table(rows)
                cells = [*record.cells, *map(as_cell, rows)]
                record = record.model_copy(update={"cells": cells, "networks": sizes})
                write_json(options.json, record.model_dump(exclude_none=True))
    return record


def parsed(words: list[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="a suite; its baselines are run")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="of the suite (all)")
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of timing a variant")
    parser.add_argument("--images", metavar="NAME", help="how the page calls the data set")
    options = parser.parse_args(words)
    if min(*options.batches, options.threads) < 1 or options.seconds <= 0:
        parser.error("batches, threads and seconds should be above 0")
    options.batches, options.words = sorted(set(options.batches)), words
    return parser, options


def main(arguments: list[str] | None = None) -> None:
    parser, options = parsed(sys.argv[1:] if arguments is None else arguments)
    torch.set_num_threads(options.threads)
    try:
        record = run(options)
    except Refused as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"\nstopped; the same command goes on with {options.json}\n")
    print("\n".join(section(record)))
    print(f"written to {options.json}")
    print(json.dumps(summary(compared(record.rows()))))


if __name__ == "__main__":
    main()
