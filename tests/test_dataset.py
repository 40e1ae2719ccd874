"""Data sets: splits, caches, fingerprints, and one clear line for whatever is wrong with them."""

from __future__ import annotations

import hashlib
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import dataset
from data_sets.augmentation import cutout, random_crop, random_flip
from data_sets.batches import BatchLoader
from data_sets.cifar import cifar
from data_sets.images import channel_statistics
from data_sets.source import DataError, DatasetArgs
from dataset import describe, get_dataloaders, load_dataset

# --- CIFAR in its own archive format ------------------------------------------------------------


def cifar_archive(folder: Path, hundred: bool = False) -> type[torchvision.datasets.CIFAR10]:
    """A tiny archive as the original is laid out, and torchvision's class with its checksums."""
    real = torchvision.datasets.CIFAR100 if hundred else torchvision.datasets.CIFAR10
    rng = np.random.default_rng(0)
    classes = 100 if hundred else 10
    source = folder / "pack" / real.base_folder
    source.mkdir(parents=True)
    sizes = {name: 200 if hundred else 20 for name, _ in real.train_list + real.test_list}
    sums = {}
    for name, count in sizes.items():
        batch = {
            "data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
            "fine_labels" if hundred else "labels": [i % classes for i in range(count)],
        }
        (source / name).write_bytes(pickle.dumps(batch))
    meta = {"fine_label_names" if hundred else "label_names": [f"c{i}" for i in range(classes)]}
    (source / real.meta["filename"]).write_bytes(pickle.dumps(meta))
    for path in source.iterdir():
        sums[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    data = folder / "data"
    data.mkdir()
    with tarfile.open(data / real.filename, "w:gz") as archive:
        archive.add(source, arcname=real.base_folder)

    class Tiny(real):  # type: ignore[valid-type, misc]
        url = "http://127.0.0.1:9/none"  # nothing listens there
        tgz_md5 = hashlib.md5((data / real.filename).read_bytes()).hexdigest()
        train_list = [[name, sums[name]] for name, _ in real.train_list]
        test_list = [[name, sums[name]] for name, _ in real.test_list]
        meta = {**real.meta, "md5": sums[real.meta["filename"]]}

    return Tiny


@pytest.mark.parametrize("hundred", [False, True])
def test_cifar_is_read_from_an_archive_in_the_original_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hundred: bool
) -> None:
    name = "CIFAR100" if hundred else "CIFAR10"
    kind = cifar_archive(tmp_path, hundred)
    monkeypatch.setitem(dataset.DATASET_REGISTRY, name, cifar(kind, name))
    loaded = load_dataset(DatasetArgs(name=name, validation_share=0.5), tmp_path / "data")
    assert loaded.arrays.train_images.shape == ((200 if hundred else 100), 3, 32, 32)
    assert loaded.arrays.test_images.shape == ((200 if hundred else 20), 3, 32, 32)
    assert len(loaded.info.classes) == (100 if hundred else 10)
    first = pickle.loads(
        (tmp_path / "pack" / kind.base_folder / kind.train_list[0][0]).read_bytes()
    )
    expected = torch.from_numpy(first["data"][0].reshape(3, 32, 32))
    assert torch.equal(loaded.arrays.train_images[0], expected)


def test_cifar_absent_and_offline_names_file_folder_and_the_offline_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = cifar_archive(tmp_path)
    monkeypatch.setitem(dataset.DATASET_REGISTRY, "CIFAR10", cifar(kind, "CIFAR10"))
    with pytest.raises(DataError) as error:
        load_dataset(DatasetArgs(name="CIFAR10"), tmp_path / "elsewhere")
    message = str(error.value)
    assert "\n" not in message
    for part in ("cifar-10-python.tar.gz", "elsewhere", "configs/quickstart.py"):
        assert part in message


def test_a_truncated_cifar_archive_is_refused_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = cifar_archive(tmp_path)
    archive = tmp_path / "data" / kind.filename
    archive.write_bytes(archive.read_bytes()[:-100])
    before = archive.read_bytes()
    monkeypatch.setitem(dataset.DATASET_REGISTRY, "CIFAR10", cifar(kind, "CIFAR10"))
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz is damaged or incomplete"):
        load_dataset(DatasetArgs(name="CIFAR10"), tmp_path / "data")
    assert archive.read_bytes() == before


# --- ImageFolder --------------------------------------------------------------------------------


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


CIFAR_JPEG = Path(__file__).parents[2] / "shared" / "data" / "cifar10-jpeg.tar.xz"


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


# --- splits and loaders -------------------------------------------------------------------------


def test_splits_do_not_overlap_and_are_stratified() -> None:
    loaded = load_dataset(DatasetArgs(name="Digits", validation_share=0.2), "data")
    train, validation = set(loaded.train_index.tolist()), set(loaded.validation_index.tolist())
    assert not train & validation
    assert len(train | validation) == len(loaded.arrays.train_labels) == 1437
    counts = loaded.arrays.train_labels[loaded.validation_index].bincount()
    assert counts.max() - counts.min() <= 3


def test_statistics_equal_a_plain_computation() -> None:
    images = torch.randint(0, 256, (5000, 3, 4, 4), dtype=torch.uint8)
    mean, std = channel_statistics(images)
    scaled = images.double() / 255
    torch.testing.assert_close(torch.tensor(mean), scaled.mean((0, 2, 3)).float())
    expected = scaled.std((0, 2, 3), correction=0).float()
    torch.testing.assert_close(torch.tensor(std), expected)


def test_loaders_are_deterministic_and_epochs_differ() -> None:
    def first(seed: int, epoch: int) -> torch.Tensor:
        torch.manual_seed(seed)
        loaders = get_dataloaders({"name": "Digits"}, 32, seed=seed)
        loaders.train.set_epoch(epoch)
        return next(iter(loaders.train))[0]

    assert torch.equal(first(0, 0), first(0, 0))
    assert not torch.equal(first(0, 0), first(0, 1))
    assert not torch.equal(first(0, 0), first(1, 0))


def test_an_epoch_can_start_in_its_middle() -> None:
    train = get_dataloaders({"name": "Digits"}, 64, augmentation="none").train
    whole = [labels for _, labels in train.batches()]
    rest = [labels for _, labels in train.batches(7)]
    assert len(whole) == len(train) == 1293 // 64
    assert all(torch.equal(a, b) for a, b in zip(whole[7:], rest, strict=True))


def test_evaluation_loaders_see_every_image_once() -> None:
    loaders = get_dataloaders({"name": "Digits"}, 100)
    assert sum(len(labels) for _, labels in loaders.test) == 360
    assert sum(len(labels) for _, labels in loaders.calibration) == 1293
    images = torch.cat([images for images, _ in loaders.calibration])
    assert images.mean().abs() < 0.05  # normalised, without augmentation's black borders
    assert images.std() == pytest.approx(1, abs=0.05)


def test_crop_shifts_each_image_by_itself() -> None:
    images = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).repeat(200, 1, 1, 1)
    cropped = random_crop(images, 1)
    assert len({tuple(image.flatten().tolist()) for image in cropped}) == 9
    padded = torch.nn.functional.pad(images[:1], (1, 1, 1, 1))
    windows = [padded[0, 0, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
    for image in cropped:
        assert any(torch.equal(image[0], window) for window in windows)


def test_flip_mirrors_about_half() -> None:
    images = torch.rand(400, 1, 2, 3)
    flipped = random_flip(images)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert (mirrored | kept).all()
    assert 140 < mirrored.sum() < 260


def test_cutout_zeroes_one_square_an_image() -> None:
    holes = (cutout(torch.ones(300, 2, 12, 12), 4) == 0).all(1).flatten(1).sum(1)
    assert holes.max() == 16
    assert holes.min() == 4  # centred on a corner
    assert len(holes.unique()) > 2


@pytest.mark.parametrize("augmentation", ["none", "standard", "randaugment"])
def test_augmented_batches_keep_shape_and_labels(augmentation: str) -> None:
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    loader = BatchLoader(
        images,
        torch.arange(40) % 4,
        20,
        mean=[0.5] * 3,
        std=[0.25] * 3,
        num_classes=4,
        training=True,
        augmentation=augmentation,
        cutout_size=4,
        mixup_alpha=0.4,
    )
    for batch, labels in loader:
        assert batch.shape == (20, 3, 16, 16)
        assert batch.dtype == torch.float32
        assert labels.shape == (20, 4)
        torch.testing.assert_close(labels.sum(1), torch.ones(20))
