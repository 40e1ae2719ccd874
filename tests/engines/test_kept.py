"""What engines took is kept for networks alike, and a file that is not ours says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines import kept

LARGE = kept.Kind("int8", 64, 2, 115_000_000)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(kept, "has_vnni", lambda: True)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "worth"),
    [
        ({}, True),
        ({"batch": 1}, False),
        ({"macs": 10**6}, False),
        ({"precision": "float32"}, False),
    ],
)
def test_where_nothing_is_kept_only_much_int8_is_worth_it(
    change: dict[str, object], worth: bool
) -> None:
    why = kept.why_not("inductor", LARGE._replace(**change))  # type: ignore[arg-type]
    assert (why is None) == worth
    assert worth or "name it in 'engines'" in str(why)


def test_where_the_processor_has_no_vnni_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "has_vnni", lambda: False)
    assert kept.why_not("inductor", LARGE) is not None
    kept.remember(LARGE, {"openvino": 1.0, "inductor": 0.9})
    assert kept.why_not("inductor", LARGE) is None  # unless it has won


@pytest.mark.parametrize(("took", "worth"), [(80.0, True), (102.0, True), (104.0, False)])
def test_what_was_measured_decides(took: float, worth: bool) -> None:
    kept.remember(LARGE, {"onnxruntime": 100.0, "openvino": 130.0, "inductor": took})
    alike = LARGE._replace(macs=120_000_000)
    why = kept.why_not("inductor", alike)
    assert (why is None) == worth
    assert worth or "1.04 times as long as onnxruntime" in str(why)
    others = LARGE._replace(threads=1), LARGE._replace(macs=900_000_000)
    assert all(kept.why_not("inductor", other) is None for other in others)


def test_a_small_network_that_won_once_is_compiled(folder: Path) -> None:
    small = kept.Kind("float32", 1, 2, 10**6)
    kept.remember(small, {"openvino": 1.0, "inductor": 0.5})
    kept.remember(LARGE, {"openvino": 1.0, "inductor": 2.0})
    assert kept.why_not("inductor", small) is None
    assert kept.why_not("inductor", LARGE) is not None


@pytest.mark.parametrize(
    "content",
    ["", "[1]", '{"a": 3}', '{"KEY": {"inductor": "fast"}}', '{"KEY": {"inductor": -1.0}}'],
)
def test_a_file_that_is_not_ours_says_nothing(folder: Path, content: str) -> None:
    (folder / kept.FILE).write_text(content.replace("KEY", LARGE.key()))
    assert kept.why_not("inductor", LARGE) is None
    kept.remember(LARGE, {"openvino": 1.0, "inductor": 2.0})
    assert kept.why_not("inductor", LARGE) is not None
