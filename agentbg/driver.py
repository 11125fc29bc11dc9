"""Drives all runs of a runtime: one wake-up queue, a gate to each service, and the commands of each run's machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from math import inf
from typing import Any

from .alarm import Alarm
from .calls import Calls
from .clock import Clock
from .core.dialogue import check_answers
from .core.messages import (
    Answered,
    Attach,
    Cancel,
    CancelAsked,
    Command,
    Commit,
    Complain,
    Detach,
    Due,
    Invoke,
    Notified,
    Observation,
    Overdue,
    Poll,
    PollFailed,
    Send,
    Stalled,
    WakeAt,
)
from .core.model import Cursor, RunRef, StartRequest
from .core.record import RunRecord
from .core.requests import Answer
from .core.states import Phase
from .core.status import RunStatus
from .core.turns import Kind
from .deeds import Deeds
from .errors import AgentBGError, RuntimeClosed, ServiceUnavailable, UsageError
from .gate import Gates, Passage
from .hooks import Hooks
from .hosting import Host
from .journal import close_all
from .live import LiveRun, outlast, promise, resolve
from .reader import Reader
from .stats import Meter, RuntimeStats
from .stores.base import Store
from .wakeups import Wakeups

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
        self.hooks = hooks
        self.clock = clock
        self._host = Host(clock)
        self._meter = Meter(clock)
        self._wakeups = Wakeups(clock, self.runs)
        self._alarm = Alarm(clock, self._wake, self._meter.scheduling.add)
        self._deeds = Deeds(self.tell, store, clock, hooks, self._meter)
        self._gates = gates
        self._asking: dict[str, Passage] = {}  # polls that wait for their turn, by the run's id
        self._attaching: dict[str, Passage] = {}  # the turns of streams that wait, or did

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

    def stats(self) -> RuntimeStats:
        """How the fleet fares."""
        return self._meter.look(self._gates.stats())

    def notify(self, name: str) -> bool:
        """A run of this name, the service's or ours, has changed: make it due. False when none here has it."""
        self.require_open()
        live = self.runs.get(name) or self._wakeups.find(name)
        if live is None:
            return False

        self._meter.notified += 1
        live.interval = 0.0
        if (turn := self._asking.pop(live.id, None)) is None:
            self._spawn(live, self.tell(live, Notified()))
        else:  # its poll is not sent yet: it is to be among the first
            turn.leave()
            self._ask(live, *live.service)

        return True

    async def start(self, live: LiveRun, request: StartRequest) -> None:
        """Store the intent, then start the run. Cancelling this leaves the start under way: it is not to be lost."""
        self._spawn(live, self._deeds.start(live, request))
        self.runs[live.id] = live
        self._meter.came(live)
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
        self._meter.came(live)
        self._note(live)
        again = self._deeds.again(live)
        if live.record.ref is None and again is not None:
            self._spawn(live, self._deeds.send_start(live, again))
            return

        try:
            async with live.lock:
                lost = await live.journal.lost()
                if live.lost is not None:  # the runtime was closed meanwhile, and the record is to stay as it is
                    raise live.lost

                retold = live.run.dialogue.retell(lost.updates, lost.text) if lost else []
                first = [Commit(retold)] if retold else []
                before = live.record.status
                commands = live.run.begin(self.clock.now())
                self._count(live, before)
                await self._do(live, [*first, *commands])
        except AgentBGError as error:
            self._let_go(live, error)
            raise

    async def tell(self, live: LiveRun, seen: Observation) -> bool:
        """Tell a run's machine what happened, and do what it says. False when it was no news."""
        async with live.lock:
            commands = self._feed(live, seen)
            await self._do(live, commands)

        return any(isinstance(command, Commit) for command in commands)

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

    def _feed(self, live: LiveRun, seen: Observation) -> list[Command]:
        before = live.record.status
        commands = live.run.feed(seen, self.clock.now())
        self._count(live, before)
        return commands

    def _count(self, live: LiveRun, before: RunStatus) -> None:
        if live.record.status is not before and self.runs.get(live.id) is live:
            self._meter.moved(before, live.record.status)

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
                self._attach(live, after, pause)
            case Detach():
                self._detach(live)
            case Cancel():
                self._spawn(live, self._deeds.cancel(live, *live.service))
            case Invoke(request):
                live.work(self._host.take_care(self._spawn(live, self._deeds.invoke(live, request))))
            case Send():
                self._host.take_care(self._spawn(live, self._deeds.send_answers(live, command)))
            case Complain(error):
                logger.warning("run %s: the service refuses to talk about it: %s", live.id, error)
                live.ring(error)
            case Stalled() | Overdue():
                self.hooks.warned(live, command)
            case _:
                raise AssertionError(f"{command} is carried out elsewhere")

    async def _commit(self, live: LiveRun, commit: Commit) -> None:
        record = live.record
        if commit.updates:
            live.settled = False  # until the store has these

        flush_in = await live.journal.commit(commit)
        if flush_in is not None:
            asyncio.get_running_loop().call_later(flush_in, self._flush, live)

        self._meter.commits += 1
        if commit.whole:
            self._note(live)

        if live.started is not None and not live.announced and (record.ref is not None or _answered(record)):
            live.announced = True
            self.hooks.submitted(live)

        live.publish(commit.updates)
        self.hooks.happened(live, commit.updates)
        if commit.settled:
            self._rest(live)
            live.settle()
            if record.status.terminal:
                self._meter.ended(live)
                self.hooks.completed(live)

    def _note(self, live: LiveRun) -> None:
        """A run may have a new name, which somebody has spoken of already."""
        if self.runs.get(live.id) is live and self._wakeups.bears(live) and self._host.is_open:
            self._meter.notified += 1
            self._spawn(live, self.tell(live, Notified()))

    def _attach(self, live: LiveRun, after: Cursor | None, pause: float) -> None:
        calls, ref = live.service
        assert calls.gate is not None, "a runtime's calls have a gate"
        turn = self._attaching[live.id] = calls.gate.turn(Kind.ATTACH, ref.id, calls.retry.patience)
        live.reconnects += 1
        live.stream = self._spawn(live, self._deeds.pump(live, calls.attach(ref, after, pause, turn)))

    def _queues(self, run_id: str) -> bool:
        """True for a run whose stream waits for its turn, or has since this was last asked."""
        turn = self._attaching.get(run_id)
        if turn is None or not turn.waits:
            self._attaching.pop(run_id, None)

        return turn is not None and turn.coming is not None

    def _detach(self, live: LiveRun) -> None:
        self._attaching.pop(live.id, None)
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
            self._wakeups.forget(live)
            self.hooks.forget(live)
            self._meter.left(live)
            self._attaching.pop(live.id, None)
            if (turn := self._asking.pop(live.id, None)) is not None:
                turn.leave()

    async def _respond(self, live: LiveRun, answers: Sequence[Answer], stored: asyncio.Future[None]) -> None:
        try:
            async with live.lock:
                if live.lost is not None:
                    raise live.lost

                check_answers(live.record, answers)
                live.record.renewed_at = self.clock.wall()
                await self._do(live, self._feed(live, Answered(answers)))
        except UsageError as error:
            resolve(stored, error)
        except AgentBGError as error:
            resolve(stored, error)
            raise
        else:
            resolve(stored)

    def _ask(self, live: LiveRun, calls: Calls, ref: RunRef) -> None:
        """Poll, when its turn comes: until then it costs no task. A deadline does not wait for that."""

        def go(turn: Passage) -> None:
            self._asking.pop(live.id, None)
            if self._host.is_open:
                self._spawn(live, self._deeds.poll(live, calls, ref, turn))
            else:
                self._stop_asking()
                turn.leave()

        assert calls.gate is not None, "a runtime's calls have a gate"
        turn = calls.gate.ask(ref.id, max(live.interval, SHORTEST), go)
        if turn is not None:
            self._asking[live.id] = turn
            if live.run.deadline < inf:
                self._alarm.set(live.id, live.run.deadline)

    def _stop_asking(self) -> None:
        """No poll waits for its turn any more: else each would hand it on to the next, thousands deep."""
        asking, self._asking = self._asking, {}
        for turn in asking.values():
            turn.leave()

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
            self._spawn(live, self.tell(live, Due(queued=self._queues(run_id))))

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

    def _spawn(self, live: LiveRun, work: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        try:
            task = self._host.spawn(self._guard(live, work), f"agentbg {live.id}")
        except RuntimeClosed:
            work.close()
            raise

        task.add_done_callback(lambda _: work.close())  # a task that is cancelled before it begins awaits nothing
        return task

    async def _guard(self, live: LiveRun, work: Coroutine[Any, Any, object]) -> None:
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
        self._stop_asking()
        self._alarm.stop()
        for live in list(self.runs.values()):
            live.abandon(RuntimeClosed("The runtime was closed. The run goes on at the service, and in the store."))

    def _let_go(self, live: LiveRun, error: AgentBGError) -> None:
        self._meter.lost += self.runs.get(live.id) is live
        self._detach(live)
        self._drop(live)
        live.hang_up()
        live.abandon(error)


def _answered(record: RunRecord) -> bool:
    """True for a run that the service answered at once, without giving it a name."""
    return not record.status.live and record.status is not RunStatus.FAILED
