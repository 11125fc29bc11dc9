"""What is written to the store, and when."""

from __future__ import annotations

from .clock import Clock
from .core.messages import Commit
from .core.record import RunRecord
from .stores.base import Store


class Journal:
    """Carries out commits."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock

    async def commit(self, record: RunRecord, commit: Commit) -> None:
        """Write a record and its updates. Once this returns, the store has them."""
        record.updated_at = self._clock.wall()
        if commit.settled:
            record.finished_at = record.updated_at if record.status.terminal else None

        await (self._store.save if commit.whole else self._store.append)(record, commit.updates)
