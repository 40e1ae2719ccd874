"""`python main.py predict CHECKPOINT IMAGE...`: what a saved network takes images for.

The checkpoint says all that it takes: the network as it is deployed (int8, early exits), class
names, mean and deviation. Images are decoded and resized as an image folder's are.
"""

from __future__ import annotations

import difflib
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.table import Table
from torch import Tensor, nn

from data_sets.batches import BatchLoader
from data_sets.fit import Fit
from data_sets.images import read_image
from data_sets.source import DataError
from dataset import load_dataset, preprocessing
from experiment.commands.parser import Parser, config_option
from experiment.report.one_result import ENDING, read_result
from experiment.running.checkpoint import CheckpointError, read_checkpoint
from experiment.running.console import Console
from experiment.suite.config_file import folder_named
from experiment.suite.messages import ConfigError, stop_at
from experiment.suite.schema import load_suite
from machine.files import shown
from methods.early_exit.exits import EarlyExitNetwork
from stages.deployment import deploy
from stages.state import ModelState

BATCH = 64  # images that are decoded and classified together
SEE = "; python main.py show EXPERIMENT names the file of its network"


class Data(BaseModel):
    """What a checkpoint says of its data: see `dataset.preprocessing`."""

    model_config = ConfigDict(strict=True)

    name: str
    classes: list[str]
    mean: list[float]
    std: list[float]
    fit: Fit = "crop"  # files of earlier versions do not say
    bits: int = Field(16, ge=8, le=16)  # of 16-bit files that do not say it

    def check(self, model_args: dict[str, Any], what: str) -> None:
        """Raise ConfigError where a network is not of this data."""
        ours = len(self.classes), len(self.mean), len(self.std)
        channels = model_args["in_channels"]
        if ours != (model_args["num_classes"], channels, channels):
            raise ConfigError(
                [f"{what}: {len(self.classes)} classes and {len(self.mean)} channels of data do "
                 f"not fit the network, which has {model_args['num_classes']} and {channels}"]
            )  # fmt: skip


class Prediction(NamedTuple):
    """Probabilities of the classes, `[K]`, and where the network was left, if it has exits."""

    probabilities: Tensor
    exit: str


def predict_command(arguments: list[str], console: Console) -> int:
    """Run the subcommand; returns the exit code."""
    args = _parser().parse_args(arguments)
    state, _, found = _checkpoint(Path(args.checkpoint), args.config)
    data = _data(found, args.checkpoint, args.data_of, args.config)
    data.check(state.model_args, args.checkpoint)
    images = _images(args.images, state.model_args, data)
    try:
        network = deploy(state).network
    except ValueError as error:
        raise ConfigError([f"{args.checkpoint}: {error}"]) from None
    predictions = predict(network, images, data)
    console.show(_table(args.images, predictions, data.classes, min(args.top, len(data.classes))))
    return 0


@torch.inference_mode()
def predict(network: nn.Module, images: Tensor, data: Data) -> list[Prediction]:
    """`images` are uint8 `[N, C, H, W]`. One at a time where a network has exits, to see which."""
    leaving = isinstance(network, EarlyExitNetwork)
    loader = BatchLoader(
        images,
        torch.zeros(len(images), dtype=torch.int64),
        1 if leaving else BATCH,
        mean=data.mean,
        std=data.std,
        num_classes=len(data.classes),
    )
    found = []
    for batch, _ in loader:
        if isinstance(network, EarlyExitNetwork):
            network.reset()
        probabilities = network(batch).float().softmax(dim=1)
        found += [Prediction(each, _exit(network)) for each in probabilities]
    return found


def _exit(network: nn.Module) -> str:
    """Where the one image since the last reset has left."""
    if not isinstance(network, EarlyExitNetwork):
        return ""
    places = [*network.model_args["exits"], "end"]
    return str(places[network.left.index(1)])


def _checkpoint(path: Path, config: str) -> tuple[ModelState, str, dict[str, Any] | None]:
    if not path.exists():
        if stopped := _stopped(path, config):
            raise CheckpointError(f"{path}: there is no such file; {stopped}")
        names = [p.name for p in path.parent.glob("*.pth")]
        close = difflib.get_close_matches(path.name, names, 1, cutoff=0.5)
        hint = f"; did you mean {path.parent / close[0]}?" if close else ""
        raise CheckpointError(f"{path}: there is no such file{hint or SEE}")
    return read_checkpoint(path)


def _stopped(path: Path, config: str) -> str | None:
    """Why a file was never made, where its name begins with that of a stopped experiment."""
    try:
        folder = folder_named(config, "RESULTS_DIR")
        names = [file.name.removesuffix(ENDING) for file in folder.glob(f"*{ENDING}")]
        own = [name for name in names if path.stem == name or path.stem.startswith(f"{name}_")]
        result = read_result(max(own, key=len), folder) if own else None
    except ConfigError:  # then there is nothing to be told of experiments
        return None
    if result is None or not result.stopped:
        return None
    last = f"; its last network is {result.stages[-1].checkpoint}" if result.stages else ""
    return f"{result.experiment}: {'; '.join(result.stops)}{last}"


def _data(
    found: dict[str, Any] | None, checkpoint: str, experiment: str | None, config: str
) -> Data:
    """What the checkpoint says of its data, or the data of an experiment that is named."""
    if experiment is not None:
        suite = load_suite(config, only=[experiment])
        args = next(e for e in suite.experiments if e.name == experiment).dataset_args
        return Data(**preprocessing(load_dataset(args, suite.data_dir)))
    if found is None:
        raise CheckpointError(
            f"{checkpoint}: has no class names, mean and deviation in it (an earlier version wrote "
            "it); name an experiment on the same data: --data-of NAME"
        )
    try:
        return Data(**found)
    except (ValidationError, TypeError):
        raise CheckpointError(f"{checkpoint}: what it says of its data is damaged") from None


def _images(names: list[str], model_args: dict[str, Any], data: Data) -> Tensor:
    """uint8 `[N, C, H, W]` in the network's size. Raises ConfigError for all that are none."""
    height, width = model_args["image_size"]
    images, problems = [], []
    for name in names:
        try:
            if not Path(name).exists():
                raise DataError(f"{shown(name)}: there is no such file")
            if Path(name).is_dir():
                raise DataError(
                    f"{shown(name)}: is a folder; name the images in it, as {shown(name)}/*.png"
                )
            channels = model_args["in_channels"]
            images.append(read_image(Path(name), channels, (height, width), data.bits, data.fit))
        except DataError as error:
            problems.append(str(error))
    stop_at(problems)
    return torch.stack(images)


def _table(names: list[str], found: list[Prediction], classes: list[str], top: int) -> Table:
    table = Table(title="Most likely classes, with confidence", title_justify="left")
    table.add_column("image", overflow="fold")
    for rank in range(1, top + 1):
        table.add_column(f"{rank}.", overflow="fold")
    exits = any(each.exit for each in found)
    if exits:
        table.add_column("left at")
    for name, each in zip(names, found, strict=True):
        best = each.probabilities.topk(top)
        cells = [
            f"{classes[index]}  {100 * value:.1f} %"
            for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        table.add_row(shown(name), *cells, *([each.exit] if exits else []))
    return table


def _parser() -> Parser:
    parser = Parser(
        "predict",
        description="Classes and confidences of images, by any saved network.",
        parents=[config_option("for --data-of")],
    )
    parser.add_argument("checkpoint", help="a file in MODEL_SAVE_DIR, or a copy of one")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--top", type=_count, default=3, metavar="N", help="classes shown; 3")
    parser.add_argument(
        "--data-of",
        metavar="EXPERIMENT",
        help="class names, mean and deviation of its data, for checkpoints that do not have them",
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text} should be a whole number from 1")
    return int(text)
