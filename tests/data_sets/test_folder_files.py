"""Odd names, links and leftovers in a folder of images."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_sets.source import DataError, DatasetArgs, Listing
from dataset import describe, load_dataset

CAFE = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Classes a and b of four and two images, each of another grey."""
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate("ab"):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            for i in range(count):
                grey = Image.new("L", (6, 6), 100 * label + 10 * i + (split == "test"))
                grey.save(tmp_path / "pictures" / split / name / f"{i}.png")
    return tmp_path / "pictures"


def args_of(folder: Path) -> DatasetArgs:
    return DatasetArgs(name="ImageFolder", root=str(folder), in_channels=1, validation_share=0.25)


def greys(folder: Path) -> list[int]:
    """The grey of each training image, in the order of the data set."""
    arrays = load_dataset(args_of(folder), folder.parent / "data").arrays
    return [int(image[0, 0, 0]) for image in arrays.train_images]


PLAIN = [0, 10, 20, 30, 100, 110, 120, 130]


def test_leftovers_are_passed_over_and_counted(folder: Path) -> None:
    before = describe(args_of(folder), folder.parent / "data")
    for place in ("train", "train/a"):
        (folder / place / ".ipynb_checkpoints").mkdir()
        (folder / place / "__MACOSX").mkdir()
        for leftover in (".ipynb_checkpoints", "__MACOSX"):
            Image.new("L", (6, 6)).save(folder / place / leftover / "0.png")
    (folder / "train/a/._0.png").write_bytes(b"\0\5\x16\7")
    (folder / "train/a/labels.CSV").write_text("0.png,a\n")
    (folder / "train/README").write_text("what these are")
    (folder / "train/a/figure.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    os.mkfifo(folder / "train/a/pipe.png")  # opening it would wait for ever
    info = describe(args_of(folder), folder.parent / "data")
    assert info.fingerprint == before.fingerprint and greys(folder) == PLAIN
    assert info.listing is not None and info.listing[:2] == ((4, 4), (2, 2))
    assert dict(info.listing.passed_over) == {
        "hidden": 5, ".csv": 1, "no ending": 1, ".eps": 1, "no file": 1,
    }  # fmt: skip
    assert info.summary() == (
        "8 training images in 2 classes (a, b), 4 test images; 9 files passed over (hidden 5, "
        ".csv 1, .eps 1, no ending 1, no file 1)"
    )
    assert before.summary() == "8 training images in 2 classes (a, b), 4 test images"


def test_what_pillow_reads_is_read_whatever_its_name(folder: Path) -> None:
    for i, ending in enumerate((".jfif", "", ".bin", ".tga")):
        kind = {".jfif": "JPEG", ".tga": "TGA"}.get(ending, "PNG")
        with Image.open(folder / f"train/b/{i}.png") as image:
            image.save(folder / f"train/b/{i}{ending}", kind)
        (folder / f"train/b/{i}.png").unlink()
    assert greys(folder) == PLAIN


def test_linked_folders_are_followed_and_loops_are_not(folder: Path, tmp_path: Path) -> None:
    (folder / "train/b").rename(tmp_path / "b")
    (folder / "train/b").symlink_to(tmp_path / "b")
    (tmp_path / "more").mkdir()
    Image.new("L", (6, 6), 7).save(tmp_path / "more" / "0.png")
    (folder / "train/a/z").symlink_to(tmp_path / "more")
    (folder / "train/a/up").symlink_to(folder)  # the test split must not come in
    (tmp_path / "more/around").symlink_to(folder / "train/a")
    assert greys(folder) == [*PLAIN[:4], 7, *PLAIN[4:]]
    listing = describe(args_of(folder), tmp_path / "data").listing
    assert listing == Listing((5, 4), (2, 2), (("link to a folder that is read already", 2),))


def test_names_that_are_not_utf_8(folder: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (folder / split / "a").rename(folder / split / os.fsdecode(b"caf\xe9"))
    broken = folder / "train/b" / os.fsdecode(b"\xff.png")
    (folder / "train/b/0.png").rename(broken)
    assert describe(args_of(folder), tmp_path / "data").classes == ("b", r"caf\xe9")
    assert greys(folder) == [110, 120, 130, 100, *PLAIN[:4]]
    broken.write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"train/b/\\xff\.png is not a readable image"):
        greys(folder)


def test_a_class_is_the_same_in_both_unicode_forms(folder: Path, tmp_path: Path) -> None:
    """As NFC in both splits: same fingerprint, same order; a Mac writes the other form."""
    found = []
    for train, test in (("NFC", "NFC"), ("NFD", "NFC"), ("NFD", "NFD")):
        for split, form in (("train", train), ("test", test)):
            (old,) = (p for p in (folder / split).iterdir() if p.name != "b")
            old.rename(folder / split / unicodedata.normalize(form, CAFE))
        found.append(describe(args_of(folder), tmp_path / "data")._replace(warnings=()))
        assert greys(folder) == [*PLAIN[4:], *PLAIN[:4]]
    assert found[0].classes == ("b", CAFE) and found[0] == found[1] == found[2]


def looking_alike(folder: Path) -> None:
    for form in ("NFC", "NFD"):
        (folder / "train" / unicodedata.normalize(form, CAFE)).mkdir()
        Image.new("L", (6, 6)).save(folder / "train" / unicodedata.normalize(form, CAFE) / "0.png")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (looking_alike, r"looks like another class folder \('cafe\\u0301' and 'caf\\xe9'\)"),
        (lambda f: (f / "train/a/x.jpg").mkdir(), "x.jpg is a folder with an image's name; rename"),
        (lambda f: (f / "test/b/x.png").symlink_to("gone"), "x.png is a link to nothing "),
        (lambda f: (f / "test/b/x.png").symlink_to("x.png"), "x.png is a link to nothing "),
        (lambda f: (f / "train/c").symlink_to("gone"), "train/c is a link to nothing "),
    ],
)
def test_what_cannot_be_meant_is_one_line(folder: Path, spoil: Any, said: str) -> None:
    spoil(folder)
    with pytest.raises(DataError, match=said) as error:
        describe(args_of(folder), folder.parent / "data")
    assert "\n" not in str(error.value)


def test_all_that_is_damaged_is_named_at_once(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(20, 33):  # cut short anywhere: decoders raise all sorts of things
        path, kind = folder / f"train/a/{i}.x", ("PNG", "TIFF", "GIF", "WEBP")[i % 4]
        Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)).save(path, kind)
        path.write_bytes(path.read_bytes()[: 200 + 10 * i])
        path.rename(path.with_suffix(".png"))
    with pytest.raises(DataError) as error:
        greys(folder)
    first, *lines, last = str(error.value).splitlines()
    assert first == "ImageFolder: 13 images cannot be read" and last == "  and 3 more"
    assert len(lines) == 10
    for i, line in zip(range(20, 30), lines, strict=True):
        assert f"train/a/{i}.png is not a readable image (" in line
    for i in range(2):
        (folder / f"test/a/{i}.png").unlink()
        (folder / f"train/b/l{i}.png").symlink_to("gone")
    with pytest.raises(DataError) as error:
        describe(args_of(folder), folder.parent / "data")
    _, *lines = str(error.value).splitlines()
    for line, said in zip(
        lines, ("b/l0.png is a", "b/l1.png is a", "test/a holds no"), strict=True
    ):
        assert said in line
