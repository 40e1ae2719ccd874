"""The doctor finds broken packages, compilers, folders and suites, also where torch is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import main
from experiment.commands import doctor
from machine import installation
from tests.support.home import HOME
from tests.support.suites import SUITE, Ran


def fake_packages(folder: Path, **content: str) -> dict[str, str]:
    """An environment where the packages are these, and others that torch would need are empty."""
    modules = [installation.MODULES.get(name, name) for name in installation.requirements()]
    for name in modules:
        package = folder / name / "__init__.py"
        package.parent.mkdir(parents=True)
        package.write_text(content.get(name, ""))
    return {**os.environ, "PYTHONPATH": str(folder)}


def run_doctor(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "main.py", *(arguments or ["doctor"])]
    done = subprocess.run(command, cwd=HOME, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


def test_the_doctor_explains_a_broken_pair(tmp_path: Path) -> None:
    broken = 'raise RuntimeError("operator torchvision::nms does not exist")'
    environment = fake_packages(tmp_path, torchvision=broken)
    code, out = run_doctor(environment)
    assert code == 1
    assert "BAD   torchvision" in out and "its compiled part does not fit torch" in out
    assert "pip install --force-reinstall 'torch>=" in out and "1 to be mended" in out
    assert "this folder" in out and "can be written" in out


def test_the_doctor_works_without_torch(tmp_path: Path) -> None:
    crash = "import os; os.kill(os.getpid(), 11)"
    environment = fake_packages(tmp_path, torch=crash, torchvision="import torch")
    code, out = run_doctor(environment)
    assert code == 1
    assert "killed by SIGSEGV" in out and "not tried without torch" in out
    shutil.rmtree(tmp_path)
    (tmp_path / "numpy").mkdir(parents=True)
    (tmp_path / "numpy" / "__init__.py").write_text('raise ImportError("half installed")')
    code, out = run_doctor(environment, "--dry-run")
    assert code == 2
    assert out == (
        "cannot start: ImportError: half installed; to find the remedy: python main.py doctor\n"
    )


def test_the_doctor_looks_at_machine_suite_and_folders(
    ran: Ran, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(installation, "import_error", lambda name: "")
    assert main.main(["doctor", "--config", str(ran.config)]) == 0
    out = capsys.readouterr().out
    assert "suite          " in out and "5 experiments, no mistakes" in out
    assert "Digits, 10 classes, 1×8×8: found" in out
    assert f"{ran.results} can be written" in out
    monkeypatch.setattr(doctor, "LEAST_FREE", 1e18)
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    other = tmp_path / "suite.py"
    other.write_text(SUITE.format(folder=tmp_path) + 'DEFAULT_DATASET_CONFIG = {"name": "CIFAR10"}')
    assert main.main(["doctor", "--config", str(other)]) == 0
    out = capsys.readouterr().out
    assert "engine 'inductor' needs a C++ compiler" in out and "make room" in out
    assert "cifar-10-python.tar.gz is not in" in out and "configs/quickstart.py" in out
    other.write_text("EXPERIMENT_CONFIGS = [{'name': 'a', 'sedes': [1]}]")
    assert main.main(["doctor", "--config", str(other)]) == 1
    assert "a.sedes: 'sedes' is not known; did you mean 'seeds'?" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_a_compiler_that_does_not_work_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "cxx"
    fake.write_text("#!/bin/sh\necho 'cannot find -lgomp' >&2\nexit 1\n")
    fake.chmod(0o700)
    monkeypatch.setenv("CXX", str(fake))
    found = doctor.compiler()
    assert (
        found.mark == "note" and "cannot make and run a program: cannot find -lgomp" in found.text
    )


def test_engines_are_listed_with_their_versions_and_what_they_lack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = SimpleNamespace(unavailable=lambda: None)
    lacking = SimpleNamespace(unavailable=lambda: "is not installed; pip install openvino")
    monkeypatch.setattr(
        "engines.ENGINES", {"eager": here, "onnxruntime": here, "openvino": lacking}
    )
    there, other = doctor.engines()
    versions = f"torch {metadata.version('torch')}", metadata.version("onnxruntime")
    assert (there.mark, there.text) == ("ok", "eager ({}), onnxruntime ({})".format(*versions))
    assert (other.mark, other.text) == ("note", f"openvino {lacking.unavailable()}")


def test_backends_that_this_build_of_torch_lacks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.backends().text.startswith("pt2e, x86, fbgemm")
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["none", "qnnpack"])
    found = doctor.backends()
    assert found.mark == "note" and found.text.startswith("pt2e, qnnpack; x86 is not in this build")


def test_a_folder_below_a_file_is_bad(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert doctor.folder("X", tmp_path / "file" / "below").mark == "bad"
    assert doctor.folder("X", tmp_path / "a" / "b").mark == "ok"
    assert not (tmp_path / "a").exists()
