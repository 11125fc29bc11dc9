"""A run of the store, whoever owns the store.

Three ways lead to a run, and all look alike from here:

- it has ended, or waits for its user: the store is read, which is possible beside any owner;
- it is live, and nobody owns the store: this process does, takes up this run and no other, and keeps what it learns;
- it is live, and another process owns the store, or is alone in having the functions that the run may call: it is
  followed by its continuation token, and nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ..agent import Agent
from ..core.position import Position, digest
from ..core.record import RunRecord
from ..core.response import AgentRunResponse, build_response
from ..core.rounds import said
from ..core.status import RunStatus
from ..core.token import ContinuationToken
from ..core.update import AgentRunResponseUpdate, UpdateType
from ..errors import StoreInUse, SubmitUnknown
from ..journal import UNKEPT_AHEAD, told
from ..options import AgentRunOptions
from ..runtime import AgentRuntime
from ..stores.base import Store
from ..stores.sqlite import SQLiteStore
from ..stream import ResumableStream
from .agents import AgentSpec


class Watched(Protocol):
    """What the commands need of a run. A `BackgroundHandle` is one."""

    @property
    def id(self) -> str:
        """The run's id in the store."""
        ...

    @property
    def token(self) -> ContinuationToken | None:
        """What resumes it; None when nothing is left to poll or resume."""
        ...

    @property
    def response(self) -> AgentRunResponse[Any]:
        """The response so far."""
        ...

    def stream(self, *, after: int = 0) -> ResumableStream:
        """The updates with a `seq` above `after`, up to the END."""
        ...

    async def cancel(self, reason: str | None = None) -> RunStatus:
        """Cancel the run at the service."""
        ...


@asynccontextmanager
async def reading(path: Path) -> AsyncGenerator[Store]:
    """The store, opened for reading, whoever owns it. Raises StoreError when there is none."""
    store = SQLiteStore(path)
    await store.open(readonly=True)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def watching(path: Path, run_id: str, *, to_cancel: bool = False) -> AsyncGenerator[Watched]:
    """The run of that id, by the way that is open. One that waits for its user is taken up only to be cancelled.

    Raises RunUnknown, StoreError, ProviderError.
    """
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(reading(path))
        record = await store.load(run_id)
        if record.status.terminal or not (record.status.live or to_cancel):
            yield StoredRun(store, record)
            return

        token = _token(record)
        agent = await stack.enter_async_context(AgentSpec.of(record).make_agent())
        if _calls_functions(record) and not to_cancel:
            yield BorrowedRun(store, record, agent, token)
            return

        try:
            runtime = await stack.enter_async_context(AgentRuntime(SQLiteStore(path), retention=None))
        except StoreInUse:
            if not record.status.live:  # nothing at the service could be cancelled: it waits in the store
                raise

            run: Watched = BorrowedRun(store, record, agent, token)
        else:
            run = await runtime.resume(token, agent=agent)

        yield run


class StoredRun:
    """A run that has ended, or waits for its user: all of it is in the store."""

    def __init__(self, store: Store, record: RunRecord) -> None:
        self._store, self._record = store, record
        self.id = record.id
        self.token = None
        self.response = _response(record, None)

    def stream(self, *, after: int = 0) -> ResumableStream:
        """The journal."""
        return ResumableStream(self._updates(after))

    async def cancel(self, reason: str | None = None) -> RunStatus:  # noqa: ARG002 - there is nothing to cancel
        """Do nothing: it is over."""
        return self._record.status

    async def _updates(self, after: int) -> AsyncGenerator[Sequence[AgentRunResponseUpdate], None]:
        last = self._record.position.seq
        if self._record.journal == "off":
            for update in await self._store.read(self.id, after=last - 1):
                yield told(replace(update, response=self.response), self.response.text, after)

            return

        async for update in _journal(self._store, self.id, after):
            yield [replace(update, response=self.response) if update.seq == last else update]


class BorrowedRun:
    """A live run in a store that another process owns: followed at the service; the store is only read."""

    def __init__(self, store: Store, record: RunRecord, agent: Agent[Any], token: ContinuationToken) -> None:
        self._store, self._agent = store, agent
        self.id = record.id
        self._unkept = record.journal == "off"
        self.token = replace(token, position=beginning(record)) if self._unkept else token
        self.response = _response(record, token)
        self._said = said(each for each in record.rounds if each.sent)

    def stream(self, *, after: int = 0) -> ResumableStream:
        """The journal as far as it went, then what the service says."""
        return ResumableStream(self._updates(after))

    async def cancel(self, reason: str | None = None) -> RunStatus:  # noqa: ARG002 - only the owner can keep it
        """Cancel the run at the service. From here on it is polled: a stream may go on as if nothing had happened."""
        await self._agent.calls().cancel(self.token.ref)
        self.token = replace(self.token, streamed=False)
        return self.response.status

    async def _updates(self, after: int) -> AsyncGenerator[Sequence[AgentRunResponseUpdate], None]:
        begun = self.token.position
        if self._unkept:
            yield [AgentRunResponseUpdate(UpdateType.RESET, begun.seq, self._said, position=begun)]
        else:
            async for update in _journal(self._store, self.id, after, begun.seq):
                yield [update]

        options = AgentRunOptions(allow_background_responses=True, continuation_token=self.token)
        async with self._agent.run_streaming(thread=self._agent.get_new_thread(), options=options) as updates:
            async for update in updates:
                self.token = update.continuation_token or self.token
                if update.response is not None:
                    self.response = replace(update.response, text=self._said + update.response.text)
                    update = replace(update, response=self.response)

                if update.seq > after:
                    yield [update]


async def _journal(
    store: Store, run_id: str, after: int, last: int | None = None
) -> AsyncGenerator[AgentRunResponseUpdate, None]:
    """The stored updates with a seq above `after`, up to `last`."""
    batch: Sequence[AgentRunResponseUpdate]
    while batch := await store.read(run_id, after=after):
        for update in batch:
            if last is not None and update.seq > last:
                return

            yield update

        after = batch[-1].seq


def beginning(record: RunRecord) -> Position:
    """Where the present round of a run began of which no updates are kept; its seqs are beyond all that was told."""
    text = said(each for each in record.rounds if each.sent)
    chars, crc = len(text), digest(text)
    return Position(record.position.seq + UNKEPT_AHEAD, None, chars, crc, 0, chars, crc)


def _token(record: RunRecord) -> ContinuationToken:
    if record.ref is None:
        raise SubmitUnknown(
            f"The start of run {record.id} was sent, and its answer is not in the store: it is under way in another "
            f"process, or was lost. Look again in a minute; then look at the service's own list of runs.",
            run_id=record.id,
            reason="no answer is in the store",
        )

    return ContinuationToken(record.ref, record.position, record.created_at, record.stream and not record.refused)


def _calls_functions(record: RunRecord) -> bool:
    return record.request is not None and any(tool.get("type") == "function" for tool in record.request.tools)


def _response(record: RunRecord, token: ContinuationToken | None) -> AgentRunResponse[str]:
    if record.snapshot is not None:
        return build_response(record.snapshot, token, rounds=record.rounds)

    return AgentRunResponse(record.status, "", (), token, record.ref.id if record.ref else None)


def elapsed(record: RunRecord) -> float:
    """Seconds from the submit to the end, or to now."""
    return max((record.finished_at or time.time()) - record.created_at, 0.0)
