"""The cache folder is its user's own; what others could write to is not used, which is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machine import cache


@pytest.fixture(autouse=True)
def _unchecked() -> None:
    cache._checked.cache_clear()


def test_it_is_made_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "a" / "b"))
    assert cache.cache_folder() == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_by_default_it_lies_where_the_system_keeps_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / cache.APPLICATION


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_write_to_is_not_used(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    monkeypatch.setenv(cache.VARIABLE, str(folder))
    used = cache.cache_folder()
    assert used != folder and used.stat().st_mode & 0o777 == 0o700
    assert cache.cache_folder() == used
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{folder} can be written to by other users" in said


def test_nor_one_below_a_folder_in_which_others_can_rename(tmp_path: Path) -> None:
    folder = tmp_path / "open" / "cache"
    folder.mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    assert cache.unsafe(folder) is None
    folder.parent.chmod(0o777)
    assert cache.unsafe(folder) is not None
    folder.parent.chmod(0o1777)  # as /tmp is: nobody renames what is not theirs
    assert cache.unsafe(folder) is None


def test_nor_anothers_nor_one_behind_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, link = tmp_path / "cache", tmp_path / "link"
    folder.mkdir(mode=0o700)
    link.symlink_to(folder)
    assert cache.unsafe(link) is None
    folder.chmod(0o777)
    assert cache.unsafe(link) is not None
    folder.chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    assert cache.unsafe(folder) == f"belongs to another user ({folder.resolve()})"


def test_where_none_can_be_made_it_is_a_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "cache"))
    assert cache.cache_folder().is_dir()
    assert "cannot be made" in capsys.readouterr().err
