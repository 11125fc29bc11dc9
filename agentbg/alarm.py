"""The runtime's alarm clock: one timer for all runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .clock import Clock
from .core.queue import PollQueue

AT_ONCE = 256
"""Runs woken before the event loop has its turn again: ten thousand that are due together are not to stop it."""


class Alarm:
    """Calls when a run's time has come: `wake(run_id)`, in the event loop. One time per run, set again at will.

    `late` is told of each by how many seconds it was late.
    """

    def __init__(
        self, clock: Clock, wake: Callable[[str], None], late: Callable[[float], object] | None = None
    ) -> None:
        self._clock = clock
        self._wake, self._late = wake, late
        # Invariant: while a run is in the queue, the timer is set, for its time or an earlier one.
        self._timer: asyncio.TimerHandle | None = None
        self.queue = PollQueue()

    def set(self, run_id: str, at: float) -> None:
        """Wake this run at `at`, by the runtime's clock, in the place of any time set before."""
        self.queue.set(run_id, at)
        self._ring_by(at)

    def discard(self, run_id: str) -> None:
        """Do not wake this run."""
        self.queue.discard(run_id)

    def stop(self) -> None:
        """Wake nobody any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _ring_by(self, at: float) -> None:
        if self._timer is not None and self._timer.when() <= at:
            return

        self.stop()  # the timer of a later time
        self._timer = asyncio.get_running_loop().call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self._clock.now()
        for _ in range(AT_ONCE):
            at, run_id = self.queue.next_at(), self.queue.pop_due(now)
            if at is None or run_id is None:
                break

            if self._late is not None:
                self._late(now - at)

            self._wake(run_id)

        at = self.queue.next_at()
        if at is not None:
            self._ring_by(at)
