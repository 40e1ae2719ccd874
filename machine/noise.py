"""Silencing other packages, which remark on their own innards where nobody can act on it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Inside, no warning is shown; errors still come through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Inside, no warning is shown and nothing is printed, for packages that do both."""
    out = io.StringIO()
    with without_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        yield


def drop_remarks(logger: str, text: str = "") -> None:
    """From now on a logger shows nothing below an error that contains `text`."""
    logging.getLogger(logger).addFilter(
        lambda record: record.levelno > logging.WARNING or text not in str(record.msg)
    )
