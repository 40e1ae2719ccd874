"""Folders of images: decoded, cached, told apart by content, and one line for whatever is wrong."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_sets import image_folder
from data_sets.source import DataError, DatasetArgs
from dataset import Dataset, describe, load_dataset, preprocessing
from tests.support.photographs import needs_archive, photographs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of small images in several formats, sizes and modes."""
    rng = np.random.default_rng(0)
    root = tmp_path / "pictures"
    for split, count in (("train", 6), ("test", 3)):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                ending, mode = [("png", "RGB"), ("jpg", "L"), ("bmp", "RGB")][i % 3]
                pixels = rng.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8)
                pixels[:] = 200 * label if i == 0 else pixels
                image = Image.fromarray(pixels).convert(mode)
                image.save(root / split / name / f"{i}.{ending}")
    return root


def folder_args(root: Path, **more: Any) -> DatasetArgs:
    return DatasetArgs(
        name="ImageFolder", root=str(root), validation_share=0.25, **{"image_size": 16, **more}
    )


def test_image_folder_is_decoded_resized_and_cached(folder: Path, tmp_path: Path) -> None:
    args = folder_args(folder)
    loaded = load_dataset(args, tmp_path / "data")
    assert loaded.info.classes == ("cat", "dog")
    assert loaded.arrays.train_images.shape == (12, 3, 16, 16)
    assert loaded.arrays.train_images[0].unique().tolist() == [0]
    assert loaded.arrays.train_images[6].unique().tolist() == [200]
    assert loaded.arrays.test_labels.tolist() == [0, 0, 0, 1, 1, 1]
    cached = list((tmp_path / "data" / "cache").glob("images_*.pt"))
    assert len(cached) == 1
    for path in folder.rglob("*.png"):  # gone, but neither name nor content is asked again
        os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    again = load_dataset(args, tmp_path / "data")
    assert torch.equal(again.arrays.train_images, loaded.arrays.train_images)


def test_grey_folders(folder: Path, tmp_path: Path) -> None:
    loaded = load_dataset(folder_args(folder, in_channels=1), tmp_path / "data")
    assert loaded.arrays.train_images.shape == (12, 1, 16, 16)


def test_a_damaged_decode_cache_is_said_and_rebuilt(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_dataset(folder_args(folder), tmp_path / "data")
    (cache,) = (tmp_path / "data" / "cache").glob("images_*.pt")
    cache.write_bytes(cache.read_bytes()[:200])
    again = load_dataset(folder_args(folder), tmp_path / "data")
    assert torch.equal(again.arrays.train_images, loaded.arrays.train_images)
    assert "damaged" in capsys.readouterr().out


def test_fingerprint_follows_content_not_time(folder: Path, tmp_path: Path) -> None:
    def fingerprint(**more: Any) -> str:
        return describe(folder_args(folder, **more), tmp_path / "data").fingerprint

    first = fingerprint()
    os.utime(folder / "train" / "cat" / "0.png")
    assert fingerprint() == first
    assert fingerprint(image_size=20) != first
    Image.new("RGB", (20, 24), (1, 2, 3)).save(folder / "train" / "cat" / "0.png")
    assert fingerprint() != first


def _replace(path: Path, grey: int) -> None:
    """Another image in the same place, of the same size and modification time."""
    before = path.stat()
    Image.new("RGB", (20, 24), (grey, grey, grey)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


def test_images_of_equal_name_size_and_time_are_told_apart(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corrected edition of a data set, right after the first was read and long after."""
    path = folder / "train" / "cat" / "2.bmp"
    Image.new("RGB", (20, 24)).save(path)
    for tick in (image_folder.TICK, 0):  # at 0 the first reading is remembered at once
        monkeypatch.setattr(image_folder, "TICK", tick)
        seen = set()
        for grey in range(8):
            _replace(path, grey)
            if tick == 0:
                time.sleep(0.05)  # until the clock of the file system has moved on
            loaded = load_dataset(folder_args(folder), tmp_path / "data")
            assert loaded.arrays.train_images[2].unique().tolist() == [grey]
            seen.add(loaded.info.fingerprint)
        assert len(seen) == 8
        remembered = list((tmp_path / "data" / "cache").glob("survey_*.json"))
        assert len(remembered) == (8 if tick == 0 else 0)


def test_files_are_opened_again_only_when_one_has_changed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a copy, whose times and numbers on the disk are others, has the same fingerprint."""
    opened: list[int] = []
    real = image_folder._opened
    monkeypatch.setattr(image_folder, "_opened", lambda f: (opened.append(len(f)), real(f))[1])
    monkeypatch.setattr(image_folder, "TICK", 0)
    time.sleep(0.05)
    first = describe(folder_args(folder), tmp_path / "data")
    assert describe(folder_args(folder), tmp_path / "data") == first and opened == [18]
    shutil.copytree(folder, tmp_path / "copy")
    again = describe(folder_args(tmp_path / "copy"), tmp_path / "data")
    assert again == first and opened == [18, 18]
    folder.rename(tmp_path / "moved")
    (tmp_path / "copy").rename(folder)
    assert describe(folder_args(folder), tmp_path / "data") == first
    for note in (tmp_path / "data" / "cache").glob("survey_*.json"):
        note.write_text("{")
    assert describe(folder_args(folder), tmp_path / "data") == first and len(opened) == 3


def test_values_of_12_bits_in_16_bit_files_keep_their_levels(folder: Path, tmp_path: Path) -> None:
    """The range is that of the set, not of each image; and what has no range is said."""

    def spoil(scale: int, kind: str) -> Dataset:
        rng = np.random.default_rng(0)
        for number, path in enumerate(sorted(folder.rglob("*.*"))):
            values = rng.integers(0, 100 + 200 * number, (16, 16)).astype(np.uint16)
            values[0, 0] = 4095 if number == 17 else 0
            path.unlink()
            Image.fromarray(values * scale).save(path.with_suffix(kind))
        return load_dataset(folder_args(folder, in_channels=1), tmp_path / "data")

    loaded = spoil(1, ".png")
    assert loaded.info.bits == preprocessing(loaded)["bits"] == 12 and not loaded.info.warnings
    assert "; 16-bit values read as 12 bits" in loaded.info.summary()
    assert loaded.arrays.train_images[-1].unique().numel() > 150
    whole = spoil(16, ".png")
    assert whole.info.bits == 16 and whole.info.fingerprint != loaded.info.fingerprint
    assert torch.equal(whole.arrays.train_images, loaded.arrays.train_images)
    assert torch.equal(whole.arrays.test_images, loaded.arrays.test_images)
    first = folder / "train" / "cat" / "0.png"
    Image.fromarray(np.full((16, 16), 65535, np.uint16)).save(first)
    for path in folder.rglob("*.png"):
        if path != first:
            Image.fromarray(np.asarray(Image.open(path)) // 16).save(path)
    (warning,) = describe(folder_args(folder), tmp_path / "data").warnings
    assert warning.startswith("half of the 18 16-bit images have values below 2,048, but ")
    assert "cat/0.png has values of 16 bits: the others keep 8 of 256 levels" in warning


def test_colours_that_pillow_cuts_to_a_few_levels_are_said(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for path in folder.rglob("*.*"):
        values = rng.integers(0, 4096, (16, 16, 3)).astype(">u2")
        values[0, 0] = 4080
        path.unlink()
        path.with_suffix(".ppm").write_bytes(b"P6 16 16 65535 " + values.tobytes())
    (warning,) = describe(folder_args(folder), tmp_path / "data").warnings
    assert warning.startswith(
        "18 images have 16-bit colours, of which Pillow reads the upper 8 bits: of theirs 17 of 256"
    )


def _cut_short(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "train/cat/0.png").write_bytes(b"x"), r"0\.png is not a readable image"),
        (lambda f: _cut_short(f / "train/cat/3.png", 60), r"3\.png is not a readable image"),
        (lambda f: (f / "train/empty").mkdir(), "class folder .*empty holds no image"),
        (lambda f: (f / "test/dog").rename(f / "test/cow"), "train/ and test/: cow, dog"),
        (lambda f: (f / "test").rename(f / "tset"), "test is not a folder"),
    ],
)
def test_spoilt_folders_get_one_line(folder: Path, tmp_path: Path, spoil: Any, said: str) -> None:
    spoil(folder)
    with pytest.raises(DataError, match=said) as error:
        load_dataset(folder_args(folder), tmp_path / "data")
    assert "\n" not in str(error.value)


def test_mixed_sizes_without_image_size_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="image_size to resize all"):
        load_dataset(folder_args(folder, image_size=None), tmp_path / "data")


@needs_archive
def test_real_photographs(tmp_path: Path) -> None:
    """200 real images of each split, straight from the archive."""
    args = photographs(tmp_path, (f"00{i:02}.jpg" for i in range(20)))
    loaded = load_dataset(args, tmp_path / "data")
    assert loaded.info.image_size == (32, 32)
    assert len(loaded.info.classes) == 10
    assert loaded.arrays.train_images.float().std() > 40  # photographs, not noise or black
    for mean in loaded.mean:
        assert 0.4 < mean < 0.6
