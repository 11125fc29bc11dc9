"""Whom a word from outside is about: runs by the names that their services gave them."""

from __future__ import annotations

from collections.abc import Mapping

from .clock import Clock
from .live import LiveRun

EARLY = 60.0
"""Seconds that a word about a name that no run bears is remembered: it may have overtaken the answer to a start."""
ROOM = 4096
"""Names that are remembered so at most; the oldest are forgotten first."""


class Wakeups:
    """Live runs by their present names at their services, and what was said of names that are not known yet.

    Names are kept from the first word on: a runtime that nobody speaks to does not pay for them.
    """

    def __init__(self, clock: Clock, runs: Mapping[str, LiveRun]) -> None:
        self._clock = clock
        self._driven = runs
        self._runs: dict[str, LiveRun] | None = None
        self._early: dict[str, float] = {}

    def find(self, name: str) -> LiveRun | None:
        """The live run of this name. A name that no run bears is remembered for a while."""
        if self._runs is None:
            self._runs = {ref.id: live for live in self._driven.values() if (ref := live.record.ref) is not None}

        live = self._runs.get(name)
        if live is None:
            self._early.pop(name, None)  # the newest are the last
            self._early[name] = self._clock.now()
            if len(self._early) > ROOM:
                del self._early[next(iter(self._early))]

        return live

    def bears(self, live: LiveRun) -> bool:
        """Note the name that a run bears now; True when somebody has spoken of it already."""
        ref = live.record.ref
        if self._runs is None or ref is None or self._runs.get(ref.id) is live:
            return False

        self.forget(live)
        self._runs[ref.id] = live
        said = self._early.pop(ref.id, None)
        return said is not None and self._clock.now() - said <= EARLY

    def forget(self, live: LiveRun) -> None:
        """A run is driven no more, or has a new name."""
        if self._runs is None:
            return

        for ref in (live.record.ref, *(closed.ref for closed in live.record.rounds[-1:])):
            if ref is not None and self._runs.get(ref.id) is live:
                del self._runs[ref.id]
