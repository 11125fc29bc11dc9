"""How a runtime fares: counters that are kept as things happen, and one look at all of them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

from .clock import Clock
from .core.budget import EndpointStats
from .core.status import RunStatus
from .live import LiveRun

_EDGES = (0.0, *(0.001 * 2 ** (step / 4) for step in range(107)))
"""In seconds, to a day; each is 19 % above the one before."""


@dataclass(frozen=True, slots=True)
class Lag:
    """Delays of one kind, in seconds, since the runtime was opened.

    They are counted in steps of 19 %, up from a millisecond: a percentile is the upper edge of its step, and never more
    than `longest`. All are 0 where `count` is.
    """

    count: int = 0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    longest: float = 0.0


@dataclass(frozen=True, slots=True)
class RuntimeStats:
    """A runtime at one moment. Counts are since it was opened; `handle.polls` and the store know of earlier ones."""

    runs: Mapping[RunStatus, int]
    """The runs that are driven now, by status: those that wait for their user, too, where they are at hand."""
    ended: Mapping[RunStatus, int]
    """The runs that ended while this runtime drove them, by how they did."""
    lost: int
    """The runs that this runtime stopped driving although they had not ended: a store that fails, another owner."""
    polls: int
    """Polls that came back, well or badly."""
    polls_failed: int
    """Those of them that were not answered, or answered with an error."""
    polls_wasted: int
    """Those of them that were answered, and showed nothing new."""
    open_streams: int
    """Connections of streams that are open, or being opened."""
    commits: int
    """Commits to the runs' journals: each a record, its updates, or both. Several may share a write to the store, and
    what a journal does not keep is counted, too."""
    notified: int
    """Words from outside that a live run was woken for: webhooks and `notify`."""
    detection_lag: Lag
    """From a run's end, as the service dates it, to the moment it was seen here. For runs whose service says when they
    ended, in whole seconds mostly, and by its own clock: what looks less than nothing counts as nothing."""
    scheduler_lag: Lag
    """From the moment that a run was due to the moment it was woken."""
    endpoints: Sequence[EndpointStats]
    """The requests to each endpoint with each credential, and how its budget is used."""

    @property
    def live(self) -> int:
        """How many runs are driven now."""
        return sum(self.runs.values())

    @property
    def requests(self) -> int:
        """Requests sent, over all endpoints: starts, polls, cancels, answers, and connections of streams."""
        return sum(sum(endpoint.sent.values()) for endpoint in self.endpoints)

    @property
    def requests_per_second(self) -> float:
        """Requests sent per second over the last seconds, over all endpoints."""
        return sum(endpoint.per_second for endpoint in self.endpoints)


class Histogram:
    """Delays by their size: bounded, whatever their number."""

    __slots__ = ("_counts", "_longest")

    def __init__(self) -> None:
        self._counts = [0] * (len(_EDGES) + 1)
        self._longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one; what is below nothing counts as nothing."""
        seconds = max(seconds, 0.0)
        self._counts[bisect_left(_EDGES, seconds)] += 1
        self._longest = max(self._longest, seconds)

    def lag(self) -> Lag:
        """What was counted."""
        count = sum(self._counts)
        p50, p90, p99 = (self._percentile(count * part) for part in (0.5, 0.9, 0.99))
        return Lag(count, p50, p90, p99, self._longest)

    def _percentile(self, rank: float) -> float:
        below = 0
        for edge, count in zip((*_EDGES, inf), self._counts, strict=True):
            below += count
            if below >= rank:
                return min(edge, self._longest)

        raise AssertionError("the last step has them all")


class Meter:
    """Counts what a driver does. Each call takes about a microsecond."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._runs: Counter[RunStatus] = Counter()
        self._ended: Counter[RunStatus] = Counter()
        self.lost = self.polls = self.polls_failed = self.polls_wasted = 0
        self._streams = self.commits = self.notified = 0
        self.detection, self.scheduling = Histogram(), Histogram()

    @contextmanager
    def stream(self) -> Generator[None]:
        """A stream is open in this context."""
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    def polled(self, *, failed: bool, news: bool) -> None:
        """A poll came back."""
        self.polls += 1
        if failed:
            self.polls_failed += 1
        elif not news:
            self.polls_wasted += 1

    def came(self, live: LiveRun) -> None:
        """A run is driven from now on."""
        self._runs[live.record.status] += 1

    def moved(self, before: RunStatus, now: RunStatus) -> None:
        """A run that is driven has another status."""
        self._runs[before] -= 1
        self._runs[now] += 1

    def left(self, live: LiveRun) -> None:
        """A run is not driven any more."""
        self._runs[live.record.status] -= 1

    def ended(self, live: LiveRun) -> None:
        """A run's end is in the store."""
        self._ended[live.record.status] += 1
        snapshot = live.record.snapshot
        if snapshot is not None and snapshot.completed_at is not None:
            self.detection.add(self._clock.wall() - snapshot.completed_at)

    def look(self, endpoints: Sequence[EndpointStats]) -> RuntimeStats:
        """All counters as they are now."""
        return RuntimeStats(
            runs={status: count for status, count in self._runs.items() if count},
            ended=dict(self._ended),
            lost=self.lost,
            polls=self.polls,
            polls_failed=self.polls_failed,
            polls_wasted=self.polls_wasted,
            open_streams=self._streams,
            commits=self.commits,
            notified=self.notified,
            detection_lag=self.detection.lag(),
            scheduler_lag=self.scheduling.lag(),
            endpoints=endpoints,
        )
