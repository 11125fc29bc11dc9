"""Where a runtime's work lives: a group of tasks, in a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from .clock import Clock
from .errors import RuntimeClosed
from .live import outlast

CLOSING_GRACE = 10.0
"""Seconds that closing waits for starts and calls of tools under way: of one that is cut off, nobody knows how far it
came."""


class _Stopped(Exception):
    """Ends the task group."""


class Host:
    """Opened once, in one task, and closed in any other."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._delicate: set[asyncio.Future[Any]] = set()
        """What closing waits for a little."""
        self._group: asyncio.TaskGroup | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    @property
    def used(self) -> bool:
        """True once it was opened, also after it was closed."""
        return self._supervisor is not None

    @property
    def is_open(self) -> bool:
        """True while tasks can be spawned."""
        return self._group is not None and not self._stop.is_set()

    def require_open(self) -> None:
        """Raise RuntimeClosed unless tasks can be spawned."""
        if not self.is_open:
            raise self.closed()

    @staticmethod
    def closed() -> RuntimeClosed:
        """What a runtime says that is not open."""
        return RuntimeClosed(
            "The runtime is not open. Use it inside `async with AgentRuntime(…) as runtime:`; unfinished runs stay in "
            "the store, and a new runtime on it goes on with them."
        )

    async def open(self, on_stopped: Callable[[], None]) -> None:
        """Make ready. `on_stopped` is called when all tasks have ended."""
        ready = asyncio.Event()
        self._supervisor = asyncio.create_task(self._supervise(ready, on_stopped), name="agentbg supervisor")
        await ready.wait()

    async def aclose(self) -> None:
        """Stop all tasks, the delicate ones last. Cancelling this only cuts the wait for those short."""
        try:
            until = self._clock.now() + CLOSING_GRACE
            while self._delicate and self._clock.now() < until:  # a call's end may bring a start
                await asyncio.wait(self._delicate, timeout=until - self._clock.now())
        finally:
            self.stop()
            if self._supervisor is not None:
                await outlast({self._supervisor})

    def stop(self) -> None:
        """Stop all tasks, soon."""
        self._stop.set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task for this. Raises RuntimeClosed."""
        if self._group is None or self._stop.is_set():
            work.close()
            raise self.closed()

        return self._group.create_task(work, name=name)

    def take_care(self, work: asyncio.Future[Any]) -> asyncio.Future[Any]:
        """Have closing wait a little for this."""
        self._delicate.add(work)
        work.add_done_callback(self._delicate.discard)
        return work

    async def _supervise(self, ready: asyncio.Event, on_stopped: Callable[[], None]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                ready.set()
                await self._stop.wait()
                raise _Stopped
        except* _Stopped:
            pass
        finally:
            self._stop.set()
            on_stopped()
