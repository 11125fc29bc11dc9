"""What a fault is: something that stands between a request and the service, for the requests that it matches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from .exchange import Exchange
from .reply import Reply

Serve = Callable[[], Reply]
"""Hands the exchange on, to the next fault or to the service, and gives the reply."""


@dataclass(frozen=True)
class Fault:
    """Base of all faults. A fault of your own is a subclass with an `answer`.

    A request meets the faults in the order of the list, and of those of one class only the first that is not used up:
    two `CutAfterEvent` are for two requests. Each sees what those after it have made of the answer; one that answers by
    itself leaves those after it untouched.
    """

    on: str = field(default="stream", kw_only=True)
    """Which requests: a method, or a role: create, poll, attach, stream, cancel and others; see `Request.kinds`."""
    run: int | str | None = field(default=None, kw_only=True)
    """Only this run: its id, or its place in the order of creation, from 0."""
    after: int = field(default=0, kw_only=True)
    """How many matching requests pass first."""
    times: int | None = field(default=1, kw_only=True)
    """How many requests it strikes; None for all."""

    def matches(self, exchange: Exchange) -> bool:
        """Whether the request is one for this fault, had it not been used up."""
        if self.on not in exchange.request.kinds:
            return False

        if isinstance(self.run, int):
            return exchange.index == self.run

        return self.run is None or (exchange.run is not None and exchange.run.id == self.run)

    def used_up(self, met: int) -> bool:
        """Whether the fault has struck as often as it may, once it has met so many matching requests."""
        return self.times is not None and met >= self.after + self.times

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """The reply, with the fault in it. `serve()` is what would have been answered without."""
        raise NotImplementedError


@dataclass(slots=True)
class Faults:
    """The faults of a server, and how often each has struck. The faults themselves stay as they are."""

    faults: list[Fault]
    _met: dict[int, int] = field(default_factory=dict[int, int])

    def answer(self, exchange: Exchange, serve: Callable[[Exchange], Reply]) -> Reply:
        """Send the exchange through the faults that match it, to `serve`."""
        struck: set[type[Fault]] = set()

        def hand_on(start: int) -> Reply:
            for place in range(start, len(self.faults)):
                fault = self.faults[place]
                if type(fault) not in struck and self._strikes(place, exchange):
                    struck.add(type(fault))
                    return fault.answer(exchange, partial(hand_on, place + 1))

            return serve(exchange)

        return hand_on(0)

    def _strikes(self, place: int, exchange: Exchange) -> bool:
        fault = self.faults[place]
        met = self._met.get(place, 0)
        if fault.used_up(met) or not fault.matches(exchange):
            return False

        self._met[place] = met + 1
        return met >= fault.after

    @property
    def pending(self) -> list[Fault]:
        """The faults that are not used up yet; those with `times=None` never are."""
        return [fault for place, fault in enumerate(self.faults) if not fault.used_up(self._met.get(place, 0))]

    def add(self, *faults: Fault) -> None:
        """Put faults at the end of the list."""
        self.faults.extend(faults)

    def reset(self) -> None:
        """Make all faults new again."""
        self._met.clear()
