"""Drive one run for one consumer, at the consumer's pace: no runtime, no store, no task that outlives the consumer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from .calls import Calls, raise_if_not_started
from .clock import Clock
from .core.messages import (
    Attach,
    Command,
    Commit,
    Complain,
    Detach,
    Due,
    Observation,
    Poll,
    StreamEnded,
    WakeAt,
)
from .core.model import StartRequest
from .core.run import Run
from .core.states import Phase
from .core.update import AgentRunResponseUpdate

Observations = AsyncGenerator[Observation, None]


async def follow(
    run: Run, calls: Calls, clock: Clock, *, start: StartRequest | None = None
) -> AsyncGenerator[AgentRunResponseUpdate, None]:
    """Yield the run's updates up to its end, starting it first when `start` is given.

    Each update carries its own token, so what the consumer has not taken yet is not lost by leaving here. Raises
    ProviderError when the service refuses the start or to talk about the run, SubmitUnknown when the start's answer was
    lost. Closing or cancelling it closes the connection and leaves the run alive; so does an error.
    """
    pilot = _Pilot(run, calls, clock)
    try:
        commands = pilot.open(start) if start is not None else run.begin(clock.now())
        while True:
            for command in commands:
                if isinstance(command, Commit):
                    for update in command.updates:
                        yield update
                else:
                    await pilot.do(command)

            if run.phase in (Phase.DONE, Phase.WAITING):
                return

            seen = await pilot.observe()
            commands = run.feed(seen, clock.now())
            raise_if_not_started(seen, run_id=None)
    finally:
        await pilot.close()


class _Pilot:
    """Carries out one command at a time, and waits for what happens next."""

    def __init__(self, run: Run, calls: Calls, clock: Clock) -> None:
        self._run, self._calls, self._clock = run, calls, clock
        self._wake_at: float | None = None
        self._poll_now = False
        self._stream: Observations | None = None
        # The read under way. It outlives a wake-up: cancelling it would close the connection.
        self._reading: asyncio.Task[Observation] | None = None

    def open(self, request: StartRequest) -> Sequence[Command]:
        record = self._run.record
        self._stream = self._calls.open(request, record.id) if self._calls.opens(record) else self._start(request)
        return ()

    async def _start(self, request: StartRequest) -> Observations:
        yield await self._calls.start(request, self._run.record.id)

    async def do(self, command: Command) -> None:
        match command:
            case WakeAt(at):
                self._wake_at = at
            case Poll():
                self._poll_now = True
            case Attach(after):
                await self.close()
                assert self._run.record.ref is not None, "a run is attached to by its ref"
                self._stream = self._calls.attach(self._run.record.ref, after)
            case Detach():
                await self.close()
            case Complain(error):
                raise error
            case _:
                pass

    async def observe(self) -> Observation:
        """The next thing that happens."""
        if self._poll_now:
            self._poll_now = False
            assert self._run.record.ref is not None, "a run is polled by its ref"
            return await self._calls.poll(self._run.record.ref)

        if self._stream is None:
            await asyncio.sleep(max((self._wake_at or 0.0) - self._clock.now(), 0.0))
            return Due()

        return await self._read(self._stream)

    async def close(self) -> None:
        """Close the stream, if one is open, and the read under way."""
        reading, self._reading = self._reading, None
        stream, self._stream = self._stream, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait({reading})  # awaiting it would take our own cancellation for its

        if stream is not None:
            await stream.aclose()

    async def _read(self, stream: Observations) -> Observation:
        if self._reading is None:
            self._reading = asyncio.ensure_future(_next(stream))

        timeout = None if self._wake_at is None else max(self._wake_at - self._clock.now(), 0.0)
        await asyncio.wait({self._reading}, timeout=timeout)
        if not self._reading.done():
            self._wake_at = None
            return Due()

        reading, self._reading = self._reading, None
        seen = reading.result()
        if isinstance(seen, StreamEnded):
            await self.close()

        return seen


async def _next(stream: Observations) -> Observation:
    return await anext(stream, StreamEnded())
