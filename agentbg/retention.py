"""How long runs that have ended are kept."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from math import inf

from .clock import Clock
from .errors import StoreError, UsageError
from .live import outlast
from .stores.base import Store

logger = logging.getLogger("agentbg")

KEPT = timedelta(days=30)
"""As long as the Responses service keeps its own."""
EVERY = 3600.0
"""Seconds between two purges, at least."""


class Retention:
    """Has the store forget what is older than `keep`; nothing, for None. Raises UsageError for an age that is none."""

    def __init__(self, store: Store, clock: Clock, keep: timedelta | None) -> None:
        if keep is not None and not (isinstance(keep, timedelta) and keep > timedelta()):  # pyright: ignore[reportUnnecessaryIsInstance]  not all callers are typed
            raise UsageError(f"retention is a timedelta above 0, or None to keep all runs; not {keep!r}.")

        self._store, self._clock, self._keep = store, clock, keep
        self._due_at = -inf
        self._purging: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Purge in the background, if that is due."""
        if self._keep is None or self._clock.now() < self._due_at or self._purging is not None:
            return

        self._due_at = self._clock.now() + EVERY
        self._purging = asyncio.create_task(self._purge(self._keep), name="agentbg retention")

    async def aclose(self) -> None:
        """Wait for the purge under way."""
        if self._purging is not None:
            await outlast({self._purging})

    async def _purge(self, keep: timedelta) -> None:
        try:
            forgotten = await self._store.purge(before=self._clock.wall() - keep.total_seconds())
        except StoreError as error:
            logger.warning("the store refused to forget runs older than %s: %s", keep, error)
        else:
            if forgotten:
                logger.info("%d runs that had ended more than %s ago were forgotten", forgotten, keep)
        finally:
            self._purging = None


def moment(before: datetime | float) -> float:
    """A time as a Unix time. Raises UsageError for a datetime that does not say of which zone it is."""
    if not isinstance(before, datetime):
        return before

    if before.tzinfo is None:
        raise UsageError(
            f"before={before!r} has no time zone: pass datetime.now(UTC) - timedelta(days=…), or a Unix time."
        )

    return before.timestamp()
