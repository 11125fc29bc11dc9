"""How likely a run is to end, by its age: learned from runs that ended, and from those that have not."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from math import inf, log
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field

from ..errors import UsageError

RATIO = 1.5
EDGES = (0.0, *(0.5 * RATIO**n for n in range(30)))
"""Bins of age, in seconds: up to half a second, then each half as long again as the one before; the last, from 18 hours
on, has no end."""
_MIDDLES = (*((low + high) / 2 for low, high in pairwise(EDGES)), EDGES[-1])
PRIOR = 0.25
"""How many ends per bin the prior weighs."""
MEMORY = 1000.0
"""Ends that are remembered. At so many, all counts are halved: services change, and so do prompts."""


class Hazard:
    """The rate at which runs of an age end, per second: a constant in each of some bins of logarithmic width.

    A bin's rate is the number of ends in it over the time that was lived in it, with a quarter of what its neighbours
    have, and with a prior that says 1 / age: a run of any age is as likely as not to go on for as long again. Bins a
    quarter or a whole wider each, or a prior that weighs twice as much, cost more on one of the workloads of
    `benchmarks/bench_polling.py` after 30 runs, or after 100.

    Runs that still go on count by the time that they have lived (they are *censored*), so early on, when only the short
    ones have ended, nobody takes all of them for short. An end is known to lie between the last sight of the run alive
    and the first of it ended; it is spread evenly over that time.

    Ages are in seconds. Reading and telling cost a few microseconds, whatever number of runs is behind it.
    """

    __slots__ = ("_ends", "_lived")

    def __init__(self) -> None:
        self._ends = [0.0] * len(EDGES)
        self._lived = [0.0] * len(EDGES)  # in each bin's own unit: its middle

    @property
    def ends(self) -> float:
        """How many ends it goes by."""
        return sum(self._ends)

    def rate(self, age: float) -> float:
        """Ends per second among runs of this age."""
        return self._rate(bisect_right(EDGES, max(age, 0.0)) - 1)

    def pieces(self, age: float) -> Iterator[tuple[float, float]]:
        """The rates from this age on, each with the age up to which it holds; the last holds for ever."""
        first = bisect_right(EDGES, max(age, 0.0))
        for above in range(first, len(EDGES)):
            yield self._rate(above - 1), EDGES[above]

        yield self._rate(len(EDGES) - 1), inf

    def remaining(self, age: float, share: float = 0.5) -> float:
        """Seconds within which this share of the runs of this age end; by default their median."""
        if not 0 < share < 1:
            raise UsageError(f"A share of the runs is above 0 and below 1, not {share}.")

        left, at = -log(1 - share), max(age, 0.0)
        for rate, until in self.pieces(age):
            if rate * (until - at) >= left:
                return at - max(age, 0.0) + left / rate

            left -= rate * (until - at)
            at = until

        raise AssertionError("the last piece has no end")

    # --- what it learns from ---

    def survived(self, since: float, until: float) -> None:
        """A run has lived from one age to another."""
        for bin_, low, high in _parts(since, until):
            self._lived[bin_] += (high - low) / _MIDDLES[bin_]

    def ended(self, since: float, until: float) -> None:
        """A run ended between two ages; what it lived before that is told by `survived`."""
        whole = until - since
        if not whole > 0:
            self._ends[bisect_right(EDGES, max(until, 0.0)) - 1] += 1
        else:
            for bin_, low, high in _parts(since, until):
                share = (high - low) / whole
                self._ends[bin_] += share
                # What is lived of this part on average, when the end is as likely here as there.
                self._lived[bin_] += share * (until - (low + high) / 2) / _MIDDLES[bin_]

        if self.ends >= MEMORY:
            self._ends = [ends / 2 for ends in self._ends]
            self._lived = [lived / 2 for lived in self._lived]

    # --- for a store ---

    def to_json(self) -> bytes:
        """What it has learned, in about a kilobyte."""
        return _Kept(v=1, ends=self._ends, lived=self._lived).model_dump_json().encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """What another has learned. Raises ValueError for what is damaged, or of another version."""
        kept, made = _Kept.model_validate_json(data), cls()
        made._ends, made._lived = kept.ends, kept.lived
        return made

    def _rate(self, bin_: int) -> float:
        low, high = max(bin_ - 1, 0), min(bin_ + 1, len(EDGES) - 1)
        ends = (self._ends[low] + 2 * self._ends[bin_] + self._ends[high]) / 4
        lived = (self._lived[low] + 2 * self._lived[bin_] + self._lived[high]) / 4
        return (PRIOR + ends) / (PRIOR + lived) / _MIDDLES[bin_]


UNKNOWN = Hazard()
"""Of runs of which nothing is known. Nobody teaches it."""


def _parts(since: float, until: float) -> Iterator[tuple[int, float, float]]:
    """The bins from one age to another, with the part of each. A clock that went back gives none."""
    low = max(since, 0.0)
    bin_ = bisect_right(EDGES, low) - 1
    while low < until:
        high = min(EDGES[bin_ + 1], until) if bin_ + 1 < len(EDGES) else until
        yield bin_, low, high
        low, bin_ = high, bin_ + 1


_Count = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]  # more than any runs come to; sums stay finite
_Counts = Annotated[list[_Count], Field(min_length=len(EDGES), max_length=len(EDGES))]


class _Kept(BaseModel):
    """A hazard as a store keeps it. Other bins are another version."""

    v: Literal[1]
    ends: _Counts
    lived: _Counts
