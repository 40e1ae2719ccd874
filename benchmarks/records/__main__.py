"""Records of figures: list them, run one again and compare, take a new one, mark what has aged.

Run: python -m benchmarks.records                  list: claim, n, date, machine, code
     python -m benchmarks.records run NAME         run.sh into out/NAME, then compare
     python -m benchmarks.records compare NAME OUT compare what a run of it left in OUT
     python -m benchmarks.records take NAME OUT    OUT becomes the record's raw output and figures
     python -m benchmarks.records claims           rewrite what docs/results/ has from records
     python -m benchmarks.records mark             mark records whose code has changed; then claims
How a record is made is in records/README.md. Exit codes: 0 what is recorded holds, 1 something does
not, 2 what was asked cannot be done, in one line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.records import pages
from benchmarks.records.figures import raw
from benchmarks.records.record import HOME, TABLE, Record, check, folder_of, load, names, save
from experiment.suite.sources import Sources
from machine.environment import environment, git_commit
from machine.errors import Refused
from machine.files import write_atomically

DATA = "CIFAR10_JPEG"  # the variable that names the folder of images

KINDS = {  # what int8 and bfloat16 are fast by, the best first
    "amx_int8": "AMX",
    "avx512_bf16": "AVX512 with VNNI and bfloat16",
    "avx512_vnni": "AVX512 with VNNI",
    "avx_vnni": "AVX2 with VNNI",
    "avx512f": "AVX512",
    "avx2": "AVX2",
}
# An absolute path at the beginning of a string or of a word in it.
PLACE = re.compile(r"""(?:"|(?<=[\s='(:]))(/[\w.-]+/[^"\s]*)""")


def main(arguments: list[str] | None = None, home: Path = HOME) -> int:
    options = parser().parse_args(arguments)
    try:
        return options.do(home, options)
    except (Refused, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    told = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.records", description=told[0], epilog=told[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(do=list_all)
    commands = parser.add_subparsers()
    for do, words in (
        (run, ["name?"]), (compare, ["name", "out"]), (take, ["name", "out"]),
        (claims, []), (mark, []),
    ):  # fmt: skip
        command = commands.add_parser(do.__name__)
        command.set_defaults(do=do)
        for word in words:
            command.add_argument(word.rstrip("?"), nargs="?" if word.endswith("?") else None)
    return parser


def list_all(home: Path, options: argparse.Namespace) -> int:
    sources = Sources(home)
    for name in names(home):
        record = load(home, name)
        if not record.taken:
            print(f"{name}\n  {record.claim}\n  nothing taken yet")
            continue
        code = "code has changed since" if record.changed(sources) else "code as it was"
        facts = [f"n = {record.n}", record.date, record.machine, pages.measured(record), code]
        print(f"{name}\n  {record.claim}\n  {', '.join(str(fact) for fact in facts if fact)}")
    return 0


def run(home: Path, options: argparse.Namespace) -> int:
    if not options.name:
        return list_all(home, options)
    name, record = options.name, load(home, options.name)
    script, out = folder_of(home, name) / "run.sh", home / "out" / name
    if record.raw == TABLE:
        raise Refused(
            f"{name}: only the table that was published was kept, so nothing can be compared; "
            f"run `sh records/{name}/run.sh` and read what it prints"
        )
    if not script.exists():
        raise Refused(f"{script.relative_to(home)} is missing")
    if DATA in script.read_text() and images() is None:
        raise Refused(f"{name} needs {DATA}, the folder with train/<class>/ and test/<class>/")
    if out.exists():
        raise Refused(
            f"out/{name} is there already: delete it; or go on where it stopped by "
            f"`OUT=out/{name} sh records/{name}/run.sh`; or, if it is done, compare what it has by "
            f"`python -m benchmarks.records compare {name} out/{name}`"
        )
    out.mkdir(parents=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    surroundings = {**os.environ, "OUT": f"out/{name}", "PATH": path}
    code = subprocess.run(["sh", str(script)], cwd=home, env=surroundings).returncode
    if code:
        if any(out.iterdir()):
            left = f"what it left: out/{name}"
        else:
            out.rmdir()
            left = "it left nothing"
        raise Refused(f"records/{name}/run.sh ended with exit code {code}; {left}")
    if not record.taken:
        print(f"no figures yet; now: python -m benchmarks.records take {name} out/{name}")
        return 0
    return show(record, out)


def compare(home: Path, options: argparse.Namespace) -> int:
    record = load(home, options.name)
    if record.raw == TABLE:
        raise Refused(f"{options.name}: only the table that was published was kept")
    return show(record, Path(options.out))


def show(record: Record, out: Path) -> int:
    """A line a figure: recorded, now, allowed, verdict. 1 where one does not hold."""
    if not record.taken:
        raise Refused("it has no figures yet: `python -m benchmarks.records take NAME OUT`")
    lines, held = [("figure", "recorded", "now", "allowed", "")], []
    for key, figure in record.figures.items():
        was, now = figure.found, figure.read(out).value
        assert was is not None
        held.append(figure.holds(now))
        unit, verdict = figure.unit, "holds" if held[-1] else "DOES NOT HOLD"
        recorded = f"{figure.number(was.value)} {unit}".rstrip()
        lines.append((key, recorded, figure.number(now), figure.allowed(), verdict))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    for line in lines:
        print("  ".join(map(str.ljust, line, widths)).rstrip())
    return 0 if all(held) else 1


def take(home: Path, options: argparse.Namespace) -> int:
    """Copies what the figures stand in, and fills in what was found, when, where and by what.

    From the record's own raw folder the figures alone are computed anew.
    """
    name, out = options.name, Path(options.out)
    record, folder = load(home, name), folder_of(home, name) / "raw"
    again = out.resolve() == folder.resolve()
    found = {key: figure.read(out) for key, figure in record.figures.items()}
    figures = {k: f.model_copy(update={"found": found[k]}) for k, f in record.figures.items()}
    n = record.n if record.raw == TABLE else found[record.main[0]].n
    taken = record.model_copy(update={"figures": figures, "n": n})
    if not again:
        told: dict[str, Any] = next(filter(of_a_run, (raw(out, f) for f in record.files())), {})
        machine = told.get("environment") or environment(torch.device("cpu"))
        commit = told.get("git_commit") or git_commit()
        with code_of_commit(home, commit) as sources:
            now = record.code.now(sources)
        about = {
            "code": record.code.model_copy(update={"digest": now or None}),
            "seeds": told.get("seeds") or record.seeds,
            "date": (told.get("started") or time.strftime("%Y-%m-%d"))[:10],
            "commit": commit,
            "measured_at": None,
            "machine": in_words(machine),
            "environment": machine,
        }
        taken = taken.model_copy(update=about)
    check(f"records/{name}/record.json", taken)
    if not again:
        replace(folder, {file: anywhere(home, out, file) for file in record.files()}, taken)
    save(home, name, taken)
    print(f"{name}: " + "; ".join(f"{key} {taken.figures[key].told()}" for key in taken.main))
    return 0


def replace(folder: Path, texts: dict[str, str], record: Record) -> None:
    """The raw files by these, whole or not at all. Raises Refused if figures are others in them."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".raw-") as place:
        new = Path(place) / "raw"
        for file, text in texts.items():
            (new / file).parent.mkdir(parents=True, exist_ok=True)
            (new / file).write_text(text)
        for key, figure in record.figures.items():
            if figure.read(new) != figure.found:
                raise Refused(f"figures.{key} is another once places of this machine are replaced")
        if folder.exists():
            folder.rename(Path(place) / "old")
        new.rename(folder)


def images() -> str | None:
    """The folder of images, if one is named. Raises Refused for one that is relative or missing."""
    path = os.environ.get(DATA) or None
    if path and not (Path(path).is_absolute() and Path(path).is_dir()):
        raise Refused(f"{DATA}={path} has to be the absolute path of a folder that is there")
    return path


@contextmanager
def code_of_commit(home: Path, commit: str | None) -> Iterator[Sources]:
    """The project as it was at a commit, which a run may be older than; today's if it is this one.

    Also where files had been changed ('-dirty'), or where there is no git. Raises Refused for a
    commit that is not here.
    """
    if commit is None or commit.endswith("-dirty") or commit == git_commit():
        yield Sources(home)
        return
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(["git", "archive", commit], cwd=home, capture_output=True)
        if packed.returncode:
            raise Refused(f"commit {commit}, which made these files, is not here; fetch it first")
        subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, check=True)
        yield Sources(Path(folder))


def anywhere(home: Path, out: Path, file: str) -> str:
    """A file of `out` as JSON text without places of this machine. Raises Refused for others."""
    path = out / file
    if path.exists():
        text = path.read_text()
    else:
        text = json.dumps(raw(out, file), indent=1, ensure_ascii=False) + "\n"
    for place, word in ((out.resolve(), "$OUT"), (images(), f"${DATA}"), (home.resolve(), ".")):
        if place:
            text = re.sub(rf"{re.escape(str(place))}(?![\w.-])", lambda _, w=word: w, text)
    if left := PLACE.search(text):
        raise Refused(
            f"{path} names {left[1]}, a place of this machine; set {DATA} as in the run, and have "
            "the rest written below $OUT"
        )
    return text


def of_a_run(content: Any) -> bool:
    """Whether a raw file says which machine it was made on."""
    return isinstance(content, dict) and isinstance(content.get("environment"), dict)


def in_words(machine: dict[str, Any]) -> str:
    """A machine of `environment`, in a few words."""
    if machine.get("cuda"):
        return str(machine["device"])
    kind = next(
        (words for flag, words in KINDS.items() if flag in machine.get("isa", [])), "no AVX2"
    )
    return f"{machine.get('cpu', 'a processor')} ({kind}), threads: {machine.get('threads', '?')}"


def claims(home: Path, options: argparse.Namespace) -> int:
    """Rewrites the table of claims, and the line of each section that names its record."""
    for page, text in pages.fresh(home).items():
        if (home / page).read_text() != text:
            write_atomically(home / page, text.encode())
            print(f"{page}: rewritten")
    return 0


def mark(home: Path, options: argparse.Namespace) -> int:
    """From now on what rests on changed code says so, and what rests on today's does not."""
    sources = Sources(home)
    for name, record in pages.taken(home).items():
        at = (record.measured_at or record.commit) if record.changed(sources) else None
        if at != record.measured_at:
            save(home, name, record.model_copy(update={"measured_at": at}))
            print(f"{name}: measured at {at}" if at else f"{name}: its code is today's")
    return claims(home, options)


if __name__ == "__main__":
    sys.exit(main())
