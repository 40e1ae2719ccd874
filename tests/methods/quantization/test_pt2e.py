"""Backend `pt2e` needs no compiler, and its earlier name means the same."""

from __future__ import annotations

import shutil

import pytest

from engines import ENGINES
from experiment.suite.chains import plan
from experiment.suite.schema import load_suite
from tests.support.suites import Suites


def test_without_a_compiler_and_by_either_name(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(ENGINES, "onnxruntime", ENGINES["eager"])  # one that is there
    keys = []
    for options in ({}, {"backend": "inductor"}, {"backend": "pt2e"}):
        path = suites.write(
            f"""
            del DEFAULT_COMPRESSION_PARAMS["quantization_backend"], DEFAULT_DEPLOYMENT_PARAMS
            for name in ("ptq", "qat"):
                EXPERIMENT_CONFIGS.append(chain(name, {{name: {options}}}))
            """
        )
        keys.append([step.key for each in plan(load_suite(path)) for step in each.steps])
    assert keys[0] == keys[1] == keys[2] and len(set(keys[0])) == 3
