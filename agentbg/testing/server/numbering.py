"""Faults in a run's log and its numbers. They change the log itself: what is sent later agrees with what was sent."""
# ruff: noqa: ARG002 (a hook is given more than most faults look at)

from __future__ import annotations

from dataclasses import dataclass, field

from .exchange import Exchange
from .fault import Fault, Serve
from .play import Entry
from .reply import Pause, Reply
from .run import Run


@dataclass(frozen=True)
class Gap(Fault):
    """The run's numbers skip `size` after its first `n` events. Nothing is missing."""

    n: int = 0
    size: int = 1

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """The stream, with the gap."""
        reply = serve()
        if exchange.run is not None:
            exchange.run.shift(self.n, self.size)

        return reply


@dataclass(frozen=True)
class UnknownEvent(Fault):
    """An event of a type that no client knows comes after the run's first `n` events, with a number of its own."""

    n: int = 0
    type: str = "response.future.delta"

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """The stream, with the event."""
        reply = serve()
        if exchange.run is not None:
            exchange.run.insert(min(self.n, len(exchange.run.log)), {"type": self.type, "delta": "?"})

        return reply


@dataclass(frozen=True)
class AttachFault(Fault):
    """Base of the faults that strike when a client comes back to a run's stream with a cursor."""

    on: str = field(default="attach", kw_only=True)

    def matches(self, exchange: Exchange) -> bool:
        """Whether there is a run, and a cursor that is a number."""
        return super().matches(exchange) and exchange.run is not None and exchange.cursor is not None

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """The stream, after the fault has been at the run and at the cursor."""
        assert exchange.run is not None
        assert exchange.cursor is not None
        self.strike(exchange, exchange.run, exchange.cursor)
        return serve()

    def strike(self, exchange: Exchange, run: Run, cursor: int) -> None:
        """Change the run's log, or the cursor."""
        raise NotImplementedError


@dataclass(frozen=True)
class FullReplay(AttachFault):
    """The cursor is ignored: all events come again."""

    times: int | None = field(default=None, kw_only=True)

    def strike(self, exchange: Exchange, run: Run, cursor: int) -> None:
        """Forget the cursor."""
        exchange.starting_after = None


@dataclass(frozen=True)
class IgnoreCursorAhead(AttachFault):
    """A cursor ahead of the newest event is ignored: what comes next is sent, although it lies before the cursor."""

    times: int | None = field(default=None, kw_only=True)

    def strike(self, exchange: Exchange, run: Run, cursor: int) -> None:
        """Put the cursor at the newest event."""
        newest = run.log[run.seen() - 1].event.get("sequence_number", cursor)
        exchange.starting_after = str(min(cursor, newest))


@dataclass(frozen=True)
class ResetNumbering(AttachFault):
    """After a reconnect the numbers begin again at 0, with the event after the cursor; the rest is forgotten."""

    def strike(self, exchange: Exchange, run: Run, cursor: int) -> None:
        """Cut off the log's head, and count anew."""
        del run.log[: run.position_after(cursor)]
        for number, entry in enumerate(run.log):
            entry.event = {**entry.event, "sequence_number": number}

        exchange.starting_after = None


@dataclass(frozen=True)
class Renumber(AttachFault):
    """After a reconnect the unfinished output item is sent again from its beginning, under new numbers.

    So does a service that was killed in the middle and made the item anew: no number repeats, but the text does.
    """

    def strike(self, exchange: Exchange, run: Run, cursor: int) -> None:
        """Put the item and all that follows it behind what was sent, and skip one number."""
        log, position = run.log, run.position_after(cursor)
        begun = [i for i, entry in enumerate(log[:position]) if entry.event["type"] == "response.output_item.added"]
        if not begun:
            return

        again = [Entry(entry.at, dict(entry.event)) for entry in log[begun[-1] :]]
        for number, entry in enumerate(again, cursor + 2):
            entry.event["sequence_number"] = number

        log[position:] = again


@dataclass(frozen=True)
class DeadAtEnd(Fault):
    """To attach at or past the run's last event hangs for ever."""

    on: str = field(default="attach", kw_only=True)
    times: int | None = field(default=None, kw_only=True)

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """The stream; or one that stays silent."""
        reply, run, cursor = serve(), exchange.run, exchange.cursor
        if run is None or cursor is None or not reply.streams or run.position_after(cursor) < len(run.log):
            return reply

        return reply.with_body(iter((Pause(),)))
