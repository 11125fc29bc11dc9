"""The way to the services: each request waits here for its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from types import TracebackType
from typing import Self

from .clock import Clock
from .core.budget import Allowance, EndpointStats, RequestBudget, Turn
from .core.schedule import Draw
from .core.turns import Kind
from .providers.base import Provider


class Gates:
    """A gate for each endpoint and credential. Agents that talk to the same service with the same key share one."""

    def __init__(self, budget: RequestBudget, clock: Clock, draw: Draw) -> None:
        self._budget, self._clock, self._draw = budget, clock, draw
        self._gates: dict[tuple[str, str, str], Gate] = {}

    def of(self, provider: Provider) -> Gate:
        """The gate that a provider's requests go through."""
        key = (provider.name, provider.endpoint, getattr(provider, "credential", ""))
        gate = self._gates.get(key)
        if gate is None:
            gate = self._gates[key] = Gate(Allowance(self._budget, self._draw), self._clock)

        return gate

    def stats(self) -> Sequence[EndpointStats]:
        """How each of them stands, in the order of their first use."""
        return [gate.stats(provider, endpoint) for (provider, endpoint, _), gate in self._gates.items()]

    def close(self) -> None:
        """Nothing is sent any more that waits."""
        for gate in self._gates.values():
            gate.close()


class Gate:
    """The requests to one service. One timer at most, and that only while somebody waits; no task."""

    def __init__(self, allowance: Allowance, clock: Clock) -> None:
        self._allowance = allowance
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def turn(self, kind: Kind, run: str, patience: float = inf) -> Passage:
        """`async with` this around a request's single attempt: it waits for its turn.

        Entering raises ServiceUnavailable, and nothing is sent, when that would take longer than `patience` seconds
        because of the service: it is down, or wants a longer pause. A cancellation while it waits leaves the line.
        """
        return Passage(self, kind, run, None, patience=patience)

    def ask(self, run: str, interval: float, go: Callable[[Passage], object]) -> Passage | None:
        """A poll's turn, without a task that waits: `go` is called when it has come, and enters the passage, or leaves
        it. The passage while it waits; None when `go` was called at once."""
        passage = Passage(self, Kind.POLL, run, go, interval=interval)
        if self._allowance.ask(passage, self._clock.now()):
            go(passage)
            return None

        self._set_timer()
        return passage

    def stats(self, provider: str, endpoint: str) -> EndpointStats:
        """How it stands."""
        return self._allowance.stats(provider, endpoint, self._clock.now())

    def close(self) -> None:
        """Nothing is sent any more that waits."""
        self._closed = True
        self._stop_timer()

    async def enter(self, passage: Passage) -> None:
        """Wait for a turn, as `turn` says."""
        if self._allowance.ask(passage, self._clock.now()):
            return

        passage.coming = asyncio.get_running_loop().create_future()
        self._set_timer()
        try:
            await passage.coming
        except BaseException:
            self.leave(passage)
            raise

    def leave(self, passage: Passage) -> None:
        """A turn is not wanted any more. One that had come goes to the next in line."""
        if passage.era is None:
            self._allowance.leave(passage)
        elif (heir := self._allowance.unsent(passage)) is not None:
            self._call(heir)
        else:
            self._let_in()

    def over(self, passage: Passage, error: BaseException | None) -> None:
        """A request is over, well or badly."""
        now = self._clock.now()
        for tired in self._allowance.over(passage, now, error):
            self._turn_away(tired, now)

        if self._allowance.waiting:
            self._let_in()

    def _let_in(self) -> None:
        """Call all whose turn it is."""
        if self._closed:
            return

        now = self._clock.now()
        while (turn := self._allowance.next(now)) is not None:
            self._call(turn)

        self._set_timer()

    @staticmethod
    def _call(turn: Turn) -> None:
        assert isinstance(turn, Passage), "only passages wait here"
        if turn.go is not None:
            turn.go(turn)
        elif turn.coming is not None and not turn.coming.done():  # one that is being cancelled will leave by itself
            turn.coming.set_result(None)

    def _turn_away(self, turn: Turn, now: float) -> None:
        assert isinstance(turn, Passage), "only passages wait here"
        self._allowance.leave(turn)
        error = self._allowance.refusal(turn, now)
        if turn.coming is not None and not turn.coming.done() and error is not None:
            turn.coming.set_exception(error)

    def _set_timer(self) -> None:
        at = self._allowance.next_at()
        if at == inf or (self._timer is not None and self._timer.when() <= at):
            return

        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_at(at, self._ring)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._let_in()


class Passage(Turn):
    """One attempt of one request, on its way through a gate."""

    __slots__ = ("_gate", "coming", "go")

    def __init__(
        self,
        gate: Gate,
        kind: Kind,
        run: str,
        go: Callable[[Passage], object] | None,
        *,
        interval: float = 0.0,
        patience: float = inf,
    ) -> None:
        super().__init__(kind, run, interval=interval, patience=patience)
        self._gate = gate
        self.go = go
        self.coming: asyncio.Future[None] | None = None

    @property
    def waits(self) -> bool:
        """True while somebody waits to enter it."""
        return self.coming is not None and not self.coming.done()

    async def __aenter__(self) -> Self:
        if self.era is None:
            await self._gate.enter(self)

        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.era is not None:
            self._gate.over(self, error)

    def leave(self) -> None:
        """It is not wanted any more."""
        self._gate.leave(self)
