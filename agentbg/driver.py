"""Drives all runs of a runtime: one wake-up queue, a gate to each service, and the commands of each run's machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from math import inf
from typing import Any

from .alarm import Alarm
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
from .core.record import RunRecord
from .core.requests import Answer, InputRequest
from .core.states import Phase
from .core.status import RunStatus
from .errors import AgentBGError, ProviderError, RuntimeClosed, ServiceUnavailable, UsageError
from .gate import Gates, Passage
from .hooks import Hooks
from .hosting import Host
from .invoking import invoke
from .journal import close_all
from .live import LiveRun, outlast, promise, resolve
from .reader import Reader
from .stores.base import Store

logger = logging.getLogger("agentbg")
SHORTEST = 0.1
"""Seconds: as what interval a poll counts at least, when many wait. No run that is woken often starves the others."""
_NO_TURN = "The run's deadline passed before its poll had its turn."
_DELICATE = (Invoke, Send)


class Driver:
    """The fleet: it may be opened in one task and closed in another."""

    def __init__(self, store: Store, clock: Clock, gates: Gates, hooks: Hooks) -> None:
        self.runs: dict[str, LiveRun] = {}
        self._store = store
        self._hooks = hooks
        self.clock = clock
        self._host = Host(clock)
        self._alarm = Alarm(clock, self._wake)
        self._gates = gates
        self._asking: dict[str, Passage] = {}  # polls that wait for their turn, by the run's id

    @property
    def used(self) -> bool:
        """True once it was opened, also after it was closed."""
        return self._host.used

    async def open(self) -> None:
        """Start driving."""
        await self._host.open(self._abandon_all)

    async def aclose(self) -> None:
        """Stop driving. Runs go on at their services; those who wait for them here get RuntimeClosed.

        Cancelling this only cuts the wait for starts and calls short.
        """
        try:
            await self._host.aclose()
        finally:
            await outlast({asyncio.ensure_future(close_all([live.journal for live in self.runs.values()]))})

    def require_open(self) -> None:
        """Raise RuntimeClosed unless runs can be driven."""
        self._host.require_open()

    async def start(self, live: LiveRun, request: StartRequest) -> None:
        """Store the intent, then start the run. Cancelling this leaves the start under way: it is not to be lost."""
        self._spawn(live, self._start(live, request))
        self.runs[live.id] = live
        live.started = started = promise()
        self._host.take_care(started)
        try:
            await started
        except asyncio.CancelledError:
            if live.started is started:  # nobody waits for it any more, but for who closes the runtime
                live.started = promise()
                self._host.take_care(live.started)

            raise

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
                lost = await live.journal.lost()
                retold = live.run.dialogue.retell(lost.updates, lost.text) if lost else []
                first = [Commit(retold)] if retold else []
                await self._do(live, [*first, *live.run.begin(self.clock.now())])
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
        # It may not even have begun.
        work.add_done_callback(lambda _: resolve(stored, live.lost or self._host.closed()))
        await asyncio.shield(stored)

    def read(self, live: LiveRun, after: int) -> Reader:
        """A run's updates with a seq above `after`: from the store, and as they come."""
        self.require_open()
        return live.read(after)

    # --- commands ---

    async def _do(self, live: LiveRun, commands: list[Command]) -> None:
        if any(type(command) in _DELICATE for command in commands[1:]):  # first comes the commit that says so
            task = asyncio.current_task()
            assert task is not None, "a runtime's work is done in tasks"
            self._host.take_care(task)  # what is stored as begun is to be begun

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
                live.interval = at - self.clock.now()
                self._alarm.set(live.id, at)
            case Poll():
                self._ask(live, *live.service)
            case Attach(after, pause):
                calls, ref = live.service
                live.reconnects += 1
                live.stream = self._spawn(live, self._pump(live, calls.attach(ref, after, pause)))
            case Detach():
                self._detach(live)
            case Cancel():
                self._spawn(live, self._send_cancel(live, *live.service))
            case Invoke(request):
                live.work(self._host.take_care(self._spawn(live, self._invoke(live, request))))
            case Send():
                self._host.take_care(self._spawn(live, self._send_answers(live, command)))
            case Complain(error):
                logger.warning("run %s: the service refuses to talk about it: %s", live.id, error)
                live.ring(error)
            case _:
                raise AssertionError(f"{command} is carried out elsewhere")

    async def _commit(self, live: LiveRun, commit: Commit) -> None:
        record = live.record
        if commit.updates:
            live.settled = False  # until the store has these

        flush_in = await live.journal.commit(commit)
        if flush_in is not None:
            asyncio.get_running_loop().call_later(flush_in, self._flush, live)

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
        self._alarm.discard(live.id)
        if live.record.status.terminal:
            self._drop(live)

    def _drop(self, live: LiveRun) -> None:
        if self.runs.get(live.id) is live:
            del self.runs[live.id]
            self._alarm.discard(live.id)
            if (turn := self._asking.pop(live.id, None)) is not None:
                turn.leave()

    # --- what runs under way do ---

    async def _start(self, live: LiveRun, request: StartRequest) -> None:
        await self._store.create(live.record)
        await self._send_start(live, request)

    async def _send_start(self, live: LiveRun, request: StartRequest) -> None:
        await self._begin(live, live.driven_by.calls, request, live.id)

    async def _begin(self, live: LiveRun, calls: Calls, request: StartRequest, key: str) -> None:
        if calls.opens(live.record):
            live.stream = asyncio.current_task()
            await self._pump(live, calls.open(request, key))
            return

        seen = await calls.start(request, key)
        await self.tell(live, seen)
        self._report_start(live, seen)

    async def _send_answers(self, live: LiveRun, send: Send) -> None:
        """Start the next round; or tell the run that waits, where the service has such runs."""
        once = live.driven_by.calls.once
        if send.waiting is None:
            await self._begin(live, once, send.request, send.key)
            return

        await self.tell(live, await once.respond(send.waiting, send.request))

    async def _invoke(self, live: LiveRun, request: InputRequest) -> None:
        since = self.clock.now()
        seen = await invoke(live.driven_by.tools, live.record, request)
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

    def _ask(self, live: LiveRun, calls: Calls, ref: RunRef) -> None:
        """Poll, when its turn comes: until then it costs no task. A deadline does not wait for that."""

        def go(turn: Passage) -> None:
            self._asking.pop(live.id, None)
            if self._host.is_open:
                self._spawn(live, self._poll(live, calls, ref, turn))
            else:
                turn.leave()

        assert calls.gate is not None, "a runtime's calls have a gate"
        turn = calls.gate.ask(ref.id, max(live.interval, SHORTEST), go)
        if turn is not None:
            self._asking[live.id] = turn
            if live.run.deadline < inf:
                self._alarm.set(live.id, live.run.deadline)

    async def _poll(self, live: LiveRun, calls: Calls, ref: RunRef, turn: Passage) -> None:
        live.record.polls += 1
        since = self.clock.now()
        seen = await calls.poll(ref, self._again(live), live.id, turn)
        error = seen.error if isinstance(seen, PollFailed) else None
        if error is not None:
            logger.info("run %s: %s", live.id, error)

        await self.tell(live, seen)
        self._hooks.polled(live, error, self.clock.now() - since)

    async def _pump(self, live: LiveRun, observations: AsyncGenerator[Any, None]) -> None:
        """Carry a connection's observations to the machine, until it ends or the machine lets go of it."""
        task = asyncio.current_task()
        async with aclosing(observations):
            async for seen in observations:
                if isinstance(seen, StreamEnded) and seen.error is not None:
                    logger.info("run %s: %s", live.id, seen.error)

                await self.tell(live, seen)
                self._report_start(live, seen)
                if live.stream is not task:
                    return

    async def _send_cancel(self, live: LiveRun, calls: Calls, ref: RunRef) -> None:
        seen: CancelAnswered | CancelFailed
        failure: ProviderError | None = None
        try:
            seen = await calls.cancel(ref)
        except ProviderError as error:
            seen, failure = CancelFailed(), error

        await self.tell(live, seen)
        resolve(live.cancelling, failure)
        live.cancelling = None

    def _report_start(self, live: LiveRun, seen: Observation) -> None:
        """Let whoever submitted the run know how its start went."""
        if live.started is None:
            return

        try:
            raise_if_not_started(seen, live.id)
        except AgentBGError as error:
            resolve(live.started, error)
        else:
            if live.record.ref is None and not live.settled:
                return

            resolve(live.started)

        live.started = None

    # --- hosting ---

    def _wake(self, run_id: str) -> None:
        live = self.runs.get(run_id)
        if live is None or not self._host.is_open:
            return

        now = self.clock.now()
        if run_id in self._asking and now >= live.run.deadline:
            self._asking.pop(run_id).leave()
            self._spawn(live, self.tell(live, PollFailed(ServiceUnavailable(_NO_TURN))))
        elif live.run.phase is Phase.POLLING and not live.lock.locked():
            self._look(live, now)
        else:
            self._spawn(live, self.tell(live, Due()))

    def _look(self, live: LiveRun, now: float) -> None:
        """What is due of a run that is only polled needs no commit, and so no task."""
        try:
            for command in live.run.feed(Due(), now):
                self._act(live, command)
        except Exception as error:  # noqa: BLE001  it is handed on
            self._contain(live, error)

    def _flush(self, live: LiveRun) -> None:
        if self._host.is_open and live.lost is None:
            self._spawn(live, live.journal.flush())

    def _spawn(self, live: LiveRun, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        try:
            task = self._host.spawn(self._guard(live, work), f"agentbg {live.id}")
        except RuntimeClosed:
            work.close()
            raise

        task.add_done_callback(lambda _: work.close())  # a task that is cancelled before it begins awaits nothing
        return task

    async def _guard(self, live: LiveRun, work: Coroutine[Any, Any, None]) -> None:
        """One run's trouble is not another's: the run is let go of, and those who wait for it are told."""
        try:
            await work
        except Exception as error:  # noqa: BLE001  it is handed on
            self._contain(live, error)

    def _contain(self, live: LiveRun, error: Exception) -> None:
        if isinstance(error, RuntimeClosed):
            return

        if not isinstance(error, AgentBGError):
            logger.error("run %s: agentbg has a bug; the run is let go of", live.id, exc_info=error)
            bug = AgentBGError(f"agentbg has a bug, please report it: {error!r}. The run goes on at the service.")
            bug.__cause__ = error
            error = bug

        self._let_go(live, error)

    def _abandon_all(self) -> None:
        self._gates.close()
        self._alarm.stop()
        for live in list(self.runs.values()):
            live.abandon(RuntimeClosed("The runtime was closed. The run goes on at the service, and in the store."))

    def _let_go(self, live: LiveRun, error: AgentBGError) -> None:
        self._detach(live)
        self._drop(live)
        live.hang_up()
        live.abandon(error)


def _answered(record: RunRecord) -> bool:
    """True for a run that the service answered at once, without giving it a name."""
    return not record.status.live and record.status is not RunStatus.FAILED
