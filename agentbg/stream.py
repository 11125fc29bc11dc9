"""The stream that users iterate."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

from .core.update import AgentRunResponseUpdate
from .errors import UsageError


class Source(Protocol):
    """Where a stream's updates come from: those that come together, together. An async generator is one, too."""

    def __anext__(self) -> Awaitable[Sequence[AgentRunResponseUpdate]]:
        """The next ones, at least one. Raises StopAsyncIteration after the last."""
        ...

    def aclose(self) -> Awaitable[None]:
        """Release what the source holds."""
        ...


class ResumableStream:
    """The updates of a run, each once, in order, up to the END; it reconnects by itself, from the last update.

    Iterate it with `async for`, best inside `async with`, which closes it when you leave early; a stream that is left
    open is closed when it is collected. Closing it, or cancelling the task that iterates, leaves the run alive.
    Cancelling the wait for one update, as `asyncio.wait_for(anext(stream), 5)` does, ends a stream of `run_streaming`:
    to go on with it raises UsageError. A handle's stream goes on where it was.

    Iterating raises no error for a run that failed: that is in the last update's `response`. It raises ProviderError
    when the service refuses to talk about the run (a wrong key, say); the run goes on, and so can you, from the last
    update's token or `seq`.
    """

    def __init__(self, source: Source, *, lasting: bool = False) -> None:
        """A `lasting` source can be asked again after a wait for it was cancelled."""
        self._source = source
        self._lasting = lasting
        self._here: Iterator[AgentRunResponseUpdate] = iter(())
        self._busy = False
        self._cancelled = False  # a generator that is cancelled is over: it must not look like a run that is

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AgentRunResponseUpdate:
        for update in self._here:
            return update

        return await self._fetch()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop iterating. The run goes on. A task that iterates meanwhile is not disturbed: cancel that one instead."""
        self._require_idle()
        self._here, self._cancelled = iter(()), False
        await self._source.aclose()

    async def _fetch(self) -> AgentRunResponseUpdate:
        self._require_idle()
        if self._cancelled:
            raise UsageError(
                "The wait for this stream's next update was cancelled, by a time-out perhaps, and that closed it. Go "
                "on with run_streaming and the continuation token of the last update."
            )

        self._busy = True
        try:
            self._here = iter(await self._source.__anext__())
        except asyncio.CancelledError:
            self._cancelled = not self._lasting
            raise
        finally:
            self._busy = False

        return next(self._here)

    def _require_idle(self) -> None:
        if self._busy:
            raise UsageError(
                "Another task is iterating this stream. Cancel that task to stop it; to read the run twice, open a "
                "second stream."
            )
