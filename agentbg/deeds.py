"""What is under way for runs: calls to their services and tools. What comes of each is told to the run's machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from .calls import Calls, raise_if_not_started
from .clock import Clock
from .core.messages import CancelAnswered, CancelFailed, Observation, PollFailed, Send, StreamEnded
from .core.model import RunRef, StartRequest
from .core.requests import InputRequest
from .errors import AgentBGError, ProviderError
from .gate import Passage
from .hooks import Hooks
from .invoking import invoke
from .live import LiveRun, resolve
from .stats import Meter
from .stores.base import Store

logger = logging.getLogger("agentbg")
Tell = Callable[[LiveRun, Observation], Awaitable[bool]]
"""Tells a run's machine what happened, and has done what it says; False when it was no news."""


class Deeds:
    """Each method is a task of one run."""

    def __init__(self, tell: Tell, store: Store, clock: Clock, hooks: Hooks, meter: Meter) -> None:
        self._tell, self._store, self._clock, self._hooks, self._meter = tell, store, clock, hooks, meter

    async def start(self, live: LiveRun, request: StartRequest) -> None:
        """Store the intent; then start the run."""
        await self._store.create(live.record)
        await self.send_start(live, request)

    async def send_start(self, live: LiveRun, request: StartRequest) -> None:
        """Start a run whose intent is stored."""
        await self._begin(live, live.driven_by.calls, request, live.id)

    async def _begin(self, live: LiveRun, calls: Calls, request: StartRequest, key: str) -> None:
        if calls.opens(live.record):
            live.stream = asyncio.current_task()
            await self.pump(live, calls.open(request, key))
            return

        seen = await calls.start(request, key)
        await self._tell(live, seen)
        self._report_start(live, seen)

    async def send_answers(self, live: LiveRun, send: Send) -> None:
        """Start the next round; or tell the run that waits, where the service has such runs."""
        once = live.driven_by.calls.once
        if send.waiting is None:
            await self._begin(live, once, send.request, send.key)
            return

        await self._tell(live, await once.respond(send.waiting, send.request))

    async def invoke(self, live: LiveRun, request: InputRequest) -> None:
        """Make a call of a tool."""
        since = self._clock.now()
        seen = await invoke(live.driven_by.tools, live.record, request)
        self._hooks.called(live, request, getattr(seen, "output", None), self._clock.now() - since)
        await self._tell(live, seen)

    def again(self, live: LiveRun) -> StartRequest | None:
        """What to start the run by, should its service have lost it; None where that is not to be."""
        record = live.record
        wanted = not record.cancel_requested and not record.rounds and self._clock.wall() < live.restarts_until
        return record.request if wanted else None

    async def poll(self, live: LiveRun, calls: Calls, ref: RunRef, turn: Passage) -> None:
        """Ask the service how the run stands: its turn has come."""
        live.record.polls += 1
        since = self._clock.now()
        seen = await calls.poll(ref, self.again(live), live.id, turn)
        error = seen.error if isinstance(seen, PollFailed) else None
        if error is not None:
            logger.info("run %s: %s", live.id, error)

        self._meter.polled(failed=error is not None, news=await self._tell(live, seen))
        self._hooks.polled(live, error, self._clock.now() - since)

    async def pump(self, live: LiveRun, observations: AsyncGenerator[Any, None]) -> None:
        """Carry a connection's observations to the machine, until it ends or the machine lets go of it."""
        task = asyncio.current_task()
        async with aclosing(observations):
            with self._meter.stream():
                async for seen in observations:
                    if isinstance(seen, StreamEnded) and seen.error is not None:
                        logger.info("run %s: %s", live.id, seen.error)

                    await self._tell(live, seen)
                    self._report_start(live, seen)
                    if live.stream is not task:
                        return

    async def cancel(self, live: LiveRun, calls: Calls, ref: RunRef) -> None:
        """Ask the service to cancel the run, and tell whoever waits for its answer."""
        seen: CancelAnswered | CancelFailed
        failure: ProviderError | None = None
        try:
            seen = await calls.cancel(ref)
        except ProviderError as error:
            seen, failure = CancelFailed(), error

        await self._tell(live, seen)
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
