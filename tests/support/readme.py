"""Code that the READMEs show."""

from __future__ import annotations

import re

from tests.support.home import HOME


def readme_script(name: str = "README.md") -> str:
    text = (HOME / name).read_text()
    found = re.search(r"```python\n(# classify\.py.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]
