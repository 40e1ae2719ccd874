"""The C++ compiler: how it is called, whether it works, and libraries made with it and kept."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from machine.cache import cache_folder
from machine.files import sha256, write_atomically
from machine.processor import processor

OPENMP = "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n"
LIBRARY_FLAGS = "-O3 -march=native -std=c++17 -fopenmp -fno-math-errno -shared -fPIC"


def command() -> list[str]:
    """What CXX says, split as a shell splits it; g++ where it says nothing."""
    return shlex.split(os.environ.get("CXX", "g++"))


def missing() -> str | None:
    """What speaks against compiling here; None where the compiler is there.

    Inductor takes CXX as the name of one program, so 'ccache g++' is none for it.
    """
    if shutil.which(os.environ.get("CXX", "g++")) is not None:
        return None
    return "needs a C++ compiler, and there is neither g++ nor what CXX names"


def trial() -> tuple[bool, str]:
    """Whether a program with OpenMP can be made and run, with the version or the complaint."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "try.cpp"), Path(folder, "try")
        source.write_text(OPENMP)
        for step in ([*command(), "-fopenmp", str(source), "-o", str(program)], [str(program)]):
            try:
                done = subprocess.run(step, capture_output=True, text=True, timeout=60)
            except (OSError, subprocess.TimeoutExpired) as error:
                done = subprocess.CompletedProcess(step, 1, "", str(error))
            if done.returncode != 0:
                lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
                return False, f"{shlex.join(command())} cannot make and run a program: {lines[0]}"
    told = subprocess.run([*command(), "--version"], capture_output=True, text=True).stdout
    return True, told.splitlines()[0] if told else shlex.join(command())


def library(source: Path, *flags: str) -> ctypes.CDLL | None:
    """A C++ file as a loaded library; None where no compiler makes it.

    Not torch.utils.cpp_extension.load: that takes half a minute where this takes a second, as it
    includes torch's headers, and it needs ninja. Kept in the cache folder, a file for each kind of
    processor, or for this process alone where nothing can be kept.
    """
    words = command()
    if not words or shutil.which(words[0]) is None:
        return None
    words += [*shlex.split(LIBRARY_FLAGS), *flags]
    key = sha256("\n".join([source.read_text(), *words, processor()]).encode())[:24]
    kept = cache_folder() / f"{source.stem}_{key}.so"
    with contextlib.suppress(OSError):  # not there, or damaged: made anew
        return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory(prefix="library-") as folder:
        binary = Path(folder, "library.so")
        try:
            words += [str(source), "-o", str(binary)]
            subprocess.run(words, check=True, capture_output=True, timeout=120)
            with contextlib.suppress(OSError):  # no place to keep it
                write_atomically(kept, binary.read_bytes())
            return ctypes.CDLL(str(binary))
        except (OSError, subprocess.SubprocessError):
            return None


def keep_inductors_code() -> None:
    """Let torch's compiler keep its code in the cache folder, where nobody told it another.

    By default that is a folder of a known name in /tmp, which others could make first. Headers
    that it compiles once (200 MB) lie there whatever it is told.
    """
    from torch._inductor import codecache
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    folder, named = cache_folder() / "inductor", "TORCHINDUCTOR_CACHE_DIR"
    if os.environ.get(named, default_cache_dir()) == default_cache_dir():
        os.environ[named] = str(folder)
    codecache._HEADER_DIR = str(folder / "precompiled_headers")
    codecache._HEADER_LOCK_DIR = str(folder / "precompiled_headers" / "locks")
