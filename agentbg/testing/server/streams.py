"""Faults in a stream: what is sent of it, and how it ends. `n` is always how many events are sent before the fault."""
# ruff: noqa: ARG002 (a hook is given more than most faults look at)

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from .exchange import Exchange
from .fault import Fault, Serve
from .play import error_event
from .reply import Cut, How, Pause, Reply, Step
from .run import Run
from .wire import TERMINAL_EVENTS, Event, frame


@dataclass(frozen=True)
class StreamFault(Fault):
    """Base of the faults that change a stream's steps. Other answers pass unchanged."""

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """The stream, rewritten."""
        reply = serve()
        if exchange.run is None or not reply.streams or isinstance(reply.body, bytes):
            return reply

        return reply.with_body(self.rewrite(exchange, exchange.run, reply.body))

    def rewrite(self, exchange: Exchange, run: Run, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps, with the fault in them. They are taken one by one, as they are sent."""
        raise NotImplementedError


def first(steps: Iterator[Step], n: int) -> Generator[Step, None, bool]:
    """The steps up to the n-th event. Returns whether there were so many."""
    if n <= 0:
        return True

    for step in steps:
        yield step
        n -= isinstance(step, dict)
        if n == 0:
            return True

    return False


@dataclass(frozen=True)
class CutAfterEvent(StreamFault):
    """The stream ends after `n` events of this connection: by a clean end, a FIN without the last chunk, or a reset."""

    n: int = 0
    how: How = "fin"

    def rewrite(self, exchange: Exchange, run: Run, steps: Iterator[Step]) -> Iterator[Step]:
        """The first `n` events; a shorter stream is left alone."""
        if (yield from first(steps, self.n)):
            yield Cut(self.how)


@dataclass(frozen=True)
class CutAfterByte(Fault):
    """A body, of a stream or of any other answer, ends after `n` bytes, without regard to what they mean."""

    n: int = 0
    how: How = "fin"

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """The first `n` bytes; a shorter body is left alone. A `fin` leaves a body shorter than its stated length."""
        reply = serve()
        if not isinstance(reply.body, bytes):
            return reply.with_body(self._cut(reply.body))

        if self.how == "clean" or self.n >= len(reply.body):
            return reply.with_body(reply.body[: self.n])

        return reply.with_body(iter((reply.body[: self.n], Cut(self.how))), content_length=str(len(reply.body)))

    def _cut(self, steps: Iterator[Step]) -> Iterator[Step]:
        left = self.n
        for step in steps:
            data = frame(step) if isinstance(step, dict) else step
            if not isinstance(data, bytes):
                yield data
            elif len(data) < left:
                yield data
                left -= len(data)
            else:
                yield data[:left]
                yield Cut(self.how)
                return


@dataclass(frozen=True)
class Stall(StreamFault):
    """The stream falls silent after `n` events, and stays open until the client closes it. None: after the last one."""

    n: int | None = 0

    def rewrite(self, exchange: Exchange, run: Run, steps: Iterator[Step]) -> Iterator[Step]:
        """The first `n` events, then silence."""
        if self.n is None:
            yield from steps
        else:
            yield from first(steps, self.n)

        yield Pause()


@dataclass(frozen=True)
class NoTerminalEvent(StreamFault):
    """The stream ends where its terminal event should come, or hangs there."""

    how: How | Literal["hang"] = "clean"

    def rewrite(self, exchange: Exchange, run: Run, steps: Iterator[Step]) -> Iterator[Step]:
        """All but the terminal event."""
        for step in steps:
            if isinstance(step, dict) and step["type"] in TERMINAL_EVENTS:
                yield Pause() if self.how == "hang" else Cut(self.how)
                return

            yield step


@dataclass(frozen=True)
class TerminalNamed(StreamFault):
    """The terminal event has another name than its status: vLLM ends an incomplete run with `response.completed`."""

    name: str = "response.completed"

    def rewrite(self, exchange: Exchange, run: Run, steps: Iterator[Step]) -> Iterator[Step]:
        """The terminal event under the other name."""
        for step in steps:
            yield {**step, "type": self.name} if isinstance(step, dict) and step["type"] in TERMINAL_EVENTS else step


@dataclass(frozen=True)
class CorruptEvent(StreamFault):
    """The event after the first `n` has invalid JSON in its data."""

    n: int = 0

    def rewrite(self, exchange: Exchange, run: Run, steps: Iterator[Step]) -> Iterator[Step]:
        """One event without its end; the stream goes on."""
        yield from first(steps, self.n)
        for step in steps:
            if isinstance(step, dict):
                yield frame(step)[:-12] + b"\n\n"
                break

            yield step

        yield from steps


@dataclass(frozen=True)
class Duplicate(StreamFault):
    """The n-th event is sent twice, under the same number."""

    n: int = 1

    def rewrite(self, exchange: Exchange, run: Run, steps: Iterator[Step]) -> Iterator[Step]:
        """The first `n` events, the last of them again, and the rest."""
        event: Event | None = None
        for step in first(steps, self.n):
            event = step if isinstance(step, dict) else event
            yield step

        if event is not None:
            yield event

        yield from steps


@dataclass(frozen=True)
class Comments(StreamFault):
    """A comment line, which readers must skip, before each event."""

    text: str = "ping"

    def rewrite(self, exchange: Exchange, run: Run, steps: Iterator[Step]) -> Iterator[Step]:
        """A comment, an event, and so on."""
        for step in steps:
            if isinstance(step, dict):
                yield f": {self.text}\n\n".encode()

            yield step


@dataclass(frozen=True)
class Fragment(StreamFault):
    """The stream comes in chunks of `size` bytes, which end in the middle of lines and of characters."""

    size: int = 7

    def rewrite(self, exchange: Exchange, run: Run, steps: Iterator[Step]) -> Iterator[Step]:
        """The same bytes."""
        for step in steps:
            data = frame(step) if isinstance(step, dict) else step
            if not isinstance(data, bytes):
                yield data
                continue

            for start in range(0, len(data), self.size):
                yield data[start : start + self.size]
                yield Pause(0)


@dataclass(frozen=True)
class Unsequenced(StreamFault):
    """Events come without a `sequence_number`, as from some gateways: all of them, or those of these types."""

    types: tuple[str, ...] = ()

    def rewrite(self, exchange: Exchange, run: Run, steps: Iterator[Step]) -> Iterator[Step]:
        """The same events, without their numbers."""
        for step in steps:
            if isinstance(step, dict) and (not self.types or step["type"] in self.types):
                yield {key: value for key, value in step.items() if key != "sequence_number"}
            else:
                yield step


@dataclass(frozen=True)
class ErrorEvent(StreamFault):
    """An `error` event after `n` events. The run fails with it, or only this stream ends, and the run goes on."""

    n: int = 0
    shape: Literal["nested", "flat"] = "nested"
    then_failed: bool = False
    """Whether a `response.failed` follows."""
    code: str = "server_error"
    message: str = "An error occurred while processing your request."

    def rewrite(self, exchange: Exchange, run: Run, steps: Iterator[Step]) -> Iterator[Step]:
        """The first `n` events, the error, and perhaps the failure."""
        number = -1 if exchange.cursor is None else exchange.cursor
        for step in first(steps, self.n):
            number = step.get("sequence_number", number) if isinstance(step, dict) else number
            yield step

        error = {"code": self.code, "message": self.message}
        event, position = error_event(error, nested=self.shape == "nested"), run.position_after(number)
        if self.then_failed:
            run.stop("failed", error, event, position=position)
            yield from steps
        else:
            run.insert(position, event)
            yield from first(steps, 1)


@dataclass(frozen=True)
class Keepalives(StreamFault):
    """`keepalive` events: `first` of them before all else, then one after each `every` seconds of silence."""

    every: float = math.inf
    first: int = 0
    numbered: bool = True
    """Whether they take numbers of the run's own count, and so stay in its log."""
    times: int | None = field(default=None, kw_only=True)

    def rewrite(self, exchange: Exchange, run: Run, steps: Iterator[Step]) -> Iterator[Step]:
        """The same events, and the keepalives."""
        if exchange.cursor is None:
            for _ in range(self.first):
                yield from self._keepalive(run, 0)

        for step in steps:
            if not isinstance(step, Pause) or step.seconds <= self.every:
                yield step
                continue

            yield replace(step, seconds=self.every)
            if not run.finished:
                yield from self._keepalive(run, run.seen())

    def _keepalive(self, run: Run, position: int) -> Iterator[Step]:
        event: Event = {"type": "keepalive"}
        if self.numbered:
            run.insert(position, event)
        else:
            yield event
