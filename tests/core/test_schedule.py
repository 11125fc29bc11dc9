import math
import random
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from backoff import expo
from hypothesis import given
from hypothesis import strategies as st

from agentbg.core.hazard import UNKNOWN, Hazard
from agentbg.core.intervals import Exponential
from agentbg.core.schedule import Backoff, PollPolicy, StreamPolicy
from agentbg.errors import UsageError

draws = st.floats(0, 1, exclude_max=True)
ages = st.floats(0, 1e7)
hints = st.floats(0, 1e6)


def middle() -> float:
    return 0.5


@given(initial=st.floats(0.1, 5), growth=st.floats(0.01, 1.5), maximum=st.floats(5, 100), count=st.integers(1, 40))
def test_the_interval_is_the_closed_form_of_an_exponential_backoff(
    initial: float, growth: float, maximum: float, count: int
) -> None:
    policy = PollPolicy(initial=initial, growth=growth, maximum=maximum)
    waits = expo(base=1 + growth, factor=initial, max_value=maximum)
    next(waits)
    age = 0.0
    for wait in islice(waits, count):
        assert policy.interval(age, middle) == pytest.approx(wait)
        age += wait


@given(age=ages, draw=draws)
def test_jitter_stays_in_its_share(age: float, draw: float) -> None:
    policy = PollPolicy()
    plain = policy.interval(age, middle)
    assert plain * 0.85 <= policy.interval(age, lambda: draw) <= plain * 1.15
    assert plain <= policy.longest


def test_a_clock_that_went_back_does_no_harm() -> None:
    assert PollPolicy().interval(-1e6, middle) == PollPolicy().shortest


@given(age=ages, interval=st.floats(0.01, 1e4))
def test_fixed_is_fixed(age: float, interval: float) -> None:
    policy = PollPolicy(schedule="fixed", initial=interval, jitter=0)
    assert policy.interval(age, middle) == policy.shortest == interval


@pytest.mark.parametrize(
    ("schedule", "bounds"),
    [("exponential", (0.5, 15)), ("fixed", (2.0, 15)), ("adaptive", (0.5, 60)), (Exponential(3, 0), (0.5, 60))],
)
def test_each_schedule_has_bounds_of_its_own(schedule: Any, bounds: tuple[float, float]) -> None:
    policy = PollPolicy(schedule=schedule)
    assert (policy.shortest, policy.longest) == bounds
    assert replace(PollPolicy(), schedule=schedule) == policy
    policy = PollPolicy(schedule=schedule, initial=3, maximum=4)
    assert (policy.shortest, policy.longest) == (3, 4)
    assert PollPolicy(schedule=schedule, initial=100).longest == 100


@given(age=ages, cost=st.floats(1e-3, 1e3), times=st.lists(st.floats(0, 1e5)), initial=st.floats(0.1, 10))
def test_adaptive_stays_between_its_bounds_whatever_it_has_learned(
    age: float, cost: float, times: list[float], initial: float
) -> None:
    hazard = Hazard()
    for time in times:
        hazard.ended(time, time)

    policy = PollPolicy(schedule="adaptive", poll_cost_seconds=cost, initial=initial, maximum=20)
    assert initial <= policy.interval(age, middle, None, hazard) <= 20


class Own:
    """A schedule that gives what it is told to."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def interval(self, age: float, hazard: Hazard) -> float:
        if isinstance(self.answer, Exception):
            raise self.answer

        return self.answer


@pytest.mark.parametrize(
    ("answer", "interval"),
    [(7, 7), (0, 0.5), (-3.0, 0.5), (math.inf, 60), (-math.inf, 0.5), (math.nan, 60), (None, 60), ("3", 60)],
)
def test_a_schedule_of_ones_own_neither_spins_nor_hangs(answer: Any, interval: float) -> None:
    policy = PollPolicy(schedule=Own(answer))
    assert policy.interval(10, middle) == interval
    assert policy.first(middle) == interval / 2


def test_a_schedule_that_raises_costs_no_run_its_poll(caplog: pytest.LogCaptureFixture) -> None:
    policy = PollPolicy(schedule=Own(ZeroDivisionError("oh")))
    assert policy.interval(10, middle) == policy.longest
    assert "gave no interval" in caplog.text
    assert "ZeroDivisionError: oh" in caplog.text


class Uncallable:
    interval = 3.0


@pytest.mark.parametrize("schedule", ["adaptative", "", None, 3.0, object(), Own, Uncallable()])
def test_what_is_no_schedule_is_refused(schedule: Any) -> None:
    with pytest.raises(UsageError, match="needs a schedule: 'exponential', 'fixed', 'adaptive', or an object with"):
        PollPolicy(schedule=schedule)


def test_an_async_schedule_is_refused() -> None:
    class Async:
        async def interval(self, age: float, hazard: Hazard) -> float:
            return 1.0

    schedule: Any = Async()
    with pytest.raises(UsageError, match="is async, and would never run"):
        PollPolicy(schedule=schedule)


def test_a_schedule_of_ones_own_is_told_the_age_and_what_is_known() -> None:
    class Half:
        def interval(self, age: float, hazard: Hazard) -> float:
            return age / 2 if hazard.ends else 1.0

    known = Hazard()
    known.ended(5, 5)
    policy = PollPolicy(schedule=Half())
    assert policy.interval(30, middle) == 1
    assert policy.interval(30, middle, None, known) == 15


def peak(times: list[float], window: float) -> int:
    """The most of these times that lie within one window."""
    times = sorted(times)
    first, most = 0, 0
    for last, time in enumerate(times):
        while times[first] < time - window:
            first += 1

        most = max(most, last - first + 1)

    return most


def polls(
    policy: PollPolicy, runs: int, until: float, hint: float | None = None, hazard: Hazard = UNKNOWN
) -> list[float]:
    """When runs that were submitted together are polled."""
    draw, times = random.Random(1).random, list[float]()
    for _ in range(runs):
        age = policy.first(draw, hint, hazard)
        while age < until:
            times.append(age)
            age += policy.interval(age, draw, hint, hazard)

    return times


@pytest.mark.parametrize("schedule", ["exponential", "fixed", "adaptive", Own(2.0)])
@pytest.mark.parametrize("hint", [None, 2.0, 7.0])
def test_2000_runs_submitted_together_peak_at_150_polls_in_100_ms(schedule: Any, hint: float | None) -> None:
    times = polls(PollPolicy(schedule=schedule, initial=2.0), 2000, 60.0, hint)
    assert peak(times, 0.1) <= 150


def test_so_do_runs_of_which_much_is_known() -> None:
    hazard, chance = Hazard(), random.Random(3)
    for _ in range(100):
        length = chance.lognormvariate(math.log(8), 0.7)
        hazard.survived(0, length - 0.5)
        hazard.ended(length - 0.5, length + 0.5)

    policy = PollPolicy(schedule="adaptive", initial=2.0)
    assert policy.first(lambda: 0.3, None, hazard) > 1, "hardly a poll is spent where hardly a run ends"
    assert peak(polls(policy, 2000, 60.0, None, hazard), 0.1) <= 150


@pytest.mark.parametrize("initial", [0.5, 2.0])
def test_runs_submitted_together_are_polled_apart(initial: float) -> None:
    policy, draw = PollPolicy(initial=initial), random.Random(1).random
    firsts = [policy.first(draw) for _ in range(2000)]
    mean = 2000 * 0.1 / initial
    chance = 4 * mean**0.5
    assert peak(firsts, 0.1) < mean + chance
    assert max(firsts) <= initial * 1.15

    later = [first + policy.interval(first, draw) for first in firsts]
    assert peak(later, 0.1) < mean + chance


def test_runs_taken_up_again_together_are_polled_soon_and_apart() -> None:
    policy, draw = PollPolicy(), random.Random(1).random
    times = [policy.again(3600, draw) for _ in range(2000)]
    assert max(times) <= 2
    assert peak(times, 0.1) <= 150


def test_refused_runs_come_back_apart() -> None:
    policy, draw = PollPolicy(), random.Random(1).random
    assert peak([policy.after_refusal(draw) for _ in range(2000)], 0.1) <= 150


@given(age=ages, draw=draws, hint=hints)
def test_a_hint_is_a_floor_up_to_its_maximum(age: float, draw: float, hint: float) -> None:
    policy = PollPolicy()
    floor = min(hint, policy.hint_maximum)
    own, told = policy.interval(age, lambda: draw), policy.interval(age, lambda: draw, hint)
    assert told == max(own, floor * (1 + 0.15 * draw))
    assert policy.first(lambda: draw, hint) >= floor
    assert policy.again(age, lambda: draw, hint) >= floor


@pytest.mark.parametrize("hint", [-5.0, 0.0, math.nan, None])
def test_a_hint_that_makes_no_sense_changes_nothing(hint: float | None) -> None:
    policy = PollPolicy()
    assert policy.interval(10, middle, hint) == policy.interval(10, middle)
    assert policy.first(middle, hint) == policy.first(middle)
    assert policy.again(10, middle, hint) == policy.again(10, middle)
    assert policy.after_fault(1, middle, hint) == policy.after_fault(1, middle)


def test_an_endless_hint_is_capped() -> None:
    lowest, highest = (lambda: 0.0), (lambda: 1.0)
    for draw, polled, retried in ((lowest, 30, 30), (highest, 30 * 1.15, 30 * 1.1)):
        assert PollPolicy(hint_maximum=30).interval(0, draw, math.inf) == pytest.approx(polled)
        assert PollPolicy(hint_maximum=30).after_fault(1, draw, 1e9) == pytest.approx(retried)


@given(failures=st.integers(1, 3000), draw=draws)
def test_backoff_doubles_up_to_its_maximum_and_half_of_it_is_random(failures: int, draw: float) -> None:
    whole = min(2.0 ** min(failures - 1, 20), 60.0)
    assert Backoff().delay(failures, lambda: draw) == pytest.approx(whole * (0.5 + 0.5 * draw))


@given(failures=st.integers(1, 20), draw=draws, retry_after=hints)
def test_retry_after_is_a_floor_under_the_backoff(failures: int, draw: float, retry_after: float) -> None:
    policy = PollPolicy()
    own, told = (policy.after_fault(failures, lambda: draw, floor) for floor in (None, retry_after))
    floor = min(retry_after, policy.hint_maximum)
    assert told >= max(own, floor)
    assert told <= max(own, floor * 1.1, floor + own)


def test_a_common_retry_after_brings_no_two_thousand_back_at_one_instant() -> None:
    policy, draw = PollPolicy(), random.Random(1).random
    times = [policy.after_fault(1, draw, 20.0) for _ in range(2000)]
    assert min(times) >= 20
    assert peak(times, 0.1) <= 150


@pytest.mark.parametrize(
    "wrong",
    [
        {"initial": 0},
        {"initial": -1},
        {"initial": 20, "maximum": 15},
        {"initial": 1, "maximum": math.inf},
        {"poll_cost_seconds": 0},
        {"poll_cost_seconds": -1},
        {"poll_cost_seconds": math.inf},
        {"poll_cost_seconds": math.nan},
        {"initial": float("nan")},
        {"growth": -0.1},
        {"growth": float("nan")},
        {"jitter": 1},
        {"jitter": -0.1},
        {"hint_maximum": -1},
        {"missing_grace": -1},
        {"max_age": 0},
        {"stall_after": 0},
    ],
)
def test_a_poll_policy_that_cannot_be_right_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"PollPolicy needs .*{next(iter(wrong))}"):
        PollPolicy(**wrong)


@pytest.mark.parametrize("wrong", [{"initial": 0}, {"initial": -1}, {"initial": 61}, {"maximum": float("nan")}])
def test_a_backoff_that_cannot_be_right_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="Backoff needs"):
        Backoff(**wrong)


@pytest.mark.parametrize("wrong", [{"idle": 0}, {"quiet": -1}, {"attempts": 0}, {"spread": -0.1}])
def test_a_stream_policy_that_cannot_be_right_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="StreamPolicy needs"):
        StreamPolicy(**wrong)
