"""What may be sent to a service, and when: in flight, per second, in turn, and nobody's turn lost."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentbg import RequestBudget, UsageError
from agentbg.core.budget import Allowance, Turn
from agentbg.core.pace import TRIES
from agentbg.core.turns import Kind
from agentbg.errors import ConversationLocked, RequestRejected, RunNotFound, ServiceUnavailable

REFUSED = ServiceUnavailable("too many", status_code=429, retry_after=20.0, unsent=True)
FAILED = ServiceUnavailable("no answer")


def half() -> float:
    return 0.5


def allowance(budget: RequestBudget | None = None) -> Allowance:
    return Allowance(budget or RequestBudget(), half)


def poll(run: str = "a", interval: float = 5.0) -> Turn:
    return Turn(Kind.POLL, run, interval=interval)


def start(run: str = "b", patience: float = 30.0) -> Turn:
    return Turn(Kind.START, run, patience=patience)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"in_flight": 0}, "at least 1, not 0"),
        ({"per_second": 0}, "above 0"),
        ({"per_second": inf}, "None for no bound"),
        ({"per_second": float("nan")}, "above 0"),
        ({"burst": 5}, "needs per_second"),
        ({"per_second": 5, "burst": 0}, "at least 1"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(settings, says):
    with pytest.raises(UsageError, match=says):
        RequestBudget(**settings)


def test_a_burst_then_an_even_flow():
    allowed = allowance(RequestBudget(per_second=10, burst=5))
    turns = [poll() for _ in range(20)]
    at_once = [allowed.ask(turn, 100.0) for turn in turns]
    assert at_once == [True] * 5 + [False] * 15
    times = []
    while (at := allowed.next_at()) < inf:
        assert allowed.next(at - 0.01) is None
        assert allowed.next(at) is not None
        times.append(at)

    assert times == pytest.approx([100.1 + n / 10 for n in range(15)])


def test_a_clock_that_jumps_gives_one_burst():
    """A machine that was asleep for an hour does not make good what it missed."""
    allowed = allowance(RequestBudget(per_second=1, burst=3, in_flight=10_000))
    for _ in range(10):
        allowed.ask(poll(), 0.0)

    assert sum(allowed.ask(poll(), 3600.0) for _ in range(100)) == 0, "those who wait go first"
    gone = 0
    while allowed.next(3600.0):
        gone += 1

    assert gone == 3


def test_nobody_overtakes_those_who_wait():
    allowed = allowance(RequestBudget(in_flight=1))
    first, second, third = poll("a"), poll("b"), poll("c")
    assert allowed.ask(first, 0.0)
    assert not allowed.ask(second, 0.0)
    assert allowed.over(first, 0.0) == []
    assert not allowed.ask(third, 0.0)
    assert allowed.next(0.0) is second
    assert allowed.next(0.0) is None


def test_a_turn_that_is_not_used_goes_to_the_next_in_line():
    allowed = allowance(RequestBudget(per_second=1, in_flight=1))
    first, second = poll("a"), poll("b")
    assert allowed.ask(first, 0.0)
    assert not allowed.ask(second, 0.0)
    assert allowed.unsent(first) is second
    assert allowed.next_at() == inf
    allowed.over(second, 0.0)
    stats = allowed.stats("p", "e", 0.0)
    assert (stats.in_flight, stats.waiting, stats.sent["poll"]) == (0, 0, 1)


def test_a_turn_that_came_before_a_pause_goes_to_nobody():
    allowed = allowance(RequestBudget(in_flight=2))
    first, second, third = poll("a"), poll("b"), poll("c")
    assert allowed.ask(first, 0.0)
    assert allowed.ask(second, 0.0)
    assert not allowed.ask(third, 0.0)
    allowed.over(first, 0.0, REFUSED)
    assert allowed.unsent(second) is None
    assert allowed.next_at() >= 20.0


def test_a_pause_turns_away_those_who_have_no_time():
    allowed = allowance(RequestBudget(in_flight=1))
    first, patient, hasty, waiting = poll("a"), start("b", 30.0), start("c", 5.0), poll("d")
    assert allowed.ask(first, 0.0)
    assert not any(allowed.ask(turn, 0.0) for turn in (patient, hasty, waiting))
    assert allowed.over(first, 0.0, REFUSED) == [hasty]
    assert allowed.leave(hasty)
    with pytest.raises(ServiceUnavailable, match="too many") as caught:
        allowed.ask(start("e", 5.0), 1.0)

    assert caught.value.unsent
    assert caught.value.status_code == 429
    assert caught.value.retry_after == pytest.approx(20.0, abs=1.0)
    assert allowed.next(allowed.next_at()) is patient


def test_a_service_that_is_down_turns_starts_away_and_keeps_polls():
    allowed = allowance(RequestBudget(in_flight=100))
    for n in range(8):
        turn = poll(str(n))
        assert allowed.ask(turn, 0.0)
        allowed.over(turn, 0.0, FAILED)

    assert allowed.stats("p", "e", 0.0).down
    assert not allowed.ask(poll(), 0.1)
    with pytest.raises(ServiceUnavailable, match="no answer") as caught:
        allowed.ask(start(), 0.1)

    assert caught.value.unsent
    assert caught.value.retry_after is None


def test_where_nobody_polls_a_start_may_try():
    allowed = allowance(RequestBudget(in_flight=100))
    for n in range(8):
        turn = start(str(n))
        assert allowed.ask(turn, 0.0)
        allowed.over(turn, 0.0, FAILED)

    with pytest.raises(ServiceUnavailable):
        allowed.ask(start(), 0.1)

    turn = start()
    assert allowed.ask(turn, 2.0)
    allowed.over(turn, 2.5)
    stats = allowed.stats("p", "e", 2.5)
    assert (stats.down, stats.paused_for) == (False, 0.0)


@pytest.mark.parametrize(
    "error",
    [
        None,
        RunNotFound("no such run", status_code=404),
        RequestRejected("no", status_code=400),
        ConversationLocked("busy", status_code=409, unsent=True),
        ServiceUnavailable("busy", status_code=409),
    ],
)
def test_a_no_is_an_answer(error):
    allowed = allowance()
    for n in range(100):
        turn = poll(str(n))
        assert allowed.ask(turn, float(n))
        assert allowed.over(turn, float(n), error) == []

    assert allowed.stats("p", "e", 100.0).allowed_per_second is None


def test_a_cancellation_or_a_bug_says_nothing_about_the_service():
    allowed = allowance()
    for n in range(100):
        turn = poll(str(n))
        assert allowed.ask(turn, 0.0)
        allowed.over(turn, 0.0, KeyError("a bug"))

    stats = allowed.stats("p", "e", 0.0)
    assert (stats.down, stats.in_flight) == (False, 0)


class Traffic(RuleBasedStateMachine):
    """Requests come, go, are given up and go wrong in any order, while the clock walks and jumps."""

    @initialize(
        per_second=st.sampled_from([None, 0.5, 3.0, 50.0]),
        burst=st.integers(1, 8),
        in_flight=st.sampled_from([1, 4, 40]),
    )
    def begin(self, per_second: float | None, burst: int, in_flight: int) -> None:
        burst = burst if per_second else 1
        self.budget = RequestBudget(per_second=per_second, burst=burst if per_second else None, in_flight=in_flight)
        self.allowed = Allowance(self.budget, half)
        self.burst = burst
        self.now = 0.0
        self.waiting: list[Turn] = []
        self.under_way: list[Turn] = []
        self.sent: list[float] = []
        self.paused_until = 0.0

    def go(self, turn: Turn) -> None:
        assert turn.era is not None
        assert self.now >= self.paused_until
        self.sent.append(self.now)
        self.under_way.append(turn)

    def let_in(self) -> None:
        while (turn := self.allowed.next(self.now)) is not None:
            self.waiting.remove(turn)
            self.go(turn)

    @rule(kind=st.sampled_from(Kind), run=st.integers(0, 20), interval=st.floats(0, 60), hasty=st.booleans())
    def ask(self, kind: Kind, run: int, interval: float, hasty: bool) -> None:
        turn = Turn(kind, str(run), interval=interval, patience=5.0 if hasty else inf)
        try:
            at_once = self.allowed.ask(turn, self.now)
        except ServiceUnavailable:
            assert hasty
            return

        if at_once:
            self.go(turn)
        else:
            self.waiting.append(turn)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 100), how=st.sampled_from(["answered", "failed", "refused", "wished", "cancelled"]))
    def end(self, which: int, how: str) -> None:
        turn = self.under_way.pop(which % len(self.under_way))
        error: BaseException | None = {
            "failed": FAILED,
            "refused": ServiceUnavailable("", status_code=429),
            "wished": REFUSED,
            "cancelled": KeyError(),
        }.get(how)
        for tired in self.allowed.over(turn, self.now, error):
            assert tired.patience < inf
            assert self.allowed.leave(tired)
            self.waiting.remove(tired)

        if how == "wished":
            self.paused_until = self.now + 20.0

        self.let_in()

    @precondition(lambda self: self.under_way)
    @rule()
    def not_sent(self) -> None:
        turn = self.under_way.pop()
        time = self.sent.pop()
        heir = self.allowed.unsent(turn)
        if heir is None:
            self.let_in()
        else:
            self.waiting.remove(heir)
            self.under_way.append(heir)
            self.sent.append(time)

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 100))
    def leave(self, which: int) -> None:
        assert self.allowed.leave(self.waiting.pop(which % len(self.waiting)))
        self.let_in()

    @rule(seconds=st.one_of(st.floats(0, 3), st.sampled_from([30.0, 3600.0])))
    def walk(self, seconds: float) -> None:
        self.now += seconds
        self.let_in()

    @invariant()
    def bounds_hold(self) -> None:
        if not hasattr(self, "allowed"):
            return

        stats = self.allowed.stats("p", "e", self.now)
        assert stats.in_flight == len(self.under_way) <= self.budget.in_flight
        assert stats.waiting == len(self.waiting)
        assert sum(stats.sent.values()) == len(self.sent)
        if self.budget.per_second is not None:
            for first, since in enumerate(self.sent):
                for last in range(first, len(self.sent)):
                    most = self.burst + self.budget.per_second * (self.sent[last] - since)
                    assert last - first + 1 <= most + 1e-6

    @invariant()
    def somebody_calls_those_who_wait(self) -> None:
        """By the time, or by the end of a request that is under way."""
        if hasattr(self, "allowed") and self.waiting:
            assert self.allowed.next_at() > self.now
            assert self.allowed.next_at() < inf or self.under_way

    def teardown(self) -> None:
        """Whatever happened, once the service is well everybody has had a turn."""
        if not hasattr(self, "allowed"):
            return

        self.paused_until = 0.0
        for _ in range(10_000):
            if not self.waiting and not self.under_way:
                break

            while self.under_way:
                self.allowed.over(self.under_way.pop(), self.now)

            self.let_in()
            if not self.under_way and self.waiting:
                assert self.allowed.next_at() < inf
                self.now = max(self.now, self.allowed.next_at())

        assert not self.waiting


Traffic.TestCase.settings = settings(stateful_step_count=60, max_examples=150)
TestTraffic = Traffic.TestCase


def test_tries_are_few_after_each_pause():
    allowed = allowance(RequestBudget(in_flight=100))
    turn = poll()
    assert allowed.ask(turn, 0.0)
    allowed.over(turn, 0.0, REFUSED)
    for _ in range(50):
        assert not allowed.ask(poll(), 0.0)

    gone = []
    while (now := allowed.next_at()) < inf:
        gone.append(allowed.next(now))

    assert len(gone) == TRIES
