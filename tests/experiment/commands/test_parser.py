"""What argparse refuses is one line that names the command's own help."""

from __future__ import annotations

from typing import Any


def test_what_argparse_says_comes_with_the_right_help(command: Any) -> None:
    assert command("show", "PF", "--confg", "x")[2][0].endswith("did you mean --config?")
    for arguments in (["show"], ["compare", "PF"], ["predict", "x", "y", "--top", "²"]):
        code, _, (line,) = command(*arguments)
        assert code == 2 and line.endswith(f"; see python main.py {arguments[0]} --help")
