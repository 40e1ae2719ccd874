"""`predict` answers as the network does on the test split; any image, or a clear refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_sets import images
from dataset import Dataset
from experiment.commands import predict
from experiment.running.checkpoint import load_checkpoint, read_checkpoint
from methods.early_exit.thresholds import all_certainties, exit_taken
from model import every_logits
from stages.deployment import deploy
from tests.support.ran import rows
from tests.support.suites import Ran


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> list[str]:
    """The first test images as PNG files."""
    folder = tmp_path_factory.mktemp("pictures")
    names = [str(folder / f"{number}.png") for number in range(12)]
    for name, image in zip(names, digits.arrays.test_images, strict=False):
        Image.fromarray(image[0].numpy()).save(name)
    return names


@pytest.mark.parametrize("name", ["Base", "PFQat"])
def test_predictions_are_the_networks_on_its_test_split(
    name: str, ran: Ran, command: Any, pictures: list[str], ctx: Any
) -> None:
    code, out, _ = command("predict", ran.checkpoint(name), *pictures, "--top", "2")
    assert code == 0
    network = deploy(load_checkpoint(ran.checkpoint(name))).network
    images, _ = next(iter(ctx.loaders(batch_size=12).test))
    with torch.inference_mode():
        expected = network(images).softmax(dim=1).topk(2)
    for picture, values, classes in zip(pictures, expected.values, expected.indices, strict=True):
        for shown, value, label in zip(rows(out)[picture], values, classes, strict=True):
            found = re.fullmatch(r"(\d)  (\d+\.\d) %", shown)
            assert found is not None and int(found[1]) == int(label)
            assert float(found[2]) == pytest.approx(100 * float(value), abs=0.06)


def test_predictions_say_where_the_network_was_left(
    ran: Ran, command: Any, pictures: list[str], ctx: Any
) -> None:
    _, out, _ = command("predict", ran.checkpoint("EQ"), *pictures)
    state = load_checkpoint(ran.checkpoint("EQ"))
    images, _ = next(iter(ctx.loaders(batch_size=12).test))
    with torch.inference_mode():
        every = every_logits(deploy(state).parts, images)
    assert state.exits is not None and state.exits.thresholds is not None
    certain = all_certainties(every, state.exits.criterion)
    taken = exit_taken(certain, state.exits.criterion, state.exits.thresholds).tolist()
    places = [*state.model_args["exits"], "end"]
    assert [rows(out)[picture][-1] for picture in pictures] == [places[i] for i in taken]
    assert len(set(taken)) > 1


def test_images_are_turned_resized_and_made_grey(
    ran: Ran, command: Any, pictures: list[str], tmp_path: Path
) -> None:
    with Image.open(pictures[3]) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90).convert("RGB")
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise to be upright
        turned.save(tmp_path / "turned.png", exif=exif)
        image.resize((24, 24), Image.Resampling.NEAREST).save(tmp_path / "large.png")
        names = [pictures[3], str(tmp_path / "turned.png"), str(tmp_path / "large.png")]
        deep = np.asarray(image).astype(np.uint16) * 256 + 255
        Image.fromarray(deep).save(tmp_path / "deep.png")
        (tmp_path / "[").mkdir()
        image.convert("RGBA").save(tmp_path / "[" / "bold] :cat: .png")
        names += [str(tmp_path / "deep.png"), str(tmp_path / "[" / "bold] :cat: .png")]
        Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tif")
    _, out, _ = command("predict", ran.checkpoint("Base"), *names)
    upright, turned_row, large, deep_row, odd_name = (rows(out)[name] for name in names)
    assert turned_row == deep_row == odd_name == upright
    assert large[0].split()[0] == upright[0].split()[0]
    code, _, errors = command("predict", ran.checkpoint("Base"), str(tmp_path / "float.tif"))
    assert code == 2 and "32-bit values, whose range nothing tells" in errors[0]


def test_a_large_image_is_read_and_a_bomb_refused(
    ran: Ran, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow alone refuses twice as many
    monkeypatch.setattr(images, "PILLOW_PIXELS", 1000)
    monkeypatch.setattr(images, "MOST_PIXELS", 2000)
    for name, side in (("40.png", 40), ("50.png", 50), ("200.jpg", 200)):
        Image.new("L", (side, side)).save(tmp_path / name)
    for name in ("40.png", "200.jpg"):  # of the JPEG an eighth is decoded
        assert command("predict", ran.checkpoint("Base"), str(tmp_path / name))[0] == 0
    code, _, errors = command("predict", ran.checkpoint("Base"), str(tmp_path / "50.png"))
    assert code == 2 and "50.png is not a readable image (50×50 pixels, and at most" in errors[0]
    assert Image.MAX_IMAGE_PIXELS == 500


def test_checkpoints_of_earlier_versions_need_data_of(
    ran: Ran, command: Any, pictures: list[str], tmp_path: Path
) -> None:
    plain = torch.load(ran.checkpoint("Base"), weights_only=True)
    assert plain["data"]["classes"] == [str(i) for i in range(10)]
    del plain["data"]
    old = tmp_path / "old.pth"
    torch.save(plain, old)
    assert read_checkpoint(old).data is None and load_checkpoint(old).weights
    code, _, errors = command("predict", str(old), pictures[0])
    assert code == 2 and "name an experiment on the same data: --data-of NAME" in errors[0]
    assert command("predict", str(old), pictures[0], "--data-of", "Bas")[2][0].endswith(
        "did you mean 'Base'?"
    )
    told = command("predict", str(old), pictures[0], "--data-of", "Base")
    assert told == command("predict", ran.checkpoint("Base"), pictures[0])
    for data in ({"name": "x"}, {**read_checkpoint(ran.checkpoint("Base")).data, "mean": ["a"]}, 7):
        torch.save({**plain, "data": data}, old)
        assert "what it says of its data is damaged" in command("predict", str(old), "x")[2][0]
    few = {"name": "x", "classes": ["a"], "mean": [0.5], "std": [0.5]}
    torch.save({**plain, "data": few}, old)
    assert (
        "1 classes and 1 channels of data do not fit the network"
        in (command("predict", str(old), "x")[2][0])
    )


def test_what_cannot_be_predicted_is_told_at_once(
    ran: Ran, command: Any, pictures: list[str], tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no image")
    wrong = [str(tmp_path / "none.png"), str(tmp_path), str(tmp_path / "text.png")]
    code, out, errors = command("predict", ran.checkpoint("Base"), pictures[0], *wrong)
    assert (code, out, len(errors)) == (2, "", 3)
    assert "there is no such file" in errors[0] and "is a folder; name the images" in errors[1]
    assert "text.png is not a readable image" in errors[2]
    missing = str(ran.models / "Base_fp32_basline.pth")
    code, _, errors = command("predict", missing, pictures[0])
    assert code == 2 and errors == [
        f"{missing}: there is no such file; did you mean {ran.models / 'Base_fp32_baseline.pth'}?"
    ]
    assert "cannot be read" in command("predict", str(tmp_path), pictures[0])[2][0]
    content = Path(ran.checkpoint("Base")).read_bytes()
    (tmp_path / "half.pth").write_bytes(content[: len(content) // 2])
    assert command("predict", str(tmp_path / "half.pth"), pictures[0])[0] == 2
    assert command("predict", ran.checkpoint("Base"), pictures[0], "--top", "0")[0] == 2
    assert command("predict", pictures[0], pictures[0])[2] == [
        f"{pictures[0]}: is not a checkpoint of this project"
    ]
    code, _, errors = command("predict", "PF", pictures[0])
    assert code == 2 and "python main.py show EXPERIMENT names the file" in errors[0]


def test_a_backend_that_is_not_here_is_one_line(
    ran: Ran, command: Any, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **more: Any) -> None:
        raise ValueError("backend 'x86' is not here")

    monkeypatch.setattr(predict, "deploy", refuse)
    path = ran.checkpoint("PFQat")
    assert command("predict", path, pictures[0])[2] == [f"{path}: backend 'x86' is not here"]


def test_the_network_of_a_stopped_chain_says_why_there_is_none(
    ran: Ran, command: Any, pictures: list[str]
) -> None:
    result = ran.result("PFQat")
    stops = [{"seed": 0, "stage": "prune", "why": "loss 3 > 2"}]
    more = {"experiment": "Gone", "stopped": stops, "stages": result["stages"][:1]}
    path = ran.results / "Gone_results.json"
    try:
        path.write_text(json.dumps({**result, **more, "status": "stopped"}))
        missing = str(ran.models / "Gone_p40_f_quantized_qat_int8.pth")
        code, _, said = command("predict", missing, pictures[0])
    finally:
        path.unlink()
    assert code == 2 and said == [
        f"{missing}: there is no such file; Gone: stopped after prune: loss 3 > 2; its last "
        f"network is {result['stages'][0]['checkpoint']}"
    ]
