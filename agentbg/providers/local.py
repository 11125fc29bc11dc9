"""A function of yours as the service: its runs are at work in this process."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial
from math import inf
from typing import Any, cast
from uuid import uuid4

import pydantic_core

from ..core.model import JSON, LOST, Cursor, RunErrorInfo, RunRef, Snapshot, StartRequest, StreamEvent
from ..core.status import RunStatus
from ..errors import RequestRejected, RunNotFound, Unsupported, UsageError
from .base import Cap, Resume
from .local_run import Ending, LocalRun, Work

logger = logging.getLogger("agentbg")

Function = Callable[[Any], Awaitable[Any] | AsyncIterator[str]]
"""An async function or an async generator that takes a str or a `LocalRun`."""

CANCEL_PATIENCE = 1.0
"""Seconds that a cancel waits for its function to end. Most do at once; the end of others is seen by polls."""
CLOSE_GRACE = 10.0
"""Seconds that closing waits for cancelled functions: asyncio cannot end a task that does not want to."""


class Local:
    """A provider whose runs are calls of an async function, or of an async generator, in this process.

        async def research(topic: str) -> str: ...
        agent = Agent(Local(research), name="researcher")

    The function gets the text that is asked; or a `LocalRun`, when its parameter is annotated so. What it returns is
    the answer: a str as it is, anything else as JSON by pydantic, None for what it wrote. What a generator yields, and
    what `LocalRun.write` is given, is streamed at once. An exception fails the run, with its class's name as
    `error.code`; the traceback is logged. The submitter's context variables are copied at the start.

    **Ends.** `handle.cancel()` cancels the function's task, once; what the function makes of its CancelledError is the
    run's end. A closed stream, a time-out, or leaving the runtime does not touch it. `aclose` cancels all that is at
    work, waits for it (10 s at most), and starts nothing more; `asyncio.run` cancels it at its loop's end, too.

    **Lost runs.** The work does not survive its process, its event loop, or its `Local`. A run that was cut off fails
    with the code "lost". With `idempotent=True` a runtime starts it again instead, under the same run id; a RESET
    voids what was streamed before.

    A run without `stream=True` ends for its waiters when it is polled next. A function that waits for other runs of
    its own `Local` may fill up `limit` and wait for ever.

    Args:
        function: What to run.
        idempotent: Doing the work twice does no harm.
        limit: How many functions are at work at a time; other runs are queued.
        keep: For how many seconds a run that has ended is kept for polls and streams. A runtime takes the end within
            its poll interval (15 s, or 60 s after faults); the rest of the hour is for holders of tokens. After that
            the run expires. What it holds is its text, and its events.
    """

    name = "local"
    endpoint = "local"
    resume = Resume.CURSOR
    retention = inf  # from the start; what counts here is the end

    def __init__(self, function: Function, *, idempotent: bool = False, limit: int = 100, keep: float = 3600.0) -> None:
        if limit < 1 or not keep > 0:
            raise UsageError(f"Local needs limit >= 1 and keep > 0, not {limit} and {keep}.")

        self._function = function
        self._wants_run = _wants_run(function)
        self._idempotent = idempotent
        self._limit, self._keep = limit, keep
        self._instance = uuid4().hex[:12]
        self._works: dict[str, Work] = {}
        self._ended: deque[Work] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = asyncio.Semaphore(limit)
        self._closed = False

    def __repr__(self) -> str:
        return f"Local({_name(self._function)})"

    @property
    def caps(self) -> Cap:
        """The operations that it has."""
        common = Cap.STREAM_START | Cap.CANCEL | Cap.PARTIAL_ON_POLL
        return common | Cap.IDEMPOTENT_START if self._idempotent else common

    # --- the contract of a provider ---

    async def start(self, request: StartRequest, *, key: str | None = None) -> Snapshot:
        work = self._start(request, key)
        if not request.background:
            await work.wait()

        return work.snapshot()

    async def open(
        self, request: StartRequest, *, key: str | None = None
    ) -> AsyncGenerator[Sequence[StreamEvent], None]:
        async with aclosing(self._start(request, key).stream()) as stream:
            async for events in stream:
                yield events

    async def poll(self, ref: RunRef) -> Snapshot:
        work = self._find(ref)
        return self._gone(ref) if work is None else work.snapshot()

    async def attach(self, ref: RunRef, *, after: Cursor | None = None) -> AsyncGenerator[Sequence[StreamEvent], None]:
        work = self._find(ref)
        if work is None or work.lost:
            raise RunNotFound(f"Run {ref.id} is not at work here.")  # a poll tells what that means

        yield []
        async with aclosing(work.stream(after)) as stream:
            async for events in stream:
                yield events

    async def cancel(self, ref: RunRef) -> Snapshot | None:
        work = self._find(ref)
        if work is None:
            return self._gone(ref)

        if work.task is not None:
            work.cancel_asked = True
            _cancel(work.task)
            await work.wait(CANCEL_PATIENCE)

        return None if work.ended_at is None else work.snapshot()

    async def respond(self, ref: RunRef, answers: Sequence[JSON]) -> Snapshot:
        raise Unsupported("A local run never waits for its user; let its function ask.")

    async def delete(self, ref: RunRef) -> None:
        raise Unsupported(f"Local runs are forgotten {self._keep:g} s after their end, by themselves.")

    async def aclose(self) -> None:
        self._closed = True
        self._enter_loop()
        tasks = {work.task for work in self._works.values() if work.task is not None} - {asyncio.current_task()}
        for task in tasks:
            _cancel(task)

        if tasks:
            _, stubborn = await asyncio.wait(tasks, timeout=CLOSE_GRACE)
            for task in stubborn:
                logger.error("%s did not end within %g s of its cancellation", task.get_name(), CLOSE_GRACE)

    # --- runs ---

    def _start(self, request: StartRequest, key: str | None) -> Work:
        """A new run; or the one that was started with this key, unless it was lost."""
        if self._closed:
            raise RequestRejected(f"{self!r} is closed. Make a new agent to start runs.")

        self._enter_loop()
        self._forget_old()
        known = self._works.get(key or "")
        if known is not None and not known.lost:
            return known

        # What a later process does again must have later numbers than what this one does.
        first = time.time_ns() // 1000 if self._idempotent else 0
        ref = RunRef(self.name, self.endpoint, {"run": key or f"run_{uuid4().hex}", "instance": self._instance})
        work = self._works[ref.id] = Work(ref, request, first)
        work.task = asyncio.create_task(self._run(work), name=f"{self!r} {ref.id}")
        work.task.add_done_callback(partial(self._conclude, work))
        return work

    async def _run(self, work: Work) -> Ending:
        async with self._slots:
            work.begin()
            run = LocalRun(work)
            made: Any = self._function(run if self._wants_run else run.text)
            if isinstance(made, AsyncIterator):
                await _write(cast("AsyncIterator[str]", made), run)
                return _ending(None, work)

            if inspect.isawaitable(made):
                return _ending(await made, work)

            what = type(made).__name__
            raise TypeError(f"{_name(self._function)} gave a {what}; make it an `async def`, with or without yield.")

    def _conclude(self, work: Work, task: asyncio.Task[Ending]) -> None:
        """The function has ended, in whichever way."""
        if work.ended_at is not None:  # given up, since its event loop was
            return

        work.task = None
        end = partial(work.end, task.get_loop().time())
        if task.cancelled():
            end(_stopped(work, task))
        elif (error := task.exception()) is not None:
            logger.error("run %s: %s failed", work.ref.id, _name(self._function), exc_info=error)
            end(Ending(RunStatus.FAILED, error=self._reason(error)))
        else:
            end(task.result())

        self._ended.append(work)
        self._forget_old()

    def _reason(self, error: BaseException) -> RunErrorInfo:
        """What an exception of the function says."""
        return RunErrorInfo(type(error).__name__, _message_of(error))

    def _find(self, ref: RunRef) -> Work | None:
        """By the run's id alone: one that was started again keeps the ref of its first start."""
        self._enter_loop()
        self._forget_old()
        return self._works.get(ref.id)

    def _gone(self, ref: RunRef) -> Snapshot:
        if ref.ids.get("instance") == self._instance:
            why = RunErrorInfo("not_found", f"The run ended more than {self._keep:g} s ago, and is not kept any more.")
            return Snapshot(ref, RunStatus.EXPIRED, "expired", error=why)

        return Snapshot(ref, RunStatus.FAILED, "failed", error=RunErrorInfo(LOST, _FOREIGN))

    def _forget_old(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._ended and (self._ended[0].ended_at or 0.0) + self._keep <= now:
            old = self._ended.popleft()
            if self._works.get(old.ref.id) is old:  # it may have been started again
                del self._works[old.ref.id]

    def _enter_loop(self) -> None:
        """What an earlier event loop left behind is not at work any more."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return

        if self._loop is not None and self._loop.is_running():
            raise RequestRejected(f"{self!r} is at work in another event loop, in another thread. Make one for each.")

        self._loop, self._slots = loop, asyncio.Semaphore(self._limit)
        self._ended = deque(self._works.values())
        for work in self._works.values():
            if work.ended_at is None:
                work.lose(_STOPPED)

            work.ended_at = loop.time()  # each loop has a clock of its own


_STOPPED = "The function was stopped before it had ended: its agent was closed, or its event loop ended."
_FOREIGN = (
    "The run was at work in another process, or in another Local of this one. Its work cannot be taken up from here, "
    "and is lost if that process is gone."
)


def _cancel(task: asyncio.Task[Ending]) -> None:
    """Once: a cancel is sent again by a runtime that takes the run up, and would break into its cleaning up."""
    if not task.cancelling():
        task.cancel()


def _stopped(work: Work, task: asyncio.Task[Ending]) -> Ending:
    """What it means that a function ended by CancelledError."""
    if work.cancel_asked:
        return Ending(RunStatus.CANCELLED)

    if task.cancelling():
        return Ending(RunStatus.FAILED, error=RunErrorInfo(LOST, _STOPPED))

    why = "The function raised CancelledError, and nobody had cancelled the run: something it waited for was cancelled."
    return Ending(RunStatus.FAILED, error=RunErrorInfo("CancelledError", why))


async def _write(made: AsyncIterator[str], run: LocalRun) -> None:
    """Stream what a generator yields."""
    close = getattr(made, "aclose", None)  # an iterator need not have it
    async with AsyncExitStack() as stack:
        if close is not None:
            stack.push_async_callback(close)

        async for piece in made:
            run.write(piece)
            await asyncio.sleep(0)  # a generator that never waits would keep its pieces from everyone


def _ending(value: Any, work: Work) -> Ending:
    return value if isinstance(value, Ending) else Ending(RunStatus.COMPLETED, [_answer(value, work)])


def _answer(value: Any, work: Work) -> str:
    """A function's result as text. None is what was written; or null, where a value is asked for."""
    free = work.request.output_schema is None
    if isinstance(value, str) and (free or type(value) is str):
        return str.__str__(value)  # of an enum's member its text, too

    if value is None and (free or work.text):
        return work.text

    return pydantic_core.to_json(value).decode()


def _message_of(error: BaseException) -> str:
    try:
        return str(error) or repr(error)
    except Exception:  # noqa: BLE001 -- a user's class, and this run has to end
        return "The exception cannot be shown."


def _wants_run(function: Function) -> bool:
    """True for a function of a `LocalRun`, False for one of a str. Raises UsageError for any other."""
    try:
        signature = _signature(function)
        signature.bind(None)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"Local takes an async function, or an async generator, of one parameter, a str or a LocalRun; "
            f"not {_name(function)}: {error}."
        ) from error

    wanted = next(iter(signature.parameters.values())).annotation
    if wanted is LocalRun or (isinstance(wanted, str) and wanted.rpartition(".")[2] == LocalRun.__name__):
        return True

    if isinstance(wanted, type) and wanted is not inspect.Parameter.empty and not issubclass(str, wanted):
        raise UsageError(f"{_name(function)} takes a {wanted.__name__}; Local gives it a str, or a LocalRun.")

    return False


def _signature(function: Function) -> inspect.Signature:
    """With annotations as types, if they can be had: those of a function inside a function often cannot."""
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:  # noqa: BLE001 -- annotations are any code
        return inspect.signature(function)


def _name(function: object) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))
