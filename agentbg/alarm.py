"""The runtime's alarm clock: one timer for all runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .clock import Clock
from .core.queue import PollQueue


class Alarm:
    """Calls when a run's time has come: `wake(run_id)`, in the event loop. One time per run, set again at will."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kick = asyncio.Event()
        self.queue = PollQueue()

    def set(self, run_id: str, at: float) -> None:
        """Wake this run at `at`, by the runtime's clock, in the place of any time set before."""
        self.queue.set(run_id, at)
        self._kick.set()

    def discard(self, run_id: str) -> None:
        """Do not wake this run."""
        self.queue.discard(run_id)

    async def ring(self, wake: Callable[[str], None]) -> None:
        """Call for each run when it is due; until cancelled."""
        while True:
            while (run_id := self.queue.pop_due(self._clock.now())) is not None:
                wake(run_id)

            self._kick.clear()
            await self._sleep_until(self.queue.next_at())

    async def _sleep_until(self, at: float | None) -> None:
        timer = None if at is None else asyncio.get_running_loop().call_at(at, self._kick.set)
        try:
            await self._kick.wait()
        finally:
            if timer is not None:
                timer.cancel()
