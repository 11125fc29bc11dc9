"""One consumer's place in a run's updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from .core.update import AgentRunResponseUpdate

if TYPE_CHECKING:
    from .live import LiveRun

RECENT = 256
"""Updates that wait in memory for a consumer. One that falls further behind reads the journal, at its own pace."""


class Reader:
    """All updates of a run with a seq above `after`, as they are published or from its journal, some at a time, until
    the last. A source for a `ResumableStream`; a cancelled wait loses nothing.
    """

    __slots__ = ("__weakref__", "_after", "_behind", "_closed", "_live", "_mail")

    def __init__(self, live: LiveRun, after: int) -> None:
        self._live = live
        self._after = after
        """The seq of the last update that was given out."""
        self._mail: list[AgentRunResponseUpdate] = []
        """What was published since, unless it was too much."""
        self._behind = True
        """What follows is in the journal, not in the mail."""
        self._closed = False

    def put(self, updates: Sequence[AgentRunResponseUpdate]) -> None:
        """These were published."""
        if self._behind:
            return

        if self._mail and len(self._mail) + len(updates) > RECENT:
            self._mail, self._behind = [], True
        else:
            self._mail += updates

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[AgentRunResponseUpdate]:
        live = self._live
        while not self._closed:
            if self._mail:
                mail, self._mail = self._mail, []
                if batch := self._news(mail):
                    return batch
            elif self._behind:
                if batch := await self._read():
                    return batch
            elif live.settled:
                break
            elif live.lost is not None:
                raise live.lost
            else:
                await live.news.wait()

        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Give out no more."""
        self._closed = True
        self._mail.clear()

    async def _read(self) -> Sequence[AgentRunResponseUpdate]:
        """What the journal has; nothing when this consumer has caught up with what was published."""
        committed = self._live.committed
        stored = await self._live.journal.read(self._after) if self._after < committed else ()
        batch = self._news([self._live.dress(update) for update in stored])
        if not batch:  # a run that was taken up by its token begins in its middle
            self._after = max(self._after, committed)

        self._behind = self._after < self._live.committed
        return batch

    def _news(self, updates: Sequence[AgentRunResponseUpdate]) -> Sequence[AgentRunResponseUpdate]:
        """Those that were not given out: what is read from the journal may be published afterwards."""
        if updates and updates[0].seq <= self._after:
            updates = [update for update in updates if update.seq > self._after]

        if updates:
            self._after = updates[-1].seq

        return updates
