"""Folders of images: decoded, cached, told apart by content, and one line for whatever is wrong."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_sets.source import DataError, DatasetArgs
from dataset import describe, load_dataset
from tests.support.home import HOME


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


CIFAR_JPEG = HOME.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"


@pytest.mark.skipif(not CIFAR_JPEG.exists(), reason="the CIFAR-10 JPEG archive is not here")
def test_real_photographs(tmp_path: Path) -> None:
    """200 real images of each split, straight from the archive."""
    endings = tuple(f"00{i:02}.jpg" for i in range(20))
    with tarfile.open(CIFAR_JPEG) as archive:
        wanted = [m for m in archive if m.isfile() and m.name.endswith(endings)]
        archive.extractall(tmp_path / "cifar", wanted, filter="data")
    root = next((tmp_path / "cifar").rglob("train")).parent
    args = DatasetArgs(name="ImageFolder", root=str(root))
    loaded = load_dataset(args, tmp_path / "data")
    assert loaded.info.image_size == (32, 32)
    assert len(loaded.info.classes) == 10
    assert loaded.arrays.train_images.float().std() > 40  # photographs, not noise or black
    for mean in loaded.mean:
        assert 0.4 < mean < 0.6
