"""What a user holds of a run."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from .core.model import SUBMIT_UNKNOWN
from .core.requests import Answer
from .core.response import AgentRunResponse
from .core.status import RunStatus
from .core.token import ContinuationToken
from .driver import Driver
from .errors import (
    AgentBGError,
    InputRequired,
    OutputInvalid,
    RunCancelled,
    RunError,
    RunExpired,
    RunFailed,
    RunIncomplete,
    RunTimeout,
    SubmitUnknown,
    UsageError,
)
from .live import LiveRun
from .partials import Partials
from .stream import ResumableStream

T = TypeVar("T")

_ERRORS: dict[RunStatus, tuple[type[RunError], str]] = {
    RunStatus.FAILED: (RunFailed, "The run failed"),
    RunStatus.INCOMPLETE: (RunIncomplete, "The run ended before its answer did"),
    RunStatus.CANCELLED: (RunCancelled, "The run was cancelled"),
    RunStatus.EXPIRED: (RunExpired, "The run expired"),
    RunStatus.INPUT_REQUIRED: (InputRequired, "The run waits for its user"),
}


class BackgroundHandle(Generic[T]):
    """A run in the background. As many handles and waiters as you like share one run, and one poller.

    Waiting and working are apart: a time-out, a cancelled waiter, a closed stream or a lost handle leaves the run
    alive. Only `cancel` cancels it.
    """

    __slots__ = ("__weakref__", "_driver", "_live")

    def __init__(self, driver: Driver, live: LiveRun) -> None:
        self._driver = driver
        self._live = live

    def __repr__(self) -> str:
        return f"<BackgroundHandle {self.id} {self.status} {self.elapsed:.1f} s>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BackgroundHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __await__(self) -> Generator[Any, None, AgentRunResponse[T]]:
        return self.result().__await__()

    # --- what it looks like: free, local, never stale by more than the last poll or event ---

    @property
    def id(self) -> str:
        """The run's id in the store. `runtime.get(id)` gives the handle again, in any process on the same store."""
        return self._live.id

    @property
    def status(self) -> RunStatus:
        """Where the run stands, as last seen."""
        return self._live.record.status

    @property
    def token(self) -> ContinuationToken | None:
        """What resumes the run elsewhere, from here; None when nothing is left to poll or resume."""
        return self._live.run.token

    @property
    def elapsed(self) -> float:
        """Seconds from the submit to the end, or to now."""
        record = self._live.record
        return max((record.finished_at or self._driver.clock.wall()) - record.created_at, 0.0)

    @property
    def response(self) -> AgentRunResponse[T]:
        """The response so far: of a live run, the text that has come."""
        return self._live.run.response

    @property
    def metadata(self) -> dict[str, Any]:
        """What was given to `submit`, JSON-safe, kept in the store."""
        return dict(self._live.record.metadata)

    @property
    def stalled(self) -> bool:
        """True when a live run has shown no change for longer than `PollPolicy.stall_after`. See `hooks.StallHook`."""
        return self._live.run.stalled(self._driver.clock.now())

    @property
    def polls(self) -> int:
        """Polls sent for this run so far."""
        return self._live.record.polls

    @property
    def reconnects(self) -> int:
        """Connections that this process made to take the run's stream up again."""
        return self._live.reconnects

    @property
    def dropped(self) -> int:
        """Events that this process received again, and dropped."""
        return self._live.run.assembly.dropped

    @property
    def deadline_at(self) -> float | None:
        """When the run expires if it has not ended, as Unix time; None without a deadline of its own."""
        return self._live.record.deadline_at

    def driven_by(self, driver: Driver) -> bool:
        """True for a handle of the runtime that this driver is of."""
        return self._driver is driver

    def done(self) -> bool:
        """True when there is nothing more to wait for: the run has ended, or waits for its user."""
        return self._live.settled

    def add_done_callback(self, callback: Callable[[BackgroundHandle[T]], object]) -> None:
        """Call back, in the event loop, once the run is done or this process stopped driving it; at once when it has.

        What a later call raises goes to the event loop's exception handler, as for an `asyncio.Task`.
        """
        self._require_agent()
        self._live.when_settled(lambda: callback(self))

    def add_stall_callback(self, callback: Callable[[BackgroundHandle[T]], object]) -> None:
        """Call back, in the event loop, each time that the run stands still, as `hooks.StallHook` says. What it raises
        goes to the event loop's exception handler."""
        self._require_agent()
        self._driver.hooks.on_stall(self._live, lambda _: callback(self))

    # --- waiting ---

    async def wait(self, timeout: float | None = None) -> RunStatus:
        """Wait until the run is done or `timeout` seconds have passed; the status then. A bad end raises nothing.

        Raises what stands between us and the run: ProviderError when the service refuses to talk about it,
        RuntimeClosed, StoreError. Cancelling the wait leaves the run alive.
        """
        self._require_agent()
        try:
            async with asyncio.timeout(timeout):
                await self._live.wait()
        except TimeoutError:
            pass

        return self.status

    async def result(self, timeout: float | None = None) -> AgentRunResponse[T]:
        """Wait for the run and return its response.

        With an output type, `response.value` is checked here: an answer that does not fit raises OutputInvalid.
        Raises RunFailed, RunIncomplete, RunCancelled, RunExpired or InputRequired by how the run stands, each with
        `.response`, `.handle` and `.token`; RunTimeout after `timeout` seconds, with the run alive; SubmitUnknown for
        a run of which nobody knows whether it was started; and what `wait` raises. Cancelling it leaves the run alive.
        """
        await self.wait(timeout)
        if not self.done():
            raise RunTimeout(
                f"Run {self.id} is {self.status} after {timeout:g} s of waiting. It goes on; take it up with "
                f"the handle, its token, or runtime.get({self.id!r}).",
                handle=self,
            )

        if self.status is not RunStatus.COMPLETED:
            raise self._error()

        self._check_value()
        return self.response

    def stream(self, *, after: int = 0, partial: bool = False) -> ResumableStream:
        """The run's updates with a `seq` above `after`: those that were, then those that come, up to the END.

        Any number of streams may be open, at any place, at any time, also after the end. A run that was submitted
        without `stream=True` is streamed from its polls.

        With `partial`, `update.partial` is what of the value has come so far. It is read from the run's journal, from
        its beginning, also after `after`; the journal of a run that was taken up by its token begins there, so that
        partials are None until a RESET, the next round of tools, or the END.

        Raises UsageError for a negative `after`, an unknown agent, or `partial` without an output type, and
        RuntimeClosed; `ResumableStream` says what iterating raises.
        """
        if after < 0:
            raise UsageError(f"stream(after=…) takes the seq of the last update you have, 0 for none; not {after}.")

        self._require_agent()
        if not partial:
            return ResumableStream(self._driver.read(self._live, after), lasting=True)

        ways, whole = self._live.ways, functools.partial(self._driver.read, self._live, 0)
        return ResumableStream(Partials(ways.read_partial if ways else None, whole, after), lasting=True)

    # --- working ---

    async def respond(self, *answers: Answer) -> RunStatus:
        """Answer what the run waits for, and let it go on. Returns the status once the answers are in the store.

        The methods of `response.requests` make the answers: `request.approve()`, `request.reject("too expensive")`,
        `request.answer("42")`. Some may be given now and the others later, in another process, too: the run goes on
        with the last. Where it is not known whether the answers have arrived (`result` raises SubmitUnknown), calling
        this without any sends them again. Raises UsageError for an answer that does not fit, and for a run that waits
        for none; then nothing has changed. Also RuntimeClosed, StoreError. Cancelling this does not take the answers
        back.
        """
        self._require_agent(waiting=True)
        await self._driver.respond(self._live, answers)
        return self.status

    async def cancel(self, reason: str | None = None) -> RunStatus:
        """Cancel the run at the service: the only thing that does. Returns the status after the service's answer.

        A run that has just ended keeps its end; `wait` for the truth where the answer leaves it open. `reason` is kept
        in the store. A run that waits for its user, or whose tools are at work, has nothing at the service and ends at
        once. Raises ProviderError when the service cannot take the cancel; the run then goes on. Cancelling this call
        does not take the cancel back.
        """
        self._require_agent(waiting=True)
        await self._driver.cancel(self._live, reason)
        return self.status

    def _require_agent(self, *, waiting: bool = False) -> None:
        over = self.status.terminal if waiting else self.done()
        if not over and self._live.ways is None:
            raise UsageError(
                f"Run {self.id} belongs to the agent {self._live.record.agent!r}, which this runtime does not know, or "
                f"knows at another service: pass it to AgentRuntime(agents=[…]) with the provider and URL that it had."
            )

    def _error(self) -> AgentBGError:
        response = self.response
        if response.error is not None and response.error.code == SUBMIT_UNKNOWN:
            advice = " To send its answers again, call `handle.respond()`." if not self.status.terminal else ""
            return SubmitUnknown(
                f"It is not known whether run {self.id} was started: {response.error.message.rstrip('.')}.{advice}",
                run_id=self.id,
                reason=response.error.message,
            )

        kind, what = _ERRORS[self.status]
        why = f": {response.error.code}: {response.error.message}" if response.error else "."
        return kind(f"{what} ({self.id}){why}", response=response, handle=self)

    def _check_value(self) -> None:
        try:
            _ = self.response.value
        except OutputInvalid as error:
            error.handle = self
            raise
