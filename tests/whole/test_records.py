"""This project's own records: whole, of today's code or marked, and quoted as they are."""

from __future__ import annotations

import re
import subprocess

import pytest

from benchmarks.records import pages
from benchmarks.records.__main__ import PLACE
from benchmarks.records.numbers import numbers_in
from benchmarks.records.record import load, names
from experiment.suite.sources import Sources
from tests.support import docs
from tests.support.home import HOME


@pytest.mark.parametrize("name", names(HOME))
def test_a_record_is_whole(name: str) -> None:
    record, folder = load(HOME, name), HOME / "records" / name
    assert record.taken and record.date and record.commit and record.machine and record.n
    assert (folder / "run.sh").exists() and (HOME / record.page).exists()
    assert f"(../../records/{name})" in docs.read(record.page)
    for key, figure in record.figures.items():
        assert figure.read(folder / "raw") == figure.found, key
    for path in (folder / "raw").rglob("*.json"):
        assert PLACE.search(path.read_text()) is None, path
    known = {number.value for row in pages.published(HOME, name, record) for number in row}
    known |= set(record.values())
    said = [number for number in numbers_in(record.claim) if "." in number.text]
    assert [number.text for number in said if not number.shows(known)] == []


@pytest.mark.parametrize("name", names(HOME))
def test_what_a_record_runs_is_there(name: str) -> None:
    path = HOME / "records" / name / "run.sh"
    assert subprocess.run(["sh", "-n", str(path)]).returncode == 0
    script = path.read_text()
    for module in re.findall(r"-m benchmarks\.(\w+)", script):
        assert (HOME / "benchmarks" / f"{module}.py").exists(), module
    for file in re.findall(r"(?<!\w)(?:configs|records|tests)/[\w/]+(?:\.py)?", script):
        assert (HOME / file).exists(), file


def test_no_record_is_silently_old() -> None:
    """After a change of code: python -m benchmarks.records mark."""
    sources = Sources(HOME)
    for name in names(HOME):
        record = load(HOME, name)
        assert record.changed(sources) == (record.measured_at is not None), name


def test_pages_have_the_lines_and_claims_of_records() -> None:
    """Else: python -m benchmarks.records claims."""
    for page, text in pages.fresh(HOME).items():
        assert docs.read(page) == text, page


@pytest.mark.parametrize("page", sorted(p.name for p in (HOME / "docs" / "results").glob("*.md")))
def test_pages_say_what_records_say(page: str) -> None:
    path = f"docs/results/{page}"
    title, opening, *_ = docs.read(path).split("\n\n")
    assert title.startswith("# ") and opening.endswith(".") and "\n" not in opening  # the finding
    wrong = pages.unfounded(HOME, path, docs.read(path))
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_readmes_say_what_records_say(readme: str) -> None:
    """In the section that names records; other tables there are about other things."""
    told = docs.read(readme)
    (section,) = (part for part in told.split("\n## ") if "](records/order" in part)
    wrong = pages.unfounded(HOME, readme, f"## {section}")
    assert section.count("](records/") >= 5 and not wrong, "\n".join(map(str, wrong))
