"""Notices at a site's node that its coordinator is silent: Flower's loop asks on for ever, and says nothing."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
SILENT_S, LOOK_S = 20.0, 1.0
"""A question that long without an answer is told of; how often that is looked at."""


class Silence:
    """Around the questions for work.

    Args:
        tell: Gets True when the coordinator has been silent for long, False when it is back.
    """

    def __init__(self, tell: Callable[[bool], None]) -> None:
        self._tell = tell
        self._asked: float | None = None
        self._lock = threading.Lock()
        self._silent = False
        threading.Thread(target=self._look, name="silence", daemon=True).start()

    def during(self, ask: Callable[[], T]) -> T:
        """What `ask` returns, however long it takes."""
        self._asked = time.monotonic()
        try:
            return ask()
        finally:
            with self._lock:
                self._asked = None
                if self._silent:
                    self._silent = False
                    self._tell(False)

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_S)
            with self._lock:
                asked = self._asked
                if asked is not None and not self._silent and time.monotonic() > asked + SILENT_S:
                    self._silent = True
                    self._tell(True)
