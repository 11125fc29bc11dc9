"""Waiting for others: one timer for many waits, and what a wait may not bring."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from math import inf
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")


async def contained(call: Awaitable[T], stray: type[Exception], message: str) -> T:
    """Await what others wrote. A CancelledError that nobody sent us, such as one that leaks from a cancel scope inside,
    is a call that failed, and no cancelled task: it is raised as `stray`.
    """
    try:
        return await call
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise

        raise stray(message) from error


class Patience:
    """Bounds waits that follow each other: each `with patience:` raises TimeoutError after so many seconds.

    `asyncio.timeout` for waits without number, such as the reads of a stream: it makes a timer for each, and that costs
    more than the read. Here one timer is set, and only looks, when it comes, how long the present wait has lasted.
    Whoever is done with it closes it. Like `asyncio.timeout`, it leaves a cancellation from outside alone.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._until = inf
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._over = False

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task()
        assert task is not None, "waiting is done in a task"
        self._cancelling = task.cancelling()
        self._until = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._until, self._look)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, over = self._task, self._over
        self._until, self._over, self._task = inf, False, None
        if over and task is not None and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def close(self) -> None:
        """No wait follows."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._task is None:  # between two waits
            return

        if self._loop.time() < self._until:
            self._timer = self._loop.call_at(self._until, self._look)
        else:
            self._over = True
            self._task.cancel()
