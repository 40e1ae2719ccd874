"""Ctrl-C and SIGTERM, as a flag that a run asks after every step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType


class StopSignal:
    """Set by Ctrl-C or SIGTERM; asked after every training step and between stages."""

    def __init__(self) -> None:
        self.received: str | None = None

    def __call__(self) -> bool:
        return self.received is not None

    @contextmanager
    def listening(
        self,
        say: Callable[[str], None],
        numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    ) -> Iterator[None]:
        """Inside, the first signal asks to stop and a second one ends the process at once."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self.received is not None:
                raise KeyboardInterrupt
            self.received = signal.Signals(number).name
            say(f"\n{self.received}: stopping after the current step; once more to stop at once")

        before = {number: signal.signal(number, on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
