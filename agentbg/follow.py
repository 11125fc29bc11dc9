"""Drive one run for one consumer, at the consumer's pace: no runtime, no store, no task that outlives the consumer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence

from .calls import Calls, raise_if_not_started
from .clock import Clock
from .core.messages import (
    Attach,
    Command,
    Commit,
    Complain,
    Detach,
    Due,
    Invoke,
    Observation,
    Poll,
    Polled,
    Send,
    Started,
    StreamEnded,
    WakeAt,
)
from .core.model import JSON, StartRequest
from .core.run import Run
from .core.states import Phase
from .core.update import AgentRunResponseUpdate
from .invoking import invoke
from .tools import Toolset

Observations = AsyncGenerator[Observation, None]


async def follow(pilot: Pilot, commands: Sequence[Command]) -> AsyncGenerator[Sequence[AgentRunResponseUpdate], None]:
    """Carry out these commands, then what follows; yield the updates, those that come together, together, until the run
    has ended or waits for its user.

    Each update carries its own token, so what the consumer has not taken yet is not lost by leaving here. Raises
    ProviderError when the service refuses the start or to talk about the run, SubmitUnknown when the start's answer was
    lost. Closing or cancelling it closes the connection, cancels calls under way, and leaves the run alive; so does an
    error.
    """
    pilot.undone.extend(commands)
    try:
        while True:
            while pilot.undone:
                command = pilot.undone.popleft()
                updates = command.updates if isinstance(command, Commit) else ()
                if early := updates[:-1]:
                    yield early

                await pilot.do(command)
                if last := updates[-1:]:  # whoever is given the last one has seen all
                    yield last

            if pilot.run.phase in (Phase.DONE, Phase.WAITING):
                return

            pilot.undone.extend(pilot.tell(await pilot.observe()))
    finally:
        await pilot.close()


async def work(pilot: Pilot, commands: Sequence[Command]) -> None:
    """Do what is ours to do, calls and their answers, until only time, the service or the user can bring the run on.

    Raises as `follow` does. Cancelling it cancels the calls under way.
    """
    pilot.undone.extend(commands)
    try:
        while True:
            while pilot.undone:
                await pilot.do(pilot.undone.popleft())

            if not pilot.works or pilot.run.phase is Phase.DONE:  # one call may end the run while others go on
                return

            pilot.undone.extend(pilot.tell(await pilot.observe()))
    finally:
        await pilot.close()


class Pilot:
    """Carries out one command at a time, and waits for what happens next. `note` is called when the run has changed:
    with False before the consumer has seen it, with True afterwards.
    """

    def __init__(self, run: Run, calls: Calls, tools: Toolset, clock: Clock, note: Callable[[bool], object]) -> None:
        self.run = run
        self.undone: deque[Command] = deque()
        """What the machine wants done, and takes for done."""
        self.raw: JSON = {}
        """The service's own object, as it last came."""
        self._calls, self._tools, self._clock, self._note = calls, tools, clock, note
        self._wake_at: float | None = None
        self._poll_now = False
        self._stream: Observations | None = None
        # The read under way. It outlives a wake-up: cancelling it would close the connection.
        self._reading: asyncio.Task[Observation] | None = None
        self._working: set[asyncio.Task[Observation]] = set()

    @property
    def works(self) -> bool:
        """True while calls are being made, or a round is being started."""
        return bool(self._working)

    def start(self, request: StartRequest, key: str) -> None:
        """Begin to start the run, or its next round."""
        if self._calls.opens(self.run.record):
            self._stream = self._calls.open(request, key)
        else:
            self._working.add(asyncio.ensure_future(self._calls.start(request, key)))

    def tell(self, seen: Observation) -> Sequence[Command]:
        """Tell the machine what happened; what it wants done. Raises what the failure of a run's first start means."""
        if isinstance(seen, Started | Polled):
            self.raw = seen.snapshot.raw

        commands = self.run.feed(seen, self._clock.now())
        self._note(False)
        if not self.run.record.rounds:
            raise_if_not_started(seen, run_id=None)

        return commands

    async def do(self, command: Command) -> None:
        """Carry out a command, or begin to: what comes of it, `observe` gives."""
        match command:
            case WakeAt(at):
                self._wake_at = at
            case Poll():
                self._poll_now = True
            case Attach(after, pause):
                await self._hang_up()
                assert self.run.record.ref is not None, "a run is attached to by its ref"
                self._stream = self._calls.attach(self.run.record.ref, after, pause)
            case Detach():
                await self._hang_up()
            case Invoke(request):
                self._working.add(asyncio.ensure_future(invoke(self._tools, self.run.record, request)))
            case Send(request, _, waiting) if waiting is not None:
                self._working.add(asyncio.ensure_future(self._calls.respond(waiting, request)))
            case Send(request, key):
                self.start(request, key)
            case Complain(error):
                raise error
            case Commit():
                self._note(True)
            case _:
                pass

    async def observe(self) -> Observation:
        """The next thing that happens."""
        if self._poll_now:
            self._poll_now = False
            assert self.run.record.ref is not None, "a run is polled by its ref"
            return await self._calls.poll(self.run.record.ref)

        if self._stream is not None and self._reading is None:
            self._reading = asyncio.ensure_future(_next(self._stream))

        under_way = {*self._working, *([self._reading] if self._reading else [])}
        timeout = None if self._wake_at is None else max(self._wake_at - self._clock.now(), 0.0)
        if under_way:
            done, _ = await asyncio.wait(under_way, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        else:
            done = await asyncio.sleep(timeout or 0.0, set[asyncio.Task[Observation]]())

        if not done:
            self._wake_at = None
            return Due()

        return await self._take(done.pop())

    async def close(self) -> None:
        """Close the stream, if one is open, and end what is under way. What has come of it by now counts."""
        working, self._working = self._working, set()
        for task in working:
            if task.done() and not task.cancelled() and task.exception() is None:
                self.undone.extend(self.run.feed(task.result(), self._clock.now()))
                self._note(False)

            task.cancel()

        self._forget()
        if working:
            await asyncio.wait(working)

        await self._hang_up()

    def _forget(self) -> None:
        """What was not begun never was."""
        for command in self.undone:
            if isinstance(command, Invoke):
                self.run.dialogue.uninvoke(command.request.id)
                self._note(False)
            elif isinstance(command, Send):
                self.run.dialogue.unsend()
                self._note(False)

    async def _take(self, task: asyncio.Task[Observation]) -> Observation:
        self._working.discard(task)
        if task is not self._reading:
            return task.result()

        self._reading = None
        seen = task.result()
        if isinstance(seen, StreamEnded):
            await self._hang_up()

        return seen

    async def _hang_up(self) -> None:
        reading, self._reading = self._reading, None
        stream, self._stream = self._stream, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait({reading})  # awaiting it would take our own cancellation for its

        if stream is not None:
            await stream.aclose()


async def _next(stream: Observations) -> Observation:
    return await anext(stream, StreamEnded())
