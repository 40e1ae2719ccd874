"""Without a C++ compiler backend `inductor` is refused before anything runs."""

from __future__ import annotations

import shutil

import pytest

from tests.support.suites import Suites


def test_without_a_compiler_the_config_is_refused(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    text = 'EXPERIMENT_CONFIGS.append(chain("Q", {"ptq": {"backend": "inductor"}}))'
    (message,) = suites.refused(text)
    assert message.startswith("Q.compression_args.sequence[0].backend: 'inductor' needs a C++ ")
    assert "install g++, or choose backend 'x86' by name" in message
