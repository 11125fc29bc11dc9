"""Drives all runs of a runtime: one wake-up queue, one bound on requests, and the commands of each run's machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

import anyio

from .calls import raise_if_not_started
from .clock import Clock
from .core.messages import (
    Attach,
    Cancel,
    CancelAnswered,
    CancelAsked,
    CancelFailed,
    Command,
    Commit,
    Complain,
    Detach,
    Due,
    Observation,
    Poll,
    PollFailed,
    StreamEnded,
    WakeAt,
)
from .core.model import StartRequest
from .core.queue import PollQueue
from .core.update import AgentRunResponseUpdate
from .errors import AgentBGError, ProviderError, RuntimeClosed
from .live import LiveRun, heard, outlast
from .stores.base import Store

logger = logging.getLogger("agentbg")

START_GRACE = 10.0
"""Seconds that closing waits for starts under way: a start that is cut off leaves a run that nobody knows."""


class _Stopped(Exception):
    """Ends the task group."""


class Driver:
    """The fleet. It hosts its task group in a task of its own: it may be opened in one task and closed in another."""

    def __init__(self, store: Store, clock: Clock, max_requests: int) -> None:
        self.runs: dict[str, LiveRun] = {}
        self._store = store
        self.clock = clock
        self._queue = PollQueue()
        self._limit = anyio.CapacityLimiter(max_requests)
        self._starts: set[asyncio.Future[None]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._kick = asyncio.Event()

    @property
    def used(self) -> bool:
        """True once it was opened, also after it was closed."""
        return self._supervisor is not None

    async def open(self) -> None:
        """Start driving."""
        ready = asyncio.Event()
        self._supervisor = asyncio.create_task(self._supervise(ready), name="agentbg supervisor")
        await ready.wait()

    async def aclose(self) -> None:
        """Stop driving. Runs go on at their services; those who wait for them here get RuntimeClosed.

        Cancelling this only cuts the wait for starts short.
        """
        try:
            if self._starts:
                await asyncio.wait(self._starts, timeout=START_GRACE)
        finally:
            self._stop.set()
            if self._supervisor is not None:
                await outlast({self._supervisor})

    async def start(self, live: LiveRun, request: StartRequest) -> None:
        """Store the intent, then start the run. Cancelling this leaves the start under way: it is not to be lost."""
        self._spawn(live, self._start(live, request))
        self.runs[live.id] = live
        live.started = _promise()
        self._starts.add(live.started)
        live.started.add_done_callback(self._starts.discard)
        await asyncio.shield(live.started)

    async def take_up(self, live: LiveRun) -> None:
        """Go on with a run that was started before. Raises what keeps it from being driven; it is let go of then."""
        self.require_open()
        if live.settled:  # it ended while its record was on the way here
            return

        self.runs[live.id] = live
        again = self._again(live)
        if live.record.ref is None and again is not None:
            self._spawn(live, self._send_start(live, again))
            return

        try:
            async with live.lock:
                await self._do(live, live.run.begin(self.clock.now()))
        except AgentBGError as error:
            self._let_go(live, error)
            raise

    async def tell(self, live: LiveRun, seen: Observation) -> None:
        """Tell a run's machine what happened, and do what it says."""
        async with live.lock:
            await self._do(live, live.run.feed(seen, self.clock.now()))

    async def cancel(self, live: LiveRun, reason: str | None) -> None:
        """Cancel the remote run; returns when the service has answered. Raises ProviderError when it cannot."""
        if live.settled:
            return

        self.require_open()
        if live.lost is not None:
            raise live.lost

        if live.cancelling is None:
            live.cancelling = _promise()
            live.record.cancel_reason = live.record.cancel_reason or reason
            self._spawn(live, self.tell(live, CancelAsked()))

        await asyncio.shield(live.cancelling)

    def updates(self, live: LiveRun, after: int) -> AsyncGenerator[AgentRunResponseUpdate, None]:
        """A run's updates with a seq above `after`: from memory, from the store, and as they come."""
        self.require_open()
        return live.updates(self._store, after)

    def require_open(self) -> None:
        """Raise RuntimeClosed unless runs can be driven."""
        if self._group is None or self._stop.is_set():
            raise RuntimeClosed(
                "The runtime is not open. Use it inside `async with AgentRuntime(…) as runtime:`; unfinished runs stay "
                "in the store, and a new runtime on it goes on with them."
            )

    # --- commands ---

    async def _do(self, live: LiveRun, commands: list[Command]) -> None:
        for command in commands:
            if live.lost is not None:  # let go of meanwhile: another `LiveRun` may drive the run by now
                return

            match command:
                case Commit():
                    await self._commit(live, command)
                case WakeAt(at):
                    self._queue.set(live.id, at)
                    self._kick.set()
                case Poll():
                    self._spawn(live, self._poll(live))
                case Attach(after):
                    calls, ref = live.service
                    live.reconnects += 1
                    live.stream = self._spawn(live, self._pump(live, calls.attach(ref, after)))
                case Detach():
                    self._detach(live)
                case Cancel():
                    self._spawn(live, self._send_cancel(live))
                case Complain(error):
                    logger.warning("run %s: the service refuses to talk about it: %s", live.id, error)
                    live.bell.ring(error)

    async def _commit(self, live: LiveRun, commit: Commit) -> None:
        record = live.record
        record.updated_at = self.clock.wall()
        if commit.settled:
            record.finished_at = record.updated_at if record.status.terminal else None

        await self._store.save(record, commit.updates)
        live.publish(commit.updates)
        if commit.settled:
            self._drop(live)
            live.settle()

    def _detach(self, live: LiveRun) -> None:
        stream, live.stream = live.stream, None
        if stream is not None and stream is not asyncio.current_task():
            stream.cancel()

    def _drop(self, live: LiveRun) -> None:
        if self.runs.get(live.id) is live:
            del self.runs[live.id]
            self._queue.discard(live.id)

    # --- what runs under way do ---

    async def _start(self, live: LiveRun, request: StartRequest) -> None:
        await self._store.create(live.record)
        await self._send_start(live, request)

    async def _send_start(self, live: LiveRun, request: StartRequest) -> None:
        assert live.calls is not None, "a run that is started has an agent"
        if live.calls.opens(live.record):
            live.stream = asyncio.current_task()
            await self._pump(live, live.calls.open(request, live.id))
            return

        async with self._limit:
            seen = await live.calls.start(request, live.id)

        await self.tell(live, seen)
        _report_start(live, seen)

    def _again(self, live: LiveRun) -> StartRequest | None:
        """What to start the run by, should its service have lost it; None where that is not to be."""
        wanted = not live.record.cancel_requested and self.clock.wall() < live.restarts_until
        return live.record.request if wanted else None

    async def _poll(self, live: LiveRun) -> None:
        calls, ref = live.service
        async with self._limit:
            live.record.polls += 1
            seen = await calls.poll(ref, self._again(live), live.id)

        if isinstance(seen, PollFailed):
            logger.info("run %s: %s", live.id, seen.error)

        await self.tell(live, seen)

    async def _pump(self, live: LiveRun, observations: AsyncGenerator[Any, None]) -> None:
        """Carry a connection's observations to the machine, until it ends or the machine lets go of it."""
        async with aclosing(observations):
            async for seen in observations:
                if isinstance(seen, StreamEnded) and seen.error is not None:
                    logger.info("run %s: %s", live.id, seen.error)

                await self.tell(live, seen)
                _report_start(live, seen)
                if live.stream is not asyncio.current_task():
                    return

    async def _send_cancel(self, live: LiveRun) -> None:
        calls, ref = live.service
        seen: CancelAnswered | CancelFailed
        failure: ProviderError | None = None
        try:
            async with self._limit:
                seen = await calls.cancel(ref)
        except ProviderError as error:
            seen, failure = CancelFailed(), error

        await self.tell(live, seen)
        _resolve(live.cancelling, failure)
        live.cancelling = None

    # --- hosting ---

    async def _supervise(self, ready: asyncio.Event) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._schedule(), name="agentbg scheduler")
                ready.set()
                await self._stop.wait()
                raise _Stopped
        except* _Stopped:
            pass
        finally:
            self._stop.set()
            for live in list(self.runs.values()):
                live.abandon(RuntimeClosed("The runtime was closed. The run goes on at the service, and in the store."))

    async def _schedule(self) -> None:
        """Wake each run when it is due."""
        while not self._stop.is_set():
            while (run_id := self._queue.pop_due(self.clock.now())) is not None:
                live = self.runs.get(run_id)
                if live is not None:
                    self._spawn(live, self.tell(live, Due()))

            self._kick.clear()
            await self._sleep_until(self._queue.next_at())

    async def _sleep_until(self, at: float | None) -> None:
        timer = None if at is None else asyncio.get_running_loop().call_at(at, self._kick.set)
        try:
            await self._kick.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _spawn(self, live: LiveRun, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if self._group is None or self._stop.is_set():
            work.close()
            self.require_open()

        assert self._group is not None, "open"
        task = self._group.create_task(self._guard(live, work), name=f"agentbg {live.id}")
        task.add_done_callback(lambda _: work.close())  # a task that is cancelled before it begins awaits nothing
        return task

    async def _guard(self, live: LiveRun, work: Coroutine[Any, Any, None]) -> None:
        """One run's trouble is not another's: the run is let go of, and those who wait for it are told."""
        try:
            await work
        except RuntimeClosed:
            return
        except AgentBGError as error:
            self._let_go(live, error)
        except Exception as error:
            logger.exception("run %s: agentbg has a bug; the run is let go of", live.id)
            failure = AgentBGError(f"agentbg has a bug, please report it: {error!r}. The run goes on at the service.")
            failure.__cause__ = error
            self._let_go(live, failure)

    def _let_go(self, live: LiveRun, error: AgentBGError) -> None:
        self._detach(live)
        self._drop(live)
        live.abandon(error)


def _report_start(live: LiveRun, seen: Observation) -> None:
    """Let whoever submitted the run know how its start went."""
    try:
        raise_if_not_started(seen, live.id)
    except AgentBGError as error:
        _resolve(live.started, error)
        return

    if live.record.ref is not None or live.settled:
        _resolve(live.started)


def _promise() -> asyncio.Future[None]:
    """A future whose outcome nobody may be there to take: that is no error."""
    promise: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    promise.add_done_callback(heard)
    return promise


def _resolve(promise: asyncio.Future[None] | None, error: Exception | None = None) -> None:
    if promise is None or promise.done():
        return

    if error is None:
        promise.set_result(None)
    else:
        promise.set_exception(error)
