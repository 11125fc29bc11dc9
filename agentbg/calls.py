"""One call to a provider, and what came of it as an observation. No decisions here, but for sending a start again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, aclosing, closing, nullcontext
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeVar

from .core.messages import (
    CancelAnswered,
    Observation,
    Polled,
    PollFailed,
    Started,
    StartFailed,
    StartLost,
    Streamed,
    StreamEnded,
)
from .core.model import Cursor, EventKind, RunRef, Snapshot, StartRequest, StreamEvent
from .core.record import RunRecord
from .core.schedule import Draw, RetryPolicy
from .core.status import RunStatus
from .core.turns import Kind
from .errors import (
    ConversationLocked,
    PreviousRunNotFound,
    ProviderError,
    RunNotFound,
    ServiceUnavailable,
    SubmitUnknown,
)
from .gate import Gate, Passage
from .patience import Patience, contained
from .providers.base import Cap, Provider

T = TypeVar("T")
Events = AsyncGenerator[Sequence[StreamEvent], None]
Turn = AbstractAsyncContextManager[object]
CANCELLED_INSIDE = "The provider's client cancelled the call."
_AT_ONCE: Turn = nullcontext()


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls to one provider, with what they need of the outside: a bound for silence, chance for backoff, and the
    gate where each attempt waits for its turn; none for calls without a runtime."""

    provider: Provider
    draw: Draw
    idle: float
    retry: RetryPolicy
    gate: Gate | None = None

    @property
    def once(self) -> Calls:
        """The same for the start of a later round, which is sent a single time: the machine itself sends it again, and
        stores first that it was not taken. Where a second start is harmless, it is left to the calls."""
        if Cap.IDEMPOTENT_START in self.provider.caps:
            return self

        return replace(self, retry=replace(self.retry, attempts=1, settling=0.0))

    def opens(self, record: RunRecord) -> bool:
        """True when a run is started and streamed in one request; otherwise it is started, then attached to."""
        return record.stream and not record.refused and Cap.STREAM_START in self.provider.caps

    async def start(self, request: StartRequest, key: str) -> Started | StartFailed | StartLost:
        """Start a run; send it again only where the first surely did no work at the service."""
        return await self._begin(Kind.START, key, lambda: self.provider.start(request, key=key))

    async def _begin(
        self, kind: Kind, run: str, call: Callable[[], Awaitable[Snapshot]]
    ) -> Started | StartFailed | StartLost:
        since, keyed = _now(), kind is Kind.START
        for attempt in count(1):
            try:
                async with self._turn(kind, run):
                    return _started(await contained(call(), ServiceUnavailable, CANCELLED_INSIDE))
            except ProviderError as error:
                if not await self._may_repeat(error, attempt, since, keyed=keyed):
                    return _failed_start(error)

        raise AssertionError("unreachable")

    async def poll(
        self, ref: RunRef, again: StartRequest | None = None, key: str = "", turn: Passage | None = None
    ) -> Polled | PollFailed:
        """Ask once, when its turn comes, or in one that has come. A run that its service has lost is started `again`,
        with the `key` of its first start."""
        try:
            async with turn or self._turn(Kind.POLL, ref.id):
                snapshot = await self._answer(self.provider.poll(ref))

            if again is not None and snapshot.lost:
                async with self._turn(Kind.START, key):
                    snapshot = await self._answer(self.provider.start(again, key=key))

            return Polled(snapshot)
        except ProviderError as error:
            return PollFailed(error)

    async def poll_patiently(self, ref: RunRef, *, young: bool) -> Snapshot:
        """Ask until there is an answer, for callers that hold no machine. Raises the last `ProviderError`.

        A `young` run that the service does not know yet is running: some services need up to 33 s to find a new one.
        """
        for attempt in count(1):
            try:
                async with self._turn(Kind.POLL, ref.id):
                    return await self._answer(self.provider.poll(ref))
            except RunNotFound:
                if not young:
                    raise

                return Snapshot(ref, RunStatus.RUNNING, raw_status="")
            except ServiceUnavailable as error:
                if not await self._pause(error, attempt):
                    raise

        raise AssertionError("unreachable")

    async def respond(self, ref: RunRef, request: StartRequest) -> Started | StartFailed | StartLost:
        """Tell a run that waits what it waits for. It has no key: it is sent again only where it surely did no work."""
        return await self._begin(Kind.RESPOND, ref.id, lambda: self.provider.respond(ref, request.input))

    async def cancel(self, ref: RunRef) -> CancelAnswered:
        """Ask the service to cancel, again while it cannot answer. Raises the last `ProviderError`."""
        for attempt in count(1):
            try:
                async with self._turn(Kind.CANCEL, ref.id):
                    return CancelAnswered(await self._answer(self.provider.cancel(ref)))
            except ServiceUnavailable as error:
                if not await self._pause(error, attempt):
                    raise

        raise AssertionError("unreachable")

    async def attach(
        self, ref: RunRef, after: Cursor | None, pause: float = 0.0, turn: Passage | None = None
    ) -> AsyncGenerator[Streamed | StreamEnded, None]:
        """Stream from just after a cursor, `pause` seconds from now, when its turn comes: this one, if it is given. The
        last observation is always that the connection ended, and how."""
        if pause:
            await asyncio.sleep(pause)

        events = self.provider.attach(ref, after=after)
        async with aclosing(self._observed(turn or self._turn(Kind.ATTACH, ref.id), events)) as observations:
            async for seen in observations:
                yield seen

    async def open(
        self, request: StartRequest, key: str
    ) -> AsyncGenerator[Streamed | StreamEnded | StartFailed | StartLost, None]:
        """Start and stream. Until the run shows itself it is a start, with a start's rules; from then on a stream.

        Until the stream is open, the answer may take as long as the client allows, as that to any start: a service
        that ignores `background`, or a proxy that buffers, answers late, and a start given up too soon is a run lost.
        """
        since = _now()
        for attempt in count(1):
            begun = False
            events, turn = self.provider.open(request, key=key), self._turn(Kind.START, key)
            async with aclosing(self._observed(turn, events, starts=True)) as observations:
                async for seen in observations:
                    if isinstance(seen, StreamEnded) and not begun:
                        break

                    begun = begun or (isinstance(seen, Streamed) and _shows_run(seen))
                    yield seen
                else:
                    return

            error = seen.error or ServiceUnavailable("The stream ended before it named the run.")
            if not await self._may_repeat(error, attempt, since, keyed=True):
                yield _failed_start(error)
                return

    async def _observed(
        self, turn: Turn, events: Events, *, starts: bool = False
    ) -> AsyncGenerator[Streamed | StreamEnded, None]:
        """A connection's observations. Silence is bounded; that before the answer to a start is not."""
        error: ProviderError | None = None
        async with aclosing(events):
            with closing(Patience(self.idle)) as patience:
                try:
                    async with turn:
                        batch = await self._next(events, nullcontext() if starts else patience)

                    if batch is not None and not (batch or starts):  # an attach that has begun is no news yet
                        batch = await self._next(events, patience)

                    while batch is not None:
                        yield Streamed(batch)
                        batch = await self._next(events, patience)
                except ProviderError as raised:
                    error = raised

        yield StreamEnded(error)

    async def _next(self, events: Events, bound: AbstractContextManager[None]) -> Sequence[StreamEvent] | None:
        """The next batch of a connection; None when it has ended."""
        try:
            with bound:
                return await contained(anext(events), ServiceUnavailable, CANCELLED_INSIDE)
        except StopAsyncIteration:
            return None
        except TimeoutError as error:
            raise ServiceUnavailable(f"The stream was silent for {self.idle:g} s.") from error

    def _turn(self, kind: Kind, run: str) -> Turn:
        """Around a single attempt. While it waits for its turn, it is not under way; nor while it waits to repeat."""
        return _AT_ONCE if self.gate is None else self.gate.turn(kind, run, self.retry.patience)

    async def _answer(self, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self.retry.answer):
                return await contained(call, ServiceUnavailable, CANCELLED_INSIDE)
        except TimeoutError as error:
            raise ServiceUnavailable(f"The service did not answer within {self.retry.answer:g} s.") from error

    async def _may_repeat(self, error: ProviderError, attempt: int, since: float, *, keyed: bool) -> bool:
        if isinstance(error, PreviousRunNotFound | ConversationLocked):
            return await self._let_settle(error, attempt, since)

        if not isinstance(error, ServiceUnavailable):
            return False

        harmless = error.unsent or (keyed and Cap.IDEMPOTENT_START in self.provider.caps)
        return harmless and await self._pause(error, attempt)

    async def _let_settle(self, error: PreviousRunNotFound | ConversationLocked, attempt: int, since: float) -> bool:
        """Wait before the next attempt, the last of them `settling` seconds after the first; False after that."""
        left = since + self.retry.settling - _now()
        wish = error.retry_after if isinstance(error, ConversationLocked) else None
        if left <= 0 or (wish or 0.0) > left:
            return False

        await asyncio.sleep(min(self.retry.backoff.delay(attempt, self.draw, wish), left))
        return True

    async def _pause(self, error: ServiceUnavailable, attempt: int) -> bool:
        """Wait before the next attempt; False when there is to be none."""
        if attempt >= self.retry.attempts or (error.retry_after or 0.0) > self.retry.patience:
            return False

        await asyncio.sleep(self.retry.backoff.delay(attempt, self.draw, error.retry_after))
        return True


def _now() -> float:
    return asyncio.get_running_loop().time()


def raise_if_not_started(seen: Observation, run_id: str | None) -> None:
    """Raise what a failed start means to whoever asked for it: the service's refusal, or SubmitUnknown."""
    if isinstance(seen, StartFailed):
        raise seen.error

    if isinstance(seen, StartLost):
        raise SubmitUnknown(
            f"The start was sent and its answer was lost, so the run may exist and may cost money: "
            f"{seen.reason.rstrip('.')}. It is not sent again; look at the service's own list of runs before you do.",
            run_id=run_id,
            reason=seen.reason,
        )


def _shows_run(seen: Streamed) -> bool:
    """Keepalives may come before the run itself."""
    return any(event.kind is not EventKind.KEEPALIVE for event in seen.events)


def _started(snapshot: Snapshot) -> Started | StartLost:
    """A run that goes on without a name is one that nobody can ask about."""
    nameless = snapshot.status.live and snapshot.ref is None
    return StartLost("The service's answer does not name the run.") if nameless else Started(snapshot)


def _failed_start(error: ProviderError) -> StartFailed | StartLost:
    """A service that is unavailable may have taken the start all the same; any other answer is a no."""
    if isinstance(error, ServiceUnavailable) and not error.unsent:
        return StartLost(str(error))

    return StartFailed(error)
