"""Names of files that hold to what a file system takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machine.files import NAME_BYTES, bounded_name, write_atomically


@pytest.mark.parametrize("sign", ["x", "é", "数", "\N{SNOWMAN}"])
def test_long_names_fit_and_stay_apart(sign: str, tmp_path: Path) -> None:
    """Counted in bytes, whole characters, with room for an ending and a temporary name."""
    most = NAME_BYTES // len(os.fsencode(sign))
    assert bounded_name(sign * most) == sign * most
    begun, ended = sign * (most + 1), f"a{sign * most}"
    middles = [f"{sign * most}{number}{sign * most}" for number in range(3)]
    names = [bounded_name(name) for name in (begun, ended, *middles)]
    assert len(set(names)) == 5
    for name in names:
        assert NAME_BYTES - 8 <= len(os.fsencode(name)) <= NAME_BYTES
        write_atomically(tmp_path / f"{name}_batch_64.onnx", b"content")
    assert names[2].startswith(sign * (most // 3)) and names[2].endswith(sign * (most // 3))
