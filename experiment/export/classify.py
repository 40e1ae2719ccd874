"""Classes of pictures by the network beside this file: `python classify.py IMAGE...`

A line a picture, tab-separated: its file, its class, the probability. Needs what requirements.txt
names, and nothing else. Exit code 1 where a picture cannot be read; the others are classified.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

try:
    import numpy as np
    from PIL import ExifTags, Image, ImageOps, TiffImagePlugin
except ImportError as error:
    sys.exit(f"classify.py: needs {error.name}; pip install -r requirements.txt")

BATCH = 64  # pictures at once, where the network takes any number
MOST_PIXELS = 2**29  # of a picture that is decoded whole: 2 GiB in colour
LARGE_PIXELS = 2 * (1024**3 // 4 // 3)  # above it a JPEG is decoded at a fraction of its size
MAX_SAMPLE_VALUE = 281  # the tag of a TIFF; its default is the largest value that fits
UNREAD = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}  # formats that other programs decode


class Problem(Exception):
    """One line for the user."""


class Network(NamedTuple):
    """What a runtime has read."""

    run: Callable[[np.ndarray], np.ndarray]  # float32 `[B, C, H, W]`, 0 to 1 → logits `[B, K]`
    about: dict[str, str]  # what its file says of itself


def main() -> int:
    """Classify what the command line names; returns the exit code."""
    parser = ArgumentParser(description="Classes of pictures, with their probabilities.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--top", type=int, default=1, metavar="N", help="classes a picture; 1")
    args = parser.parse_intermixed_args()
    if args.top < 1:
        parser.error(f"--top {args.top} should be a whole number from 1")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    Image.MAX_IMAGE_PIXELS = None  # MOST_PIXELS is in its place
    here = Path(__file__).resolve().parent
    try:
        network = load(here)
        labels = (here / "labels.txt").read_text(encoding="utf-8").split("\n")
    except (Problem, OSError, UnicodeDecodeError) as problem:
        print(f"classify.py: {problem}", file=sys.stderr)
        return 2
    if network.about["needs_vnni"] == "true" and lacks_vnni():
        text = "this processor has no VNNI, without which the network's int8 sums are cut off"
        print(f"classify.py: {text}; its classes may be wrong", file=sys.stderr)
    unread = 0
    for start in range(0, len(args.images), BATCH):
        names, pictures = [], []
        for name in args.images[start : start + BATCH]:
            try:
                pictures.append(picture(name, network.about))
                names.append(os.fsencode(name).decode(errors="backslashreplace"))
            except Problem as problem:
                unread += 1
                print(f"classify.py: {problem}", file=sys.stderr)
        if pictures:
            for name, each in zip(names, probabilities(network, np.stack(pictures)), strict=True):
                best = [
                    (labels[i], f"{100 * each[i]:.1f} %") for i in np.argsort(-each)[: args.top]
                ]
                print(name, *(text for pair in best for text in pair), sep="\t")
    return 1 if unread else 0


def probabilities(network: Network, pictures: np.ndarray) -> np.ndarray:
    """uint8 `[N, C, H, W]` → `[N, K]`. The network takes values from 0 to 1 and normalises them."""
    fixed = int(network.about.get("batch", 0))
    size = fixed or len(pictures)
    found = []
    for start in range(0, len(pictures), size):
        part = pictures[start : start + size].astype(np.float32) / 255
        lacking = fixed - len(part) if fixed else 0
        padded = np.pad(part, ((0, lacking), (0, 0), (0, 0), (0, 0)))
        found.append(network.run(padded)[: len(part)])
    logits = np.concatenate(found).astype(np.float64)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


# --- pictures ------------------------------------------------------------------------------------


def picture(name: str, about: dict[str, str]) -> np.ndarray:
    """uint8 `[C, H, W]`, upright, brought to the network's size as its data were."""
    shown = os.fsencode(name).decode(errors="backslashreplace")
    if not Path(name).exists():
        raise Problem(f"{shown}: there is no such file")
    if Path(name).is_dir():
        raise Problem(f"{shown}: is a folder; name the images in it, as {shown}/*.png")
    height, width = json.loads(about["image_size"])
    Image.init()
    try:
        with Image.open(name, formats=[each for each in Image.OPEN if each not in UNREAD]) as image:
            pixels = image.width * image.height
            if pixels > LARGE_PIXELS:
                image.draft(None, (2 * max(height, width),) * 2)
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{pixels} pixels; save it smaller")
            ImageOps.exif_transpose(image, in_place=True)
            plain = eight_bits(image, int(about["bits"]))
            plain = plain.convert("L" if about["channels"] == "grey" else "RGB")
            values = np.array(fitted(plain, (width, height), about["fit"]))
    except Exception as error:  # damage surfaces as whatever a decoder happens to raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise Problem(f"{shown} is not a readable image ({reason})") from None
    return values.reshape(height, width, -1).transpose(2, 0, 1)


def fitted(image: Image.Image, size: tuple[int, int], fit: str) -> Image.Image:
    """The image at `size`: its centre cropped, the whole between black bars, or stretched."""
    if fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.BICUBIC)
    if fit == "pad":
        return ImageOps.pad(image, size, Image.Resampling.BICUBIC)
    return image.resize(size, Image.Resampling.BICUBIC)


def eight_bits(image: Image.Image, bits: int) -> Image.Image:
    """The image with 16-bit greys scaled down by their bits; Pillow would clip them to white."""
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if not deep:
        if image.mode in ("I", "F"):
            raise ValueError("32-bit values, whose range nothing tells; save it with 8 or 16 bits")
        return image
    values = np.asarray(image)
    largest = int(values.max())
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        maximum = int(np.max(image.tag_v2.get(MAX_SAMPLE_VALUE, 2**16 - 1)))
        sample = image.tag_v2[ExifTags.Base.BitsPerSample]
        tagged = max(8, min(*sample, 16, maximum.bit_length()))
        if tagged < 16 and largest < 2**tagged:
            bits = tagged
    if largest >= 2**bits:
        raise ValueError(f"values up to {largest}, and those of its data set have {bits} bits")
    return Image.fromarray((values >> (bits - 8)).astype(np.uint8))


# --- runtimes ------------------------------------------------------------------------------------


def load(folder: Path) -> Network:
    """The network of a folder, by the runtime of its file."""
    for name, read in READERS.items():
        if (folder / name).exists():
            try:
                return read(folder / name)
            except ImportError as error:
                raise Problem(f"needs {error.name}; pip install -r requirements.txt") from None
            except Exception as error:  # every runtime has its own
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise Problem(f"{name} cannot be read: {reason}") from None
    raise Problem(f"there is no {' or '.join(READERS)} beside it")


def onnx(path: Path) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # of what it finds in the machine
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    about, name = session.get_modelmeta().custom_metadata_map, session.get_inputs()[0].name
    return Network(lambda images: session.run(None, {name: images})[0], about)


def openvino_ir(path: Path) -> Network:
    """In float32: where a processor has bfloat16, OpenVINO would compute in that by default."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    entries: dict[str, Any] = model.get_rt_info(["model_info"]).value
    about = {key: str(getattr(value, "value", value)) for key, value in entries.items()}
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    return Network(lambda images: request.infer([images])[0].copy(), about)


def inductor_package(path: Path) -> Network:
    """Machine code, for the number of threads that it was made for."""
    os.environ["AOTI_RUNTIME_CHECK_INPUTS"] = "1"  # else a wrong shape gives wrong logits, unsaid
    # Where there is an nvcc and no GPU it says so.
    logging.getLogger("torch.utils.cpp_extension").addFilter(lambda record: False)
    import torch

    package = torch._inductor.aoti_load_package(str(path))
    about = package.get_metadata()
    torch.set_num_threads(int(about["threads"]))
    return Network(lambda images: package(torch.from_numpy(images)).numpy(), about)


READERS: dict[str, Callable[[Path], Network]] = {
    "network.onnx": onnx,
    "network.xml": openvino_ir,
    "network.pt2": inductor_package,
}


def lacks_vnni() -> bool:
    """Whether Linux says that an x86 processor has no VNNI."""
    try:
        found = re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return False
    return found is not None and not {"avx512_vnni", "avx_vnni"} & set(found[1].split())


if __name__ == "__main__":
    sys.exit(main())
