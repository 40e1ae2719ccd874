"""README and docs/ as the tests read them: blocks, tables, headings, links, backticked names."""

from __future__ import annotations

import re
from typing import NamedTuple

from tests.support.home import HOME

# Each text and its Chinese twin.
TWINS = {
    "README.md": "README.zh-CN.md",
    **{
        f"docs/{path.name}": f"docs/zh-CN/{path.name}"
        for path in sorted((HOME / "docs").glob("*.md"))
    },
}
TEXTS = [*TWINS, *TWINS.values(), "CONTRIBUTING.md", "CHANGELOG.md"]
RESULTS = [
    "records/README.md",
    *(f"docs/results/{path.name}" for path in sorted((HOME / "docs" / "results").glob("*.md"))),
]  # in English only

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: ```LANGUAGE USE, where USE says what the tests do with it.

    'run' is run, 'config' goes into a suite that is checked; without a word it is only parsed.
    """

    text: str  # the file that it stands in
    language: str
    use: str
    code: str


def read(text: str) -> str:
    return (HOME / text).read_text()


def blocks(text: str) -> list[Block]:
    return [
        Block(text, *info.partition(" ")[::2], code) for info, code in FENCE.findall(read(text))
    ]


def block(text: str, first_line: str) -> str:
    """The code of the block that begins so."""
    (found,) = (b.code for b in blocks(text) if b.code.startswith(first_line))
    return found


def prose(text: str) -> str:
    """All but the fenced blocks."""
    return FENCE.sub("", read(text))


def headings(text: str) -> list[str]:
    return re.findall(r"^(#+ .*)$", prose(text), re.MULTILINE)


def tables(text: str) -> list[list[list[str]]]:
    """Every table: its rows, the header first, each a list of cells."""
    found: list[list[list[str]]] = []
    for part in re.findall(r"(?:^\|.*\|\n)+", prose(text), re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines()]
        found.append([[cell.strip() for cell in row] for row in (rows[0], *rows[2:])])
    return found


def spans(markdown: str) -> list[str]:
    """What stands in backticks, on one line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", markdown)]


def links(text: str) -> list[str]:
    """Targets of links and pictures that lie in this project."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(text))
    return [target for target in found if not target.startswith("http")]


def anchor(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    words = re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower())
    return words.replace(" ", "-")
