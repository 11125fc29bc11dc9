"""A loop that can be told to do something right before one of its steps: to cancel a task anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from agentbg.testing.clock import VirtualTimeLoop

PATIENCE = 3600.0


class SteppedLoop(VirtualTimeLoop):
    """Virtual time, its steps counted. A step runs all that is ready; between two of them all tasks are suspended."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.before: dict[int, Callable[[], object]] = {}

    def _run_once(self) -> None:
        self.steps += 1
        if call := self.before.pop(self.steps, None):
            call()

        super()._run_once()


def run_stepped(main: Coroutine[Any, Any, None]) -> None:
    """`asyncio.run` on such a loop."""
    with asyncio.Runner(loop_factory=SteppedLoop) as runner:
        runner.run(main)


async def cancel_at(step: int, call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any] | None:
    """Begin a call, and cancel it right before the loop's so-manieth step from here. Its task, once it has ended; None
    when it ended by itself before. Raises what it raises."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SteppedLoop)
    task = asyncio.ensure_future(call)
    loop.before[loop.steps + step] = task.cancel
    await asyncio.wait({task}, timeout=PATIENCE)
    assert task.done(), "a call that is cancelled ends"
    early = bool(loop.before)
    loop.before.clear()
    if not task.cancelled():
        await task

    return None if early else task
