"""A run as the server keeps it: a log of events over time, and a state that follows from the clock alone."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .play import Entry, final_body, obfuscate, play, renamed, timed
from .reply import Pause, Step
from .script import Script
from .wire import JSON, TERMINAL, Event, encode, input_items, new_id, response_body

FINEST = 1e-6
"""Seconds that a wait takes at least. A shorter one may be lost in the sum with the time, and virtual time, which moves
only by such sums, would then stand still."""


@dataclass(slots=True)
class Stop:
    """An end that came from outside, such as a cancellation: for as long as it holds, this log stands for the run's."""

    status: str
    error: JSON | None
    log: list[Entry]
    until: float = math.inf
    """When the run comes back to life, in seconds after its creation."""


class Run:
    """One run. No task is behind it: what it shows follows from its age, so thousands of them are cheap.

    Its log is made when it is first looked at, whole, with the events that are still to come.
    """

    def __init__(
        self,
        index: int,
        id: str,
        request: JSON,
        script: Script,
        clock: Callable[[], float],
        created_at: int,
        earlier: Sequence[Event] = (),
    ) -> None:
        self.index = index
        """Its place among all runs of the server, from 0."""
        self.id = id
        self.request = request
        """The JSON body that created it."""
        self.earlier = earlier
        """The items that the service kept from before it: inputs and outputs, oldest first."""
        self.script = script
        self.created_at = created_at
        """Seconds since 1970."""
        self.born = clock()
        """When it was created, by the loop's clock."""
        self.changed = asyncio.Event()
        """Set for a moment when the log, or the clock, has changed otherwise than by waiting."""
        self._clock = clock
        self._stop: Stop | None = None
        self._bodies: dict[str, bytes] = {}

    @property
    def background(self) -> bool:
        """Whether it was created with `background`."""
        return bool(self.request.get("background"))

    @property
    def streamed(self) -> bool:
        """Whether it was created with `stream`."""
        return bool(self.request.get("stream"))

    @property
    def stored(self) -> bool:
        """Whether it is kept after its end."""
        return self.request.get("store") is not False

    @property
    def age(self) -> float:
        """Seconds since it was created."""
        return self._clock() - self.born

    @cached_property
    def input_items(self) -> list[Event]:
        """Its own input, oldest first."""
        return input_items(self.request)

    @property
    def context(self) -> list[Event]:
        """All that its model sees: what the service kept from before, and its own input, oldest first."""
        return [*self.earlier, *self.input_items]

    @property
    def output(self) -> list[Event]:
        """Its output items, as a poll shows them now."""
        return list(self._body(self.status)["output"])

    @property
    def duration(self) -> float:
        """Seconds from its creation to its end; `math.inf` if none is in sight."""
        if self.script.delay or self.script.recorded or "_log" in self.__dict__:
            last = self.log[-1]
            return last.at if _status(last.event) in TERMINAL else math.inf

        return self.script.queued + self.script.running

    @property
    def ends_at(self) -> float:
        """When it ends, by the loop's clock, if nothing stops it."""
        return self.born + self.duration

    @property
    def finished(self) -> bool:
        """Whether it has come to its end."""
        return self._stopped is not None or self.age >= self.duration

    @property
    def status(self) -> str:
        """queued, in_progress, completed, failed, incomplete or cancelled."""
        if (stop := self._stopped) is not None:
            return stop.status

        if self.script.recorded:
            return str(self._shown()["status"])

        if self.finished:
            return self.script.status

        return "queued" if self.background and self.age < self.script.queued else "in_progress"

    @property
    def text(self) -> str:
        """The whole text that the run has answered when it is completed."""
        output = self.final["output"]
        parts = (part for item in output for part in item.get("content") or ())
        return "".join(part.get("text", "") for part in parts)

    @property
    def events(self) -> list[Event]:
        """All its events, those that are still to come included."""
        return [entry.event for entry in self.log]

    @property
    def log(self) -> list[Entry]:
        """Its events with their times. Faults change this list in place."""
        stop = self._stopped
        return self._log if stop is None else stop.log

    @cached_property
    def _log(self) -> list[Entry]:
        if self.script.recorded:
            return timed(self.script, renamed(self.script, self.id))

        events = play(self.script, self._queued, self.final, self._item_ids)
        options: JSON = self.request.get("stream_options") or {}
        padded = not self.background and options.get("include_obfuscation", True)
        return timed(self.script, obfuscate(events) if padded else events)

    @cached_property
    def _queued(self) -> Event:
        return response_body(self.id, self.created_at, self.request)

    @cached_property
    def _item_ids(self) -> list[str]:
        return [new_id(item.prefix) for item in self.script.items]

    @cached_property
    def final(self) -> Event:
        """Its response as it is in the end, if nothing stops it."""
        if self.script.recorded:
            return next((e.event["response"] for e in reversed(self._log) if "response" in e.event), self._queued)

        length = self.script.queued + self.script.running
        completed_at = self.created_at + (round(length) if math.isfinite(length) else 0)
        return final_body(self.script, self._queued, self._item_ids, self.request, completed_at)

    @property
    def _stopped(self) -> Stop | None:
        return self._stop if self._stop is not None and self.age < self._stop.until else None

    def receipt(self) -> bytes:
        """What a create in the background answers: the response as it was queued, whatever has happened since."""
        recorded = self.events if self.script.recorded else []
        return encode(next((event["response"] for event in recorded if "response" in event), self._queued))

    def snapshot(self) -> bytes:
        """Its response as a poll shows it now: JSON. Output comes only when it is done."""
        status = self.status
        body = self._bodies.get(status)
        if body is None or (self.script.recorded and status not in TERMINAL):
            body = self._bodies[status] = encode(self._body(status))

        return body

    def _body(self, status: str) -> Event:
        stop = self._stopped
        if stop is not None:
            return self._stopped_body(stop.status, stop.error)

        if self.script.recorded:
            body = self._shown()
        else:
            body = self.final if self.finished else {**self._queued, "status": status}

        return {**body, "billing": {"payer": "developer"}} if status == "completed" else body

    def _stopped_body(self, status: str, error: JSON | None) -> Event:
        return {**self._queued, "status": status, "error": error}

    def _shown(self) -> Event:
        """The newest response in a recording's events."""
        past = self.log[: self.seen()]
        return next((entry.event["response"] for entry in reversed(past) if "response" in entry.event), self._queued)

    def seen(self) -> int:
        """How many events of the log have happened."""
        return bisect_right(self.log, self.age, key=lambda entry: entry.at)

    def position_after(self, number: int) -> int:
        """The place in the log of the first event with a greater number."""
        return next(
            (i for i, entry in enumerate(self.log) if entry.event.get("sequence_number", -1) > number), len(self.log)
        )

    def tail(self, position: int = 0) -> Iterator[Step]:
        """The log from `position` on, to its end, with pauses for what has not happened yet."""
        while True:
            log = self.log
            if position < len(log):
                wait = log[position].at - self.age
            elif self.finished:
                return
            else:
                wait = self.duration - self.age

            if wait > 0 or position >= len(log):
                yield self._pause(wait)
            else:
                yield log[position].event
                position += 1

    def body_when_done(self) -> Iterator[Step]:
        """The final JSON body, once the run is finished."""
        while not self.finished:
            yield self._pause(self.duration - self.age)

        yield self.snapshot()

    def _pause(self, seconds: float) -> Pause:
        return Pause(max(seconds, FINEST), self.changed)

    def stop(self, status: str, error: JSON | None = None, *events: Event, position: int | None = None) -> None:
        """End the run: `events`, and then a `response.failed` that shows `status`, replace its log from `position` on.

        `position` is by default where the run stands now.
        """
        past = self.log[: self.seen() if position is None else position]
        number = past[-1].event.get("sequence_number", len(past) - 1) if past else -1
        last: Event = {"type": "response.failed", "response": self._stopped_body(status, error)}
        ending = [
            Entry(self.age, {**event, "sequence_number": number + i}) for i, event in enumerate((*events, last), 1)
        ]
        self._stop = Stop(status, error, past + ending)
        self._bodies.pop(status, None)
        self.wake()

    def revive(self, seconds: float) -> None:
        """Let a stop hold for only so many seconds more; then all is as if there had been none."""
        if self._stop is not None:
            self._stop.until = self.age + seconds

    def finish(self) -> None:
        """Let all that is still to come happen now."""
        now = self.age
        for entry in self.log:
            entry.at = min(entry.at, now)

        self.wake()

    def insert(self, position: int, event: Event) -> None:
        """Put an event into the log, with the number of the one that it comes before; later numbers move up by one."""
        log = self.log
        earliest = log[position - 1].at if position else 0.0
        latest = log[position].at if position < len(log) else math.inf
        before = log[position - 1].event.get("sequence_number", position - 1) if position else -1
        self.shift(position, 1)
        log.insert(position, Entry(min(max(earliest, self.age), latest), {**event, "sequence_number": before + 1}))
        self.wake()

    def shift(self, position: int, by: int) -> None:
        """Raise the numbers of all events from `position` on."""
        for entry in self.log[position:]:
            if "sequence_number" in entry.event:
                entry.event = {**entry.event, "sequence_number": entry.event["sequence_number"] + by}

    def wake(self) -> None:
        """Let the streams that wait for the log, or for the clock, look again."""
        self.changed.set()
        self.changed.clear()


def _status(event: Event) -> Any:
    response: JSON = event.get("response") or {}
    return response.get("status")
