"""CIFAR from an archive in the original format, made here; absent or truncated, one clear line."""

from __future__ import annotations

import hashlib
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

import dataset
from data_sets.cifar import ARCHIVES, cifar
from data_sets.source import DataError, DatasetArgs
from dataset import load_dataset


@pytest.fixture
def cifar_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes a tiny archive as the original is laid out, for torchvision with its checksums."""

    def make(hundred: bool = False) -> type[torchvision.datasets.CIFAR10]:
        name = "CIFAR100" if hundred else "CIFAR10"
        kind = _archive(tmp_path, hundred)
        monkeypatch.setattr(torchvision.datasets, name, kind)
        known = ARCHIVES[name]._replace(md5=kind.tgz_md5)
        monkeypatch.setitem(ARCHIVES, name, known)
        monkeypatch.setitem(dataset.DATASET_REGISTRY, name, cifar(name))
        return kind

    return make


def test_the_archives_are_torchvisions() -> None:
    for name, archive in ARCHIVES.items():
        kind = getattr(torchvision.datasets, name)
        assert (archive.file, archive.md5) == (kind.filename, kind.tgz_md5)


def _archive(folder: Path, hundred: bool) -> type[torchvision.datasets.CIFAR10]:
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
    tmp_path: Path, cifar_archive: Callable[..., Any], hundred: bool
) -> None:
    name = "CIFAR100" if hundred else "CIFAR10"
    kind = cifar_archive(hundred)
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
    tmp_path: Path, cifar_archive: Callable[..., Any]
) -> None:
    cifar_archive()
    with pytest.raises(DataError) as error:
        load_dataset(DatasetArgs(name="CIFAR10"), tmp_path / "elsewhere")
    message = str(error.value)
    assert "\n" not in message
    for part in ("cifar-10-python.tar.gz", "elsewhere", "configs/quickstart.py"):
        assert part in message


def test_a_truncated_cifar_archive_is_refused_and_kept(
    tmp_path: Path, cifar_archive: Callable[..., Any]
) -> None:
    kind = cifar_archive()
    archive = tmp_path / "data" / kind.filename
    archive.write_bytes(archive.read_bytes()[:-100])
    before = archive.read_bytes()
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz is damaged or incomplete"):
        load_dataset(DatasetArgs(name="CIFAR10"), tmp_path / "data")
    assert archive.read_bytes() == before
