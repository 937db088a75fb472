"""Dynamic batching: what waits when the model is free goes through it together.

A request that comes alone runs alone, and while it runs the next ones gather. Only where the batch before
held several does the next wait a moment for as many.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

LINGER_S = 0.003
"""How long a batch waits for as many requests as the one before had."""
Features = NDArray[np.float32]
Run = Callable[[Sequence[Any]], list[Features]]


@dataclass
class _Waiting:
    records: Any
    future: "Future[Features]" = field(default_factory=Future)


class Batcher:
    """One thread that runs the backbone on whole batches.

    Args:
        run: Records of several requests to the features of each.
        max_records: Most records in a batch, unless one request has more; 1 turns batching off.
        on_batch: Told of every batch's number of records.
    """

    def __init__(self, run: Run, *, max_records: int, on_batch: Callable[[int], None]) -> None:
        self._run, self._max, self._on_batch = run, max_records, on_batch
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._left: _Waiting | None = None
        self._last = 1
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def submit(self, records: Any) -> "Future[Features]":
        """The features of a request's records, (n, dim), once they are there."""
        waiting = _Waiting(records)
        self._queue.put(waiting)
        return waiting.future

    def close(self) -> None:
        """Finish what was submitted, and stop."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._next()) is not None:
            batch, n, until = [first], len(first.records), time.monotonic() + LINGER_S
            while (
                n < self._max and (more := self._waiting(until if len(batch) < self._last else 0)) is not None
            ):
                if n + len(more.records) > self._max:
                    self._left = more
                    break
                batch.append(more)
                n += len(more.records)
            self._last = len(batch)
            self._answer([item for item in batch if item.future.set_running_or_notify_cancel()])

    def _next(self) -> _Waiting | None:
        if self._left is not None:
            found, self._left = self._left, None
            return found
        return self._queue.get()

    def _waiting(self, until: float) -> _Waiting | None:
        """The next that waits already, or comes before `until`."""
        left = until - time.monotonic()
        try:
            found = self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
        except queue.Empty:
            return None
        if found is None:
            self._queue.put(None)
        return found

    def _answer(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        self._on_batch(sum(len(item.records) for item in batch))
        try:
            found = self._run([item.records for item in batch])
        except BaseException as error:  # handed to whoever waits, so that no request hangs
            for item in batch:
                _fail(item.future, error)
            return
        for item, features in zip(batch, found, strict=True):
            item.future.set_result(features)


def _fail(future: "Future[Features]", error: BaseException) -> None:
    try:
        future.set_exception(error)
    except InvalidStateError:  # it was cancelled meanwhile
        return
