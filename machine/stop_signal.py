"""Ctrl-C and SIGTERM, as a flag that a run asks after every step; who does not ask is ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from machine.errors import Interrupted

GRACE_SECONDS = 3.0  # longest time that a stop waits for somebody to ask


class StopSignal:
    """Set by Ctrl-C or SIGTERM; asked after every training step and between stages.

    Who asks saves what it has. What does not ask within GRACE_SECONDS (an evaluation, a search, a
    compilation, a step that takes minutes) has nothing worth waiting for: it is ended where it is,
    and begins anew from the last snapshot.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.heeded = threading.Event()

    def __call__(self) -> bool:
        if self.received is not None:
            self.heeded.set()
        return self.received is not None

    @contextmanager
    def listening(
        self,
        say: Callable[[str], None],
        numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    ) -> Iterator[None]:
        """Inside, the first signal asks to stop and a second one ends the work at once.

        Raises Interrupted where it ended so.
        """
        repeating: list[threading.Thread] = []

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self.received is not None:
                raise KeyboardInterrupt
            self.received = signal.Signals(number).name
            repeating.append(threading.Thread(target=self._repeat, args=(number,), daemon=True))
            repeating[0].start()
            say(
                f"\n{self.received}: stopping after the current step, or in {GRACE_SECONDS:.0f} s; "
                "once more to stop at once"
            )

        before = {number: signal.signal(number, on_signal) for number in numbers}
        try:
            yield
        except KeyboardInterrupt:
            if self.received is None:
                raise
            raise Interrupted from None
        finally:
            self.heeded.set()
            for thread in repeating:
                thread.join()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _repeat(self, number: int) -> None:
        """Send the signal again until it is heeded; it ends a wait for a compiler as well."""
        while not self.heeded.wait(GRACE_SECONDS):
            signal.pthread_kill(threading.main_thread().ident or 0, number)
