"""How many requests may be sent to a service, and when: what its user allows, and what it can take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from ..errors import ConversationLocked, ProviderError, ServiceUnavailable, UsageError
from .pace import Pace
from .schedule import Draw
from .turns import Kind, Turns

_SLACK = 0.1
"""Seconds by which a timer may be late without costing a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBudget:
    """How many requests a runtime may send to each service: one budget for each endpoint and credential, shared by the
    starts, polls, attaches and cancels of all runs there.

    Where it binds, the kinds of requests take turns, and none starves: a start or a cancel does not wait for the polls,
    nor do they for ten thousand cancels. Polls go where they are worth most: all their intervals grow by the same
    factor, the best that can be done with so few (see `agentbg.core.turns`). Of themselves, requests slow down only for
    a service in trouble (see `agentbg.core.pace`).
    """

    per_second: float | None = None
    """At most `burst + per_second * t` requests are sent in any `t` seconds. None for no bound."""
    burst: int | None = None
    """How many may be sent at once after a pause: by default as many as a tenth of a second brings, at least one."""
    in_flight: int = 32
    """How many may be under way at a time. A stream counts until its answer has begun."""

    def __post_init__(self) -> None:
        if self.in_flight < 1:
            raise UsageError(f"in_flight is how many requests may be under way: at least 1, not {self.in_flight}.")

        if self.per_second is not None and not 0 < self.per_second < inf:
            raise UsageError(f"per_second is above 0, or None for no bound; not {self.per_second}.")

        if self.burst is not None and (self.per_second is None or self.burst < 1):
            raise UsageError(f"burst is at least 1, and needs per_second; not {self.burst} for {self.per_second}.")

    @property
    def slack(self) -> float:
        """How many seconds' worth of requests may be sent ahead of an even flow."""
        if self.per_second is None:
            return _SLACK

        burst = max(self.per_second * _SLACK, 1.0) if self.burst is None else self.burst
        return (burst - 1) / self.per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStats:
    """The requests to one endpoint with one credential, at one moment."""

    provider: str
    endpoint: str
    in_flight: int
    """Requests under way; of streams, those whose answer has not begun."""
    waiting: int
    """Requests that wait for their turn."""
    sent: Mapping[str, int]
    """Requests sent so far: cancel, respond, start (streamed ones, too), attach, poll."""
    per_second: float
    """Requests sent per second, over the last seconds."""
    allowed_per_second: float | None
    """How many may be: by the budget, and less while the service recovers. None for no bound."""
    paused_for: float
    """Seconds until the next may be sent, by the service's wish or because it is down; 0 for none."""
    down: bool
    """Many runs in a row were not answered, and none since."""


class Turn:
    """One attempt of one request: it waits, is under way, and is over. `run` names whom it is about, `patience` for how
    many seconds it waits at most for a service in trouble; `interval` see `turns.Line`."""

    __slots__ = ("era", "interval", "kind", "patience", "run")

    def __init__(self, kind: Kind, run: str, *, interval: float = 0.0, patience: float = inf) -> None:
        self.kind = kind
        self.run = run
        self.interval = interval
        self.patience = patience
        self.era: int | None = None
        """None unless it is under way."""


class Allowance:
    """What may be sent to one service, and whose turn it is. All times are readings of one clock, in seconds.

    The rate is kept by the generic cell rate algorithm: one number, the time at which an even flow would send the next
    request. A clock that jumps ahead gives no more than one burst.
    """

    def __init__(self, budget: RequestBudget, draw: Draw) -> None:
        self._most = budget.in_flight
        self._rate = inf if budget.per_second is None else budget.per_second
        self._slack = budget.slack
        self._even = -inf  # when an even flow would send the next
        self._turns: Turns[Turn] = Turns()
        self._pace = Pace(draw)
        self._trouble: ServiceUnavailable | None = None
        self._in_flight = 0
        self._sent = [0] * len(Kind)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._turns)

    # --- turns ---

    def ask(self, turn: Turn, now: float) -> bool:
        """True when it may be sent now, and counts as sent; otherwise it waits. Raises ServiceUnavailable where that
        would be for longer than it is ready to."""
        if not self._turns and self._free_at() <= now:
            self._send(turn, now)
            return True

        if (error := self.refusal(turn, now)) is not None:
            raise error

        self._turns.join(turn.kind, turn, turn.interval)
        return False

    def next(self, now: float) -> Turn | None:
        """Whose turn it is: it counts as sent. None when nobody waits, or nothing may be sent yet."""
        if not self._turns or self._free_at() > now:
            return None

        turn = self._turns.pop()
        self._send(turn, now)
        return turn

    def next_at(self) -> float:
        """When `next` has something to give; inf when that is not for the time to tell."""
        return self._free_at() if self._turns else inf

    def leave(self, turn: Turn) -> bool:
        """A turn is not wanted any more; False for one that did not wait."""
        return self._turns.leave(turn.kind, turn)

    def unsent(self, turn: Turn) -> Turn | None:
        """A turn that had come was not used: who has it now, if anybody waits and the service is not paused."""
        self._sent[turn.kind] -= 1
        era, turn.era = turn.era, None
        assert era is not None, "it had come"
        if not self._turns or era != self._pace.era:
            self._give_back(era)
            return None

        heir = self._turns.pop()
        heir.era = era
        self._sent[heir.kind] += 1
        return heir

    # --- what came of them ---

    def over(self, turn: Turn, now: float, error: BaseException | None = None) -> list[Turn]:
        """A request is over. Who does not want to wait for its turn any more, now that this has come of it."""
        era, turn.era = turn.era, None
        assert era is not None, "it was under way"
        self._give_back(era)
        pauses = self._pace.not_before
        match error:
            case ServiceUnavailable() if not _is_answer(error):
                self._trouble = error
                if _is_refusal(error):
                    self._pace.refused(era, now, error.retry_after)
                else:
                    self._pace.failed(era, turn.run, now)
            case None | ProviderError():
                self._pace.answered(era, now, waiting=bool(self._turns))
            case _:
                pass  # cancelled, or a bug: it says nothing about the service

        paused = self._pace.not_before > max(pauses, now)
        return self._turns.those(lambda each: self.refusal(each, now) is not None) if paused else []

    def refusal(self, turn: Turn, now: float) -> ServiceUnavailable | None:
        """Why a turn is not worth waiting for: the service is down, or wants a longer pause than its patience."""
        pause = self._pace.not_before - now
        if turn.patience == inf or not (self._pace.down or pause > turn.patience):
            return None

        trouble = self._trouble
        assert trouble is not None, "a pause has its reason"
        return ServiceUnavailable(
            f"Not sent, since the service is in trouble: {trouble}",
            retry_after=None if self._pace.down else pause,
            unsent=True,
            status_code=trouble.status_code,
            code=trouble.code,
            request_id=trouble.request_id,
        )

    def stats(self, provider: str, endpoint: str, now: float) -> EndpointStats:
        """How it stands."""
        rate = min(self._rate, self._pace.rate)
        return EndpointStats(
            provider=provider,
            endpoint=endpoint,
            in_flight=self._in_flight,
            waiting=self.waiting,
            sent={kind.name.lower(): self._sent[kind] for kind in Kind},
            per_second=self._pace.tempo.per_second(now),
            allowed_per_second=None if rate == inf else rate,
            paused_for=max(self._pace.not_before - now, 0.0),
            down=self._pace.down,
        )

    # --- small parts ---

    def _free_at(self) -> float:
        """When the next request may be sent; inf when one that is under way is to end first."""
        if self._in_flight >= self._most or not self._pace.may_try:
            return inf

        slack = self._slack if self._pace.rate >= self._rate else min(self._slack, _SLACK)
        return max(self._pace.not_before, self._even - slack)

    def _send(self, turn: Turn, now: float) -> None:
        self._in_flight += 1
        self._sent[turn.kind] += 1
        turn.era = self._pace.sent(now)
        rate = min(self._rate, self._pace.rate)
        if rate < inf:
            self._even = max(self._even, now) + 1 / rate

    def _give_back(self, era: int) -> None:
        self._in_flight -= 1
        self._pace.withdrawn(era)


def _is_answer(error: ServiceUnavailable) -> bool:
    """A service that is busy with this very run is well."""
    return isinstance(error, ConversationLocked) or error.status_code == 409


def _is_refusal(error: ServiceUnavailable) -> bool:
    return error.status_code == 429 or (error.status_code == 503 and error.retry_after is not None)
