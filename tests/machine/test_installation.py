"""Why an import failed and what helps, and versions against their ranges."""

from __future__ import annotations

import pytest

from machine import installation
from tests.support.home import HOME


@pytest.mark.parametrize(
    ("name", "error", "cause", "remedy"),
    [
        ("torchao", "ModuleNotFoundError: No module named 'torchao'", "is not installed", "-r req"),
        ("torch", "ImportError: libcudnn.so.9: cannot open", "lacks one of its lib", "'torch>="),
        ("torch", "killed by SIGILL", "another processor", "--force-reinstall torch"),
        ("scikit-learn", "ValueError: numpy.dtype size changed", "another numpy", "-r req"),
        ("rich", "SyntaxError: bad", "SyntaxError: bad", "--force-reinstall rich"),
        ("torchvision", "ImportError: _C.so: undefined symbol: _Z", "are not a pair", "one place"),
    ],
)
def test_failed_imports_have_a_cause_and_a_remedy(
    name: str, error: str, cause: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "not installed" in cause:
        monkeypatch.setattr(installation, "installed", lambda name: None)
    found = installation.explain(name, error)
    assert cause in found[0] and remedy in found[1]


def test_versions_are_held_against_their_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "import_error", lambda name: "")
    assert {finding.mark for finding in installation.packages()} == {"ok"}
    monkeypatch.setattr(installation, "installed", lambda name: "0.1.9+cpu")
    findings = {finding.subject: finding for finding in installation.packages()}
    assert findings["torch"].mark == "note" and "0.1.9+cpu is outside of >=2" in (
        findings["torch"].text
    )


def test_mistakes_in_ones_own_stage_are_told_with_their_place() -> None:
    try:
        exec(compile("1 / 0", str(HOME / "stages" / "mine.py"), "exec"))
    except ZeroDivisionError as error:
        assert installation.cannot_start(error) == (
            "stages/mine.py:1: ZeroDivisionError: division by zero"
        )
