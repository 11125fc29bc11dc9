"""An event loop whose clock runs fast: sleeps, timers and time-outs of all libraries on it are as much shorter."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Waits as much shorter."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self._factor = factor

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout / self._factor)


class HastyLoop(asyncio.SelectorEventLoop):
    """`time()` is `time.monotonic()` times `factor`, in every process of the machine."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        super().__init__(_Selector(factor))

    def time(self) -> float:
        return super().time() * self._factor


def run(main: Coroutine[Any, Any, T], factor: float) -> T:
    """`asyncio.run` at so many seconds a second."""
    with asyncio.Runner(loop_factory=lambda: HastyLoop(factor)) as runner:
        return runner.run(main)
