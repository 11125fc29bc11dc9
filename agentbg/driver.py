"""Drives all runs of a runtime: one wake-up queue, one bound on requests, and the commands of each run's machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

import anyio

from .calls import Calls, raise_if_not_started
from .clock import Clock
from .core.dialogue import check_answers
from .core.messages import (
    Answered,
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
    Invoke,
    Observation,
    Poll,
    PollFailed,
    Send,
    StreamEnded,
    WakeAt,
)
from .core.model import RunRef, StartRequest
from .core.queue import PollQueue
from .core.record import RunRecord
from .core.requests import Answer, InputRequest
from .core.status import RunStatus
from .core.update import AgentRunResponseUpdate
from .errors import AgentBGError, ProviderError, RuntimeClosed, UsageError
from .hooks import Hooks
from .live import LiveRun, outlast, promise, resolve
from .stores.base import Store

logger = logging.getLogger("agentbg")

CLOSING_GRACE = 10.0
"""Seconds that closing waits for starts and calls of tools under way: of one that is cut off, nobody knows how far it
came."""


class _Stopped(Exception):
    """Ends the task group."""


class Driver:
    """The fleet. It hosts its task group in a task of its own: it may be opened in one task and closed in another."""

    def __init__(self, store: Store, clock: Clock, max_requests: int, hooks: Hooks) -> None:
        self.runs: dict[str, LiveRun] = {}
        self._store = store
        self._hooks = hooks
        self.clock = clock
        self._queue = PollQueue()
        self._limit = anyio.CapacityLimiter(max_requests)
        self._delicate: set[asyncio.Future[Any]] = set()
        """What closing waits for a little."""
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

        Cancelling this only cuts the wait for starts and calls short.
        """
        try:
            until = self.clock.now() + CLOSING_GRACE
            while self._delicate and self.clock.now() < until:  # a call's end may bring a start
                await asyncio.wait(self._delicate, timeout=until - self.clock.now())
        finally:
            self._stop.set()
            if self._supervisor is not None:
                await outlast({self._supervisor})

    async def start(self, live: LiveRun, request: StartRequest) -> None:
        """Store the intent, then start the run. Cancelling this leaves the start under way: it is not to be lost."""
        self._spawn(live, self._start(live, request))
        self.runs[live.id] = live
        live.started = promise()
        self._take_care(live.started)
        await asyncio.shield(live.started)

    async def take_up(self, live: LiveRun) -> None:
        """Go on with a run that was started before. Raises what keeps it from being driven; it is let go of then.

        One that waits for its user is only kept at hand: all who hold it are to see his answer.
        """
        self.require_open()
        if live.record.status.terminal:  # it ended while its record was on the way here
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
        if live.record.status.terminal and live.settled:
            return

        self.require_open()
        if live.lost is not None:
            raise live.lost

        if live.cancelling is None:
            live.cancelling = promise()
            live.record.cancel_reason = live.record.cancel_reason or reason
            self._spawn(live, self.tell(live, CancelAsked()))

        await asyncio.shield(live.cancelling)

    async def respond(self, live: LiveRun, answers: Sequence[Answer]) -> None:
        """Take a user's answers; returns when they are stored. Raises UsageError for answers that do not fit.

        Cancelling this leaves the answers on their way.
        """
        self.require_open()
        stored = promise()
        work = self._spawn(live, self._respond(live, answers, stored))
        work.add_done_callback(lambda _: resolve(stored, live.lost or self._closed()))  # it may not even have begun
        await asyncio.shield(stored)

    def updates(self, live: LiveRun, after: int) -> AsyncGenerator[AgentRunResponseUpdate, None]:
        """A run's updates with a seq above `after`: from memory, from the store, and as they come."""
        self.require_open()
        return live.updates(self._store, after)

    def require_open(self) -> None:
        """Raise RuntimeClosed unless runs can be driven."""
        if self._group is None or self._stop.is_set():
            raise self._closed()

    @staticmethod
    def _closed() -> RuntimeClosed:
        return RuntimeClosed(
            "The runtime is not open. Use it inside `async with AgentRuntime(…) as runtime:`; unfinished runs stay in "
            "the store, and a new runtime on it goes on with them."
        )

    # --- commands ---

    async def _do(self, live: LiveRun, commands: list[Command]) -> None:
        task = asyncio.current_task()
        if task is not None and any(isinstance(command, Invoke | Send) for command in commands):
            self._take_care(task)  # what is stored as begun is to be begun

        for command in commands:
            if live.lost is not None:  # let go of meanwhile: another `LiveRun` may drive the run by now
                return

            if isinstance(command, Commit):
                await self._commit(live, command)
            else:
                self._act(live, command)

    def _act(self, live: LiveRun, command: Command) -> None:
        match command:
            case WakeAt(at):
                self._queue.set(live.id, at)
                self._kick.set()
            case Poll():
                self._spawn(live, self._poll(live, *live.service))
            case Attach(after):
                calls, ref = live.service
                live.reconnects += 1
                live.stream = self._spawn(live, self._pump(live, calls.attach(ref, after)))
            case Detach():
                self._detach(live)
            case Cancel():
                self._spawn(live, self._send_cancel(live, *live.service))
            case Invoke(request):
                live.work(self._take_care(self._spawn(live, self._invoke(live, request))))
            case Send():
                self._take_care(self._spawn(live, self._send_answers(live, command)))
            case Complain(error):
                logger.warning("run %s: the service refuses to talk about it: %s", live.id, error)
                live.bell.ring(error)
            case _:
                raise AssertionError(f"{command} is carried out elsewhere")

    async def _commit(self, live: LiveRun, commit: Commit) -> None:
        record = live.record
        record.updated_at = self.clock.wall()
        if commit.settled:
            record.finished_at = record.updated_at if record.status.terminal else None

        if commit.updates:
            live.settled = False  # until the store has these

        await (self._store.save if commit.whole else self._store.append)(record, commit.updates)
        if live.started is not None and not live.announced and (record.ref is not None or _answered(record)):
            live.announced = True
            self._hooks.submitted(live)

        live.publish(commit.updates)
        self._hooks.happened(live, commit.updates)
        if commit.settled:
            self._rest(live)
            live.settle()
            if record.status.terminal:
                self._hooks.completed(live)

    def _detach(self, live: LiveRun) -> None:
        stream, live.stream = live.stream, None
        if stream is not None and stream is not asyncio.current_task():
            stream.cancel()

    def _rest(self, live: LiveRun) -> None:
        """Nothing more is to be done for a run; one that waits for its user is kept at hand."""
        live.hang_up()
        self._queue.discard(live.id)
        if live.record.status.terminal:
            self._drop(live)

    def _drop(self, live: LiveRun) -> None:
        if self.runs.get(live.id) is live:
            del self.runs[live.id]
            self._queue.discard(live.id)

    def _take_care(self, work: asyncio.Future[Any]) -> asyncio.Future[Any]:
        self._delicate.add(work)
        work.add_done_callback(self._delicate.discard)
        return work

    # --- what runs under way do ---

    async def _start(self, live: LiveRun, request: StartRequest) -> None:
        await self._store.create(live.record)
        await self._send_start(live, request)

    async def _send_start(self, live: LiveRun, request: StartRequest) -> None:
        assert live.calls is not None, "a run that is started has an agent"
        await self._begin(live, live.calls, request, live.id)

    async def _begin(self, live: LiveRun, calls: Calls, request: StartRequest, key: str) -> None:
        if calls.opens(live.record):
            live.stream = asyncio.current_task()
            await self._pump(live, calls.open(request, key))
            return

        async with self._limit:
            seen = await calls.start(request, key)

        await self.tell(live, seen)
        self._report_start(live, seen)

    async def _send_answers(self, live: LiveRun, send: Send) -> None:
        """Start the next round; or tell the run that waits, where the service has such runs."""
        assert live.calls is not None, "a run that goes on has an agent"
        if send.waiting is None:
            await self._begin(live, live.calls.once, send.request, send.key)
            return

        async with self._limit:
            seen = await live.calls.once.respond(send.waiting, send.request)

        await self.tell(live, seen)

    async def _invoke(self, live: LiveRun, request: InputRequest) -> None:
        assert live.invoke is not None, "the machine knows no tools but the agent's"
        since = self.clock.now()
        seen = await live.invoke(request)
        self._hooks.called(live, request, getattr(seen, "output", None), self.clock.now() - since)
        await self.tell(live, seen)

    async def _respond(self, live: LiveRun, answers: Sequence[Answer], stored: asyncio.Future[None]) -> None:
        try:
            async with live.lock:
                if live.lost is not None:
                    raise live.lost

                check_answers(live.record, answers)
                live.record.renewed_at = self.clock.wall()
                await self._do(live, live.run.feed(Answered(answers), self.clock.now()))
        except UsageError as error:
            resolve(stored, error)
        except AgentBGError as error:
            resolve(stored, error)
            raise
        else:
            resolve(stored)

    def _again(self, live: LiveRun) -> StartRequest | None:
        """What to start the run by, should its service have lost it; None where that is not to be."""
        record = live.record
        wanted = not record.cancel_requested and not record.rounds and self.clock.wall() < live.restarts_until
        return record.request if wanted else None

    async def _poll(self, live: LiveRun, calls: Calls, ref: RunRef) -> None:
        async with self._limit:
            live.record.polls += 1
            since = self.clock.now()
            seen = await calls.poll(ref, self._again(live), live.id)

        error = seen.error if isinstance(seen, PollFailed) else None
        if error is not None:
            logger.info("run %s: %s", live.id, error)

        await self.tell(live, seen)
        self._hooks.polled(live, error, self.clock.now() - since)

    async def _pump(self, live: LiveRun, observations: AsyncGenerator[Any, None]) -> None:
        """Carry a connection's observations to the machine, until it ends or the machine lets go of it."""
        async with aclosing(observations):
            async for seen in observations:
                if isinstance(seen, StreamEnded) and seen.error is not None:
                    logger.info("run %s: %s", live.id, seen.error)

                await self.tell(live, seen)
                self._report_start(live, seen)
                if live.stream is not asyncio.current_task():
                    return

    async def _send_cancel(self, live: LiveRun, calls: Calls, ref: RunRef) -> None:
        seen: CancelAnswered | CancelFailed
        failure: ProviderError | None = None
        try:
            async with self._limit:
                seen = await calls.cancel(ref)
        except ProviderError as error:
            seen, failure = CancelFailed(), error

        await self.tell(live, seen)
        resolve(live.cancelling, failure)
        live.cancelling = None

    def _report_start(self, live: LiveRun, seen: Observation) -> None:
        """Let whoever submitted the run know how its start went."""
        if live.started is None or live.started.done():
            return

        try:
            raise_if_not_started(seen, live.id)
        except AgentBGError as error:
            resolve(live.started, error)
            return

        if live.record.ref is not None or live.settled:
            resolve(live.started)

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
        live.hang_up()
        live.abandon(error)


def _answered(record: RunRecord) -> bool:
    """True for a run that the service answered at once, without giving it a name."""
    return not record.status.live and record.status is not RunStatus.FAILED
