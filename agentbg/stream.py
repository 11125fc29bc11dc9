"""The stream that users iterate."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Self

from .core.update import AgentRunResponseUpdate
from .errors import UsageError


class ResumableStream:
    """The updates of a run, each once, in order, up to the END; it reconnects by itself, from the last update.

    Iterate it with `async for`, best inside `async with`, which closes it when you leave early; a stream that is left
    open is closed when it is collected. Closing it, or cancelling the task that iterates, leaves the run alive.

    Iterating raises no error for a run that failed: that is in the last update's `response`. It raises ProviderError
    when the service refuses to talk about the run (a wrong key, say); the run goes on, and so can you, from the last
    update's token or `seq`.
    """

    def __init__(self, source: AsyncGenerator[AgentRunResponseUpdate, None]) -> None:
        self._source = source
        self._busy = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AgentRunResponseUpdate:
        self._require_idle()
        self._busy = True
        try:
            return await anext(self._source)
        finally:
            self._busy = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop iterating. The run goes on. A task that iterates meanwhile is not disturbed: cancel that one instead."""
        self._require_idle()
        await self._source.aclose()

    def _require_idle(self) -> None:
        if self._busy:
            raise UsageError(
                "Another task is iterating this stream. Cancel that task to stop it; to read the run twice, open a "
                "second stream."
            )
