"""How far many runs are, and how long they may still take."""

from __future__ import annotations

import asyncio
import inspect
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .errors import UsageError

Remaining = Callable[[float], float | None]
"""Within how many seconds half of the runs of this age, in seconds, end; None where nobody can tell."""

SAMPLE = 256
"""Durations that are kept: those of the runs that ended last."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Many runs at one moment."""

    done: int
    """Runs that there is nothing more to wait for: ended, well or badly, waiting for their user, or never started."""
    failed: int
    """Those of them that have no result."""
    running: int
    """Runs that are being started, or go on."""
    queued: int | None
    """Runs that are still to be started; None where nobody knows how many inputs are to come."""
    elapsed: float
    """Seconds since the first was taken up here."""
    eta: float | None
    """Seconds until all are done; None while nothing is known of how long such runs take. An estimate: what the runs
    that go on and those that are to come still take, shared among as many as go on at a time, and not less than the
    youngest run takes. `submit_many` goes by what the runtime has learned of the agent's runs, and before that, as the
    others do, by those of these that have ended."""

    @property
    def total(self) -> int | None:
        """All of them; None where nobody knows."""
        return None if self.queued is None else self.done + self.running + self.queued


OnProgress = Callable[[Progress], object]
"""Called in the event loop at each start and each end, so it must be quick. What it raises goes to the event loop's
exception handler, and to nobody else."""


class Durations:
    """How long runs took that have ended: a bounded sample, of the last ones."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=SAMPLE)
        self._sorted: list[float] = []

    def add(self, seconds: float) -> None:
        """A run has ended after so long."""
        if len(self._recent) == SAMPLE:
            self._sorted.remove(self._recent[0])

        self._recent.append(seconds)
        insort(self._sorted, seconds)

    def remaining(self, age: float) -> float | None:
        """The mean of what those took beyond `age` that took longer; None without any durations.

        Of a run that outlives all of n others, an n-th of its age more is expected: each might have been the longest.
        """
        longer = self._sorted[bisect_right(self._sorted, age) :]
        if not longer:
            return age / len(self._sorted) if self._sorted else None

        return sum(longer) / len(longer) - age


class Tracker:
    """Counts starts and ends, and tells of each. All it does takes the same time however many runs there are."""

    def __init__(
        self,
        now: Callable[[], float],
        report: OnProgress | None,
        *,
        total: int | None = None,
        slots: int | None = None,
        remaining: Remaining | None = None,
    ) -> None:
        if inspect.iscoroutinefunction(report):
            raise UsageError("on_progress is async, and would never run: make it a plain function.")

        self._now, self._report = now, report
        self._since: float | None = None
        self._total, self._slots, self._remaining = total, slots, remaining
        self._durations = Durations()
        self._done = self._failed = self._running = 0
        self._births = self._youngest = 0.0  # the sum of when those began that go on, and the last of all

    def begin(self, age: float = 0.0) -> float:
        """A run is taken up that began `age` seconds ago. Pass what this returns to `end`. Nothing is told yet."""
        now = self._now()
        self._since = now if self._since is None else self._since
        born = now - age
        self._running += 1
        self._births += born
        self._youngest = max(self._youngest, born)
        return born

    def end(self, born: float, *, failed: bool, started: bool = True) -> None:
        """A run is done, or could not be started."""
        self._running -= 1
        self._births -= born
        self._done += 1
        self._failed += failed
        if started:
            self._durations.add(self._now() - born)

        self.tell()

    def mute(self) -> None:
        """Nobody wants to know any more."""
        self._report = None

    def tell(self) -> None:
        """Report, where somebody wants to know."""
        if self._report is None:
            return

        try:
            self._report(self.look())
        except Exception as error:  # noqa: BLE001  a user's: it is no trouble of the runs
            asyncio.get_running_loop().call_exception_handler({"message": "on_progress failed", "exception": error})

    def look(self) -> Progress:
        """How far they are."""
        now = self._now()
        queued = None if self._total is None else max(self._total - self._done - self._running, 0)
        elapsed = 0.0 if self._since is None else now - self._since
        return Progress(self._done, self._failed, self._running, queued, elapsed, self._eta(now, queued))

    def _eta(self, now: float, queued: int | None) -> float | None:
        """By the mean age of those that go on: to sum over each at every step would take a minute of 100,000 runs."""
        if queued is None or not self._running + queued:
            return None if queued is None else 0.0

        typical = self._expect(now - self._births / self._running) if self._running else 0.0
        youngest = self._expect(now - self._youngest) if self._running else 0.0
        fresh = self._expect(0.0) if queued else 0.0
        if typical is None or youngest is None or fresh is None:
            return None

        return max((self._running * typical + queued * fresh) / (self._slots or self._running), youngest)

    def _expect(self, age: float) -> float | None:
        known = self._remaining(max(age, 0.0)) if self._remaining is not None else None
        return self._durations.remaining(max(age, 0.0)) if known is None else known
