"""Many runs at once: started as there is room, and taken as they are done."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
    Sized,
)
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar, cast

from .core.response import AgentRunResponse
from .core.status import RunStatus
from .errors import RunTimeout, UsageError
from .handle import BackgroundHandle
from .inputs import Input
from .journal import JournalMode
from .live import outlast
from .options import AgentRunOptions
from .progress import Tracker
from .terms import OnDeadline

T = TypeVar("T")
R = TypeVar("R")
Inputs = Iterable[Input] | AsyncIterable[Input]


class Each(TypedDict, total=False):
    """What `submit_many` passes on to each `submit`."""

    stream: bool
    options: AgentRunOptions | None
    deadline: float | None
    on_deadline: OnDeadline | None
    journal: JournalMode | None
    metadata: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What became of one input of a batch."""

    index: int
    """Its place among the inputs, from 0."""
    input: Input
    handle: BackgroundHandle[T] | None
    """Its run, done by now; None where it could not be started."""
    error: Exception | None = None
    """Why it could not be started."""

    async def result(self) -> AgentRunResponse[T]:
        """The run's response. Raises why it could not be started, or what `handle.result` raises of how it ended."""
        if self.handle is None:
            assert self.error is not None, "there is a run, or why there is none"
            raise self.error

        return await self.handle.result()


class Batch(Generic[T, R]):
    """What `AgentRuntime.submit_many` gives: iterate over it, or await it. It begins then, and can be taken once.

    `async for outcome in batch` gives an `Outcome` for each input, as soon as it is there; `await batch` gives the
    responses in the order of the inputs. Leaving either, by an error, a `break` or being cancelled, starts no more
    runs, and leaves those that were started alive: `handles` has them.
    """

    def __init__(
        self,
        inputs: Inputs,
        start: Callable[[Input], Awaitable[BackgroundHandle[T]]],
        require_open: Callable[[], None],
        *,
        max_active: int,
        return_exceptions: bool,
        tracker: Callable[[int | None], Tracker],
    ) -> None:
        _check(inputs, max_active)
        self._inputs, self._start, self._require_open = inputs, start, require_open
        self._return_exceptions = return_exceptions
        self._tracker = tracker(len(inputs) if isinstance(inputs, Sized) else None)
        self._slots = asyncio.Semaphore(max_active)
        self._room = asyncio.Semaphore(2 * max_active)  # a consumer that falls behind keeps no more than that waiting
        self._active: dict[int, BackgroundHandle[T]] = {}
        self._pumping: asyncio.Task[None] | None = None
        self._starting: set[asyncio.Task[None]] = set()
        self._open = 0  # inputs that were taken, and have no outcome yet
        self._outcomes: asyncio.Queue[Outcome[T] | None] = asyncio.Queue()

    @property
    def handles(self) -> Sequence[BackgroundHandle[T]]:
        """The runs that go on now, in the order of their inputs: `max_active` at most."""
        return [self._active[index] for index in sorted(self._active)]

    def __aiter__(self) -> AsyncIterator[Outcome[T]]:
        return self._take()

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self._gather().__await__()

    async def _gather(self) -> list[R]:
        results: dict[int, Any] = {}
        async with aclosing(self._take()) as outcomes:
            async for outcome in outcomes:
                try:
                    results[outcome.index] = await outcome.result()
                except Exception as error:
                    if not self._return_exceptions:
                        raise

                    results[outcome.index] = error

        return [results[index] for index in sorted(results)]

    async def _take(self) -> AsyncGenerator[Outcome[T], None]:
        if self._pumping is not None:
            raise UsageError("A batch is iterated over, or awaited, once. Call submit_many again for more runs.")

        self._require_open()
        pump = self._pumping = asyncio.create_task(self._pump())
        pump.add_done_callback(lambda _: self._end_if_over())
        try:
            while (outcome := await self._outcomes.get()) is not None:
                self._room.release()
                yield outcome

            pump.result()
        finally:
            self._tracker.mute()
            under_way = [pump, *self._starting]
            for task in under_way:
                task.cancel()

            await outlast(under_way)

    async def _pump(self) -> None:
        """Start a run as often as there is room. An input is taken when it can be started, and not before."""
        index = 0
        async with aclosing(_each(self._inputs)) as inputs:
            while True:
                await self._room.acquire()
                await self._slots.acquire()
                self._require_open()
                try:
                    given = await anext(inputs)
                except StopAsyncIteration:
                    return

                self._open += 1
                start = asyncio.create_task(self._begin(index, given))
                self._starting.add(start)
                start.add_done_callback(self._starting.discard)
                index += 1

    async def _begin(self, index: int, input: Input) -> None:
        born = self._tracker.begin()
        self._tracker.tell()
        try:
            handle = await self._start(input)
        except Exception as error:  # noqa: BLE001  it is its outcome, be it a bad input or a service that says no
            self._tracker.end(born, failed=True, started=False)
            self._finish(Outcome(index, input, None, error))
            return

        self._active[index] = handle
        handle.add_done_callback(lambda _: self._done(Outcome(index, input, handle), born))

    def _done(self, outcome: Outcome[T], born: float) -> None:
        self._active.pop(outcome.index, None)
        assert outcome.handle is not None, "it was started"
        self._tracker.end(born, failed=outcome.handle.status is not RunStatus.COMPLETED)
        self._finish(outcome)

    def _finish(self, outcome: Outcome[T]) -> None:
        self._slots.release()
        self._open -= 1
        self._outcomes.put_nowait(outcome)
        self._end_if_over()

    def _end_if_over(self) -> None:
        if not self._open and self._pumping is not None and self._pumping.done():
            self._outcomes.put_nowait(None)


async def gather(
    handles: Sequence[BackgroundHandle[T]], *, return_exceptions: bool, tracker: Tracker
) -> list[AgentRunResponse[T] | Exception]:
    """The responses in the order of the handles. Whoever waits for the others is let go of when one raises."""
    waiters: list[asyncio.Future[AgentRunResponse[T]]] = []
    try:
        _follow(handles, tracker)
        waiters += [asyncio.ensure_future(handle.result()) for handle in handles]
        return cast("list[Any]", await asyncio.gather(*waiters, return_exceptions=return_exceptions))
    finally:
        tracker.mute()
        for waiter in waiters:
            waiter.cancel()

        await outlast(waiters)


async def as_completed(
    handles: Sequence[BackgroundHandle[T]], *, timeout: float | None, tracker: Tracker
) -> AsyncGenerator[BackgroundHandle[T], None]:
    """The handles as they are done. Raises RunTimeout when they are not all, `timeout` seconds from the first look."""
    done: asyncio.Queue[BackgroundHandle[T]] = asyncio.Queue()
    for handle in handles:
        handle.add_done_callback(done.put_nowait)

    _follow(handles, tracker)
    until = None if timeout is None else asyncio.get_running_loop().time() + timeout
    try:
        for came in range(len(handles)):
            try:
                async with asyncio.timeout_at(until):
                    handle = await done.get()
            except TimeoutError as error:
                late = [handle for handle in handles if not handle.done()]
                raise RunTimeout(
                    f"{len(handles) - came} of {len(handles)} runs are not done after {timeout:g} s. They go on.",
                    handle=(late or handles)[0],
                ) from error

            yield handle
    finally:
        tracker.mute()


def _follow(handles: Sequence[BackgroundHandle[Any]], tracker: Tracker) -> None:
    births = [tracker.begin(handle.elapsed) for handle in handles]
    for handle, born in zip(handles, births, strict=True):

        def end(done: BackgroundHandle[Any], born: float = born) -> None:
            tracker.end(born, failed=done.status is not RunStatus.COMPLETED)

        handle.add_done_callback(end)


async def _each(inputs: Inputs) -> AsyncGenerator[Input, None]:
    if not isinstance(inputs, AsyncIterable):
        for each in inputs:
            yield each

        return

    try:
        async for each in inputs:
            yield each
    finally:
        if inspect.isasyncgen(inputs):
            await inputs.aclose()


def _check(inputs: object, max_active: object) -> None:
    kind = type(inputs).__name__
    if isinstance(inputs, str | bytes | Mapping) or not isinstance(inputs, Iterable | AsyncIterable):
        raise UsageError(f"inputs are a list of them, or any other iterable, also async; not {kind}.")

    if type(max_active) is not int or max_active < 1:
        raise UsageError(f"max_active is how many runs may go on at a time: 1 or more, not {max_active!r}.")
