"""Image files of every depth and size against what was written; statistics against a plain sum."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from data_sets import images
from data_sets.images import channel_statistics, largest_value, read_header, read_image
from data_sets.source import DataError


def test_statistics_equal_a_plain_computation() -> None:
    images = torch.randint(0, 256, (5000, 3, 4, 4), dtype=torch.uint8)
    mean, std = channel_statistics(images)
    scaled = images.double() / 255
    torch.testing.assert_close(torch.tensor(mean), scaled.mean((0, 2, 3)).float())
    expected = scaled.std((0, 2, 3), correction=0).float()
    torch.testing.assert_close(torch.tensor(std), expected)


GREYS = np.random.default_rng(0).integers(0, 4096, (9, 12), dtype=np.uint16)
COLOURS = np.random.default_rng(1).integers(0, 4096, (9, 12, 3), dtype=np.uint16)


def save_png16(path: Path, values: np.ndarray) -> None:
    """Write `[H, W, C]` as a PNG of 16 bits a channel, which Pillow cannot for colours."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks))


def test_16_bit_greys_keep_the_levels_that_they_have(tmp_path: Path) -> None:
    expected = torch.from_numpy((GREYS // 16).astype(np.uint8))[None]
    for name in ("a.png", "a.tif"):
        path = tmp_path / name
        Image.fromarray(GREYS).save(path)
        assert largest_value(path) == GREYS.max()
        assert torch.equal(read_image(path, 1, bits=12), expected)
        assert torch.equal(read_image(path, 1), expected // 16)  # as 16 bits: 16 levels
        with pytest.raises(DataError, match=f"values up to {GREYS.max()}, and those of its data"):
            read_image(path, 1, bits=10)


def test_a_tiff_that_says_its_range_is_scaled_by_it(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 4095  # MaxSampleValue
    Image.fromarray(GREYS).save(tmp_path / "a.tif", tiffinfo=tags)
    header = read_header(tmp_path / "a.tif")
    assert header is not None and header.tagged == 12 and not header.deep
    expected = torch.from_numpy((GREYS // 16).astype(np.uint8))[None]
    assert torch.equal(read_image(tmp_path / "a.tif", 1), expected)
    Image.fromarray(GREYS * 16).save(tmp_path / "b.tif", tiffinfo=tags)  # which is not true
    assert torch.equal(read_image(tmp_path / "b.tif", 1), expected)


def test_16_bit_colours_are_known(tmp_path: Path) -> None:
    """Of which Pillow reads the upper 8 bits."""
    path = tmp_path / "a.png"
    alpha = np.full((9, 12, 1), 65535, np.uint16)
    for values in (COLOURS, np.concatenate([COLOURS, alpha], 2)):
        save_png16(path, values)
        header = read_header(path)
        assert header is not None and header.halved and not header.deep
        assert largest_value(path) == COLOURS.max() // 256
        expected = torch.from_numpy((COLOURS // 256).astype(np.uint8)).permute(2, 0, 1)
        assert torch.equal(read_image(path, 3), expected)


def test_a_large_jpeg_is_shrunk_while_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a small image of it; and what is not shrunk has a limit, whatever Pillow's own."""
    ramp = np.linspace(0, 255, 640).astype(np.uint8)
    Image.fromarray(np.repeat(ramp[None], 480, 0)).save(tmp_path / "a.jpg", quality=95)
    whole = read_image(tmp_path / "a.jpg", 1, (12, 16))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert torch.equal(read_image(tmp_path / "a.jpg", 1, (12, 16)), whole)
    monkeypatch.setattr(images, "PILLOW_PIXELS", 1000)
    monkeypatch.setattr(images, "MOST_PIXELS", 640 * 480 // 16)
    shrunk = read_image(tmp_path / "a.jpg", 1, (12, 16))
    assert (shrunk.int() - whole.int()).abs().max() <= 2
    with pytest.raises(DataError, match="640×480 pixels, and at most 0 million are decoded"):
        read_image(tmp_path / "a.jpg", 1)
    assert Image.MAX_IMAGE_PIXELS == 100
