"""A store with moods, for the random lives: slow, refusing, and sometimes deaf to cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from itertools import count, cycle
from typing import Any

from agentbg import AgentRunResponseUpdate, StoreError
from agentbg.core.record import RunRecord
from agentbg.core.status import RunStatus
from agentbg.stores import Store


class MoodyStore:
    """Takes its time before and after each call, refuses some, and notes what it was told. Closing waits for calls."""

    def __init__(self, inner: Store, delays: Sequence[float], refused: frozenset[int], stubborn: bool) -> None:
        self.first: dict[str, int] = {}
        """The seq after which each run's journal begins."""
        self.kept: dict[str, tuple[RunStatus, int]] = {}
        """The status and the seq of each run that were saved last, where that is sure."""
        self.ended: dict[str, RunStatus] = {}
        self.moody = True
        self.stolen = False
        self.troubled: set[str] = set()
        """Runs that a runtime had to let go of."""
        self._inner = inner
        self._delays = cycle(delays)
        self._refused = refused
        self._stubborn = stubborn  # what was accepted is done, also when nobody waits for it any more
        self._calls = count(1)
        self._under_way = 0
        self._idle = asyncio.Event()
        self._lock = asyncio.Lock()
        self._closing = False

    @property
    def ids(self) -> list[str]:
        return list(self.first)

    async def _call(self, work: Coroutine[Any, Any, Any], run_id: str = "") -> Any:
        if not self._stubborn:
            return await self._do(work, run_id)

        doing = asyncio.ensure_future(self._do(work, run_id))
        doing.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(doing)

    async def _do(self, work: Coroutine[Any, Any, Any], run_id: str) -> Any:
        before, after = (next(self._delays), next(self._delays)) if self.moody else (0.0, 0.0)
        refused = self.moody and next(self._calls) in self._refused
        self._under_way += 1
        try:
            if self._closing:
                raise StoreError("The store is being closed.")

            await asyncio.sleep(before)
            if refused:
                self.troubled.add(run_id)
                raise StoreError("The disk is full.")

            result = await work
            await asyncio.sleep(after)
            return result
        finally:
            work.close()
            self._under_way -= 1
            self._idle.set()

    # --- the contract of a store ---

    async def open(self, *, readonly: bool = False) -> None:
        await asyncio.sleep(next(self._delays))
        await self._inner.open(readonly=readonly)
        self._closing = False

    async def aclose(self) -> None:
        self._closing = True
        await asyncio.shield(asyncio.ensure_future(self.quiet()))

    async def quiet(self) -> None:
        """Closed, with nothing under way: a cancellation only stops the waiting for that."""
        while self._under_way:
            self._idle.clear()
            await self._idle.wait()

        async with self._lock:
            await self._inner.aclose()

    async def create(self, record):
        await self._call(self._create(record), record.id)

    async def _create(self, record):
        self.first[record.id] = record.position.seq  # whoever is cancelled meanwhile does not know whether it is there
        await self._inner.create(record)

    async def acquire(self, run_id):
        return await self._call(self._inner.acquire(run_id), run_id)

    async def save(self, record, updates=()):
        await self._call(self._keep(self._inner.save, record, list(updates)), record.id)

    async def append(self, record, updates):
        await self._call(self._keep(self._inner.append, record, list(updates)), record.id)

    async def _keep(self, save, record: RunRecord, updates) -> None:
        status, seq = record.status, record.position.seq
        self.kept.pop(record.id, None)
        try:
            await save(record, updates)
        except StoreError:
            self.troubled.add(record.id)
            raise

        if save == self._inner.append:  # then the record is as it was
            return

        self.kept[record.id] = status, seq
        if status.terminal:
            assert self.ended.setdefault(record.id, status) is status, "it had ended otherwise"
        else:
            assert record.id not in self.ended, "it had ended"

    async def load(self, run_id):
        return await self._call(self._inner.load(run_id))

    async def list(self, **what):
        return await self._call(self._inner.list(**what))

    async def find(self, provider, endpoint, remote_id):
        return await self._call(self._inner.find(provider, endpoint, remote_id))

    async def read(self, run_id, *, after=0, limit=3):
        return await self._call(self._inner.read(run_id, after=after, limit=limit))

    async def delete(self, run_id):
        await self._inner.delete(run_id)

    async def purge(self, *, before):
        return await self._inner.purge(before=before)

    async def note(self, key, value):
        await self._call(self._inner.note(key, value))

    async def notes(self, prefix=""):
        return await self._call(self._inner.notes(prefix))

    # --- what others do, and see ---

    async def steal(self, run_id: str) -> None:
        """What another process does that takes itself for the owner."""
        self.troubled.add(run_id)
        self.stolen = True
        await self._inner.acquire(run_id)

    async def journal(self, run_id: str) -> Sequence[AgentRunResponseUpdate]:
        return await self._inner.read(run_id, limit=100_000)
