"""A provider without a network: its runs do what a script says, and its calls go wrong as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from copy import copy
from typing import Any, Self

from ..core.model import JSON, Cursor, EventKind, RunRef, Snapshot, StartRequest, StreamEvent
from ..core.status import RunStatus
from ..errors import (
    PreviousRunNotFound,
    ProviderError,
    RequestRejected,
    RunNotFound,
    ServiceUnavailable,
    StreamRefused,
    Unsupported,
)
from ..providers.base import Cap, Resume
from .call import Call, Load
from .context import answers as given
from .context import complaint, since_model
from .faults import STREAM, Effect, Fault
from .script import RunScript
from .scripted_run import ScriptedRun, without_cursor

ALL_CAPS = Cap.STREAM_START | Cap.CANCEL | Cap.RESPOND | Cap.DELETE | Cap.PARTIAL_ON_POLL | Cap.PREVIOUS
DAY = 86_400.0


class ScriptedProvider:
    """A service for tests, in this process: deterministic, with no network, at home in real and in virtual time.

        provider = ScriptedProvider.text("Hello, world", seconds=10, deltas=20)
        provider.fail("poll", times=3).cut(after=5)
        ...
        assert provider.count("start") == 1

    Each started run follows the next of `scripts`; the last one repeats. A list among them is for one run and those
    that answer it: a start that brings outputs of the run's calls, or approvals, gets the next of the list. `fail`,
    `lose`, `delay`, `cut`, `stall`, `repeat`, `double` and `renumber` say what goes wrong; each counts the calls from
    the moment it is said, and returns the provider. `calls` is what came in.

    Args:
        scripts: What the runs do, in the order of their starts: a script, or a list of them for a run and its answers.
        caps: The operations that the service has; the others raise `Unsupported`.
        resume: What an `attach` gives. CURSOR: exactly what follows the cursor. LOG: all events again. SNAPSHOT: the
            run as it is, then what follows, without numbers. NONE: `Unsupported`.
        latency: Seconds that each answer takes.
        cancel_delay: Seconds from a cancel to the run's end; None for a service that says yes and goes on.
        stream_window: For how many seconds after its start a run can be attached to; then `StreamRefused`.
        retention: For how many seconds after its start a run is kept; then `RunNotFound`.
        endpoint: The fingerprint in refs and tokens.
    """

    name = "scripted"

    def __init__(
        self,
        *scripts: RunScript | Sequence[RunScript],
        caps: Cap = ALL_CAPS,
        resume: Resume = Resume.CURSOR,
        latency: float = 0.0,
        cancel_delay: float | None = 0.0,
        stream_window: float = float("inf"),
        retention: float = 30 * DAY,
        endpoint: str = "scripted",
    ) -> None:
        if not all(scripts):
            raise ValueError("A list among the scripts is empty; give it the script of its first run.")

        self.scripts = scripts or (RunScript.text("Hello, world"),)
        self.caps = caps
        self.resume = resume
        self.latency = latency
        self.cancel_delay = cancel_delay
        self.stream_window = stream_window
        self.retention = retention
        self.endpoint = endpoint
        self.calls: list[Call] = []
        """All calls so far, in order."""
        self.faults: list[Fault] = []
        """What goes wrong."""
        self.runs: dict[str, ScriptedRun] = {}
        """The runs by their ids, in the order of their starts."""
        self.closed = 0
        """How often `aclose` was called."""
        self._load = Load()
        self._begun: dict[str | None, ScriptedRun] = {}  # by the keys of their starts
        self._started = 0
        self._taken = 0

    @classmethod
    def text(cls, text: str, *, seconds: float = 10.0, deltas: int = 10, **settings: Any) -> Self:
        """A service whose runs answer `text` within `seconds`, in `deltas` pieces."""
        return cls(RunScript.text(text, seconds=seconds, deltas=deltas), **settings)

    # --- what goes wrong ---

    def fail(
        self,
        method: str,
        error: ProviderError | None = None,
        *,
        call: int = 1,
        times: int | None = 1,
        run: int | None = None,
    ) -> Self:
        """Let calls raise `error` (default: a 503), and do nothing. `times=None`: from `call` on, always."""
        error = error or ServiceUnavailable("The scripted service is unavailable.", status_code=503)
        return self._add(Fault(method=method, call=call, times=times, run=run, error=error))

    def lose(self, method: str = "start", error: ProviderError | None = None, *, call: int = 1) -> Self:
        """Let the service do what it is asked, and lose the answer on its way."""
        error = error or ServiceUnavailable("The connection broke before the answer came.")
        return self._add(Fault(method=method, call=call, error=error, lost=True))

    def delay(self, method: str, seconds: float, *, call: int = 1, times: int | None = 1) -> Self:
        """Let answers take longer; `math.inf` for one that never comes."""
        return self._add(Fault(method=method, call=call, times=times, delay=seconds))

    def cut(self, after: int, error: ProviderError | None = None, *, call: int = 1, times: int | None = 1) -> Self:
        """End a stream after so many events: in silence, as if it were over, or with `error`."""
        return self._add(Fault(method=STREAM, call=call, times=times, after=after, error=error))

    def stall(self, after: int, *, call: int = 1, times: int | None = 1) -> Self:
        """Leave a stream open after so many events, and send nothing more."""
        return self._add(Fault(method=STREAM, call=call, times=times, after=after, silent=True))

    def repeat(self, events: int, *, call: int = 1, times: int | None = 1) -> Self:
        """Let an attach begin with so many events from before its cursor."""
        return self._add(Fault(method="attach", call=call, times=times, repeat=events))

    def double(self, *, call: int = 1, times: int | None = 1) -> Self:
        """Send each event of a stream twice."""
        return self._add(Fault(method=STREAM, call=call, times=times, twice=True))

    def renumber(self, by: int, *, call: int = 1, times: int | None = 1) -> Self:
        """Let an attach send other numbers for its events; the cursors that it takes stay the script's."""
        return self._add(Fault(method="attach", call=call, times=times, shift=by))

    def _add(self, fault: Fault) -> Self:
        self.faults.append(fault)
        return self

    # --- what happened ---

    def run(self, number: int = 1) -> ScriptedRun:
        """The run that was started as the `number`-th."""
        return next(run for run in self.runs.values() if run.number == number)

    @property
    def requests(self) -> list[StartRequest]:
        """What the starts asked for, in order, those that failed included."""
        return [call.request for call in self.calls if call.request is not None]

    def count(self, method: str, run: int | None = None) -> int:
        """How many calls of `method`, or of "stream" or "answer", there were: all, or those about one run's number."""
        run_id = self.run(run).id if run is not None else None
        return sum(method in call.names and run_id in (None, call.run) for call in self.calls)

    def times(self, method: str) -> list[float]:
        """When the calls of `method` came in."""
        return [call.at for call in self.calls if method in call.names]

    @property
    def max_in_flight(self) -> int:
        """The most calls that were under way at once, open streams not counted."""
        return self._load.most["call"]

    @property
    def max_streams(self) -> int:
        """The most streams that were open at once."""
        return self._load.most["stream"]

    @property
    def open_streams(self) -> int:
        """The streams that are open now."""
        return self._load.now["stream"]

    @property
    def pollers(self) -> Mapping[str, int]:
        """The most polls that were under way at once, by the run's id. One is right."""
        return {run_id: self._load.most[f"poll {run_id}"] for run_id in self.runs}

    # --- the contract of a provider ---

    async def start(self, request: StartRequest, *, key: str | None = None) -> Snapshot:
        """Start a run by the next script."""
        call = self._asked("start", request, key)
        async with self._request(call) as effect:
            run = self._begin(call, request)
            self._lose(effect)
            return self._show(run)

    async def open(
        self, request: StartRequest, *, key: str | None = None
    ) -> AsyncGenerator[Sequence[StreamEvent], None]:
        """Start a run by the next script, and stream it."""
        self._need(Cap.STREAM_START, "start a run with a stream")
        call = self._asked("open", request, key)
        async with self._request(call) as effect:
            run = self._begin(call, request)
            self._lose(effect)
            async with aclosing(self._stream(run, 0, effect)) as stream:
                async for events in stream:
                    yield events

    async def poll(self, ref: RunRef) -> Snapshot:
        """How the run stands by its script."""
        async with self._request(Call("poll", _now(), ref.id)) as effect:
            run = self._find(ref)
            self._lose(effect)
            return self._show(run)

    async def attach(self, ref: RunRef, *, after: Cursor | None = None) -> AsyncGenerator[Sequence[StreamEvent], None]:
        """The run's events after the cursor, as far as `resume` allows."""
        if self.resume is Resume.NONE:
            raise Unsupported("The scripted service cannot attach to a run: its resume is NONE.")

        async with self._request(Call("attach", _now(), ref.id, after=after)) as effect:
            run = self._find(ref)
            if _now() - run.started_at > self.stream_window:
                raise StreamRefused(f"Run {run.id} can no longer be streamed.", status_code=400)

            yield []
            place = run.place_after(after if isinstance(after, int) else None)
            if self.resume is Resume.SNAPSHOT:
                place = run.due(_now())
                yield [StreamEvent(EventKind.STATUS, {"type": "snapshot"}, snapshot=self._show(run))]

            if self.resume is Resume.LOG:
                place = 0

            async with aclosing(self._stream(run, max(0, place - effect.repeat), effect)) as stream:
                async for events in stream:
                    yield events

    async def cancel(self, ref: RunRef) -> Snapshot | None:
        """End the run after `cancel_delay`, unless it ends before."""
        self._need(Cap.CANCEL, "cancel a run")
        async with self._request(Call("cancel", _now(), ref.id)) as effect:
            run = self._find(ref)
            if self.cancel_delay is not None:
                run.end(RunStatus.CANCELLED, _now() + self.cancel_delay)

            self._lose(effect)
            return self._show(run) if run.ended(_now()) else None

    async def respond(self, ref: RunRef, answers: Sequence[JSON]) -> Snapshot:
        """Go on as a new run, by the next script: of the run's own list, if it has one."""
        self._need(Cap.RESPOND, "take an answer")
        call = Call("respond", _now(), ref.id, answers=given(answers), answered=ref.id)
        async with self._request(call) as effect:
            run = self._begin(call, self._find(ref).request)
            self._lose(effect)
            return self._show(run)

    async def delete(self, ref: RunRef) -> None:
        """Forget the run."""
        self._need(Cap.DELETE, "delete a run")
        async with self._request(Call("delete", _now(), ref.id)) as effect:
            self.runs.pop(ref.id, None)
            self._lose(effect)

    async def aclose(self) -> None:
        """Count it. The provider can still be used: it is the service, too, and that lives on."""
        self.closed += 1

    # --- inside ---

    @asynccontextmanager
    async def _request(self, call: Call) -> AsyncGenerator[Effect]:
        """A call: noted, counted, delayed, and refused if a fault says so."""
        self.calls.append(call)
        run = self.runs.get(call.run or call.answered)
        effect = Effect.of(self.faults, call.names, run.number if run else None)
        loads = _loads(call)
        self._load.enter(*loads)
        try:
            await _sleep(self.latency + effect.delay)
            if effect.refusal is not None:
                raise effect.refusal

            yield effect
        except Exception as error:
            call.error = error
            raise
        finally:
            self._load.leave(*loads)
            call.ended_at = _now()

    def _asked(self, method: str, request: StartRequest, key: str | None) -> Call:
        """A call that starts a run, and perhaps answers another: the one it continues, or the last that asked so."""
        call = Call(method, _now(), request=request, key=key)
        if said := given(since_model(request.input)):
            previous = self._previous(request)
            runs = reversed(self.runs.values()) if previous is None else (previous,)
            call.answers = said
            call.answered = next((run.id for run in runs if run.asks & said.keys()), "")

        return call

    def _previous(self, request: StartRequest) -> ScriptedRun | None:
        """The run that a request continues, where the service keeps conversations, and still has it."""
        if request.previous is None or Cap.PREVIOUS not in self.caps:
            return None

        run = self.runs.get(request.previous.id)
        return run if run is not None and self._keeps(run) else None

    def _begin(self, call: Call, request: StartRequest) -> ScriptedRun:
        earlier = self._earlier(request)
        if call.method != "respond" and (wrong := complaint([*earlier, *request.input])) is not None:
            raise RequestRejected(wrong, status_code=400)

        if Cap.IDEMPOTENT_START in self.caps and (begun := self._begun.get(call.key)) is not None:
            call.run = begun.id
            return begun

        script, rest = self._cast(self.runs.get(call.answered))
        self._started += 1
        ref = RunRef(self.name, self.endpoint, {"response": f"resp_{self._started}"})
        run = self.runs[ref.id] = ScriptedRun(self._started, ref, request, script, _now())
        run.earlier, run.rest, call.run = earlier, rest, run.id
        if call.key is not None:
            self._begun[call.key] = run

        return run

    def _earlier(self, request: StartRequest) -> Sequence[JSON]:
        """What the service keeps from before a request."""
        if request.previous is None or Cap.PREVIOUS not in self.caps:
            return ()

        previous = self._previous(request)
        if previous is None or not previous.ended(_now()):
            message = f"Previous response with id {request.previous.id!r} not found."
            raise PreviousRunNotFound(message, status_code=400, code="previous_response_not_found")

        return [*previous.context, *self._show(previous).items]

    def _cast(self, answered: ScriptedRun | None) -> tuple[RunScript, Sequence[RunScript]]:
        """The script of a new run, and those of the runs that will answer it."""
        scripts: RunScript | Sequence[RunScript] = answered.rest if answered is not None else ()
        if not scripts:
            self._taken += 1
            scripts = self.scripts[min(self._taken, len(self.scripts)) - 1]

        return (scripts, ()) if isinstance(scripts, RunScript) else (scripts[0], scripts[1:] or scripts)

    def _find(self, ref: RunRef) -> ScriptedRun:
        run = self.runs.get(ref.id)
        if run is None or not self._keeps(run):
            raise RunNotFound(f"The scripted service has no run {ref.id!r}.", status_code=404)

        return run

    def _keeps(self, run: ScriptedRun) -> bool:
        return _now() - run.started_at <= self.retention

    def _show(self, run: ScriptedRun) -> Snapshot:
        return run.snapshot(run.due(_now()), partial=Cap.PARTIAL_ON_POLL in self.caps)

    def _need(self, cap: Cap, what: str) -> None:
        if cap not in self.caps:
            raise Unsupported(f"The scripted service cannot {what}: its caps are {self.caps}.")

    @staticmethod
    def _lose(effect: Effect) -> None:
        if effect.loss is not None:
            raise effect.loss

    async def _stream(
        self, run: ScriptedRun, place: int, effect: Effect
    ) -> AsyncGenerator[Sequence[StreamEvent], None]:
        """Events from this place on, those of one moment together, until the run or a fault ends the stream."""
        left = effect.cut.after if effect.cut else None
        while left != 0:
            due = run.due(_now())
            ended = run.ended(_now())
            batch = self._events(run, place, due, effect)[:left]
            place = max(place, due)
            left = None if left is None else left - len(batch)
            if batch:
                yield batch

            if left == 0:
                break

            if ended:
                return

            await self._next(run, place)

        await _break(effect.cut)

    def _events(self, run: ScriptedRun, place: int, due: int, effect: Effect) -> list[StreamEvent]:
        events = [run.event(i, effect.shift) for i in range(place, due) for _ in range(effect.copies)]
        return [without_cursor(event) for event in events] if self.resume is Resume.SNAPSHOT else events

    @staticmethod
    async def _next(run: ScriptedRun, place: int) -> None:
        """Wait for the run's next step, or until its script is changed."""
        try:
            async with asyncio.timeout(run.wait_for(place, _now())):
                await run.changed.wait()
        except TimeoutError:
            return


def _now() -> float:
    return asyncio.get_running_loop().time()


def _loads(call: Call) -> tuple[str, ...]:
    if call.method in ("open", "attach"):
        return ("stream",)

    return ("call", f"poll {call.run}") if call.method == "poll" else ("call",)


async def _sleep(seconds: float) -> None:
    """Give way at least once, as real requests do; for ever when `seconds` is infinite."""
    if seconds == float("inf"):
        await asyncio.get_running_loop().create_future()

    await asyncio.sleep(seconds)


async def _break(cut: Fault | None) -> None:
    """What a stream comes to where a fault ends it."""
    if cut is not None and cut.silent:
        await _sleep(float("inf"))

    if cut is not None and cut.error is not None:
        raise copy(cut.error)
