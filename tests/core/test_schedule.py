import random
from itertools import islice

import pytest
from backoff import expo
from hypothesis import given
from hypothesis import strategies as st

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
    assert plain <= policy.maximum


def test_a_clock_that_went_back_does_no_harm() -> None:
    assert PollPolicy().interval(-1e6, middle) == PollPolicy().initial


def peak(times: list[float], window: float) -> int:
    """The most of these times that lie within one window."""
    times = sorted(times)
    first, most = 0, 0
    for last, time in enumerate(times):
        while times[first] < time - window:
            first += 1

        most = max(most, last - first + 1)

    return most


@pytest.mark.parametrize("initial", [0.5, 2.0])
def test_runs_submitted_together_are_polled_apart(initial: float) -> None:
    policy, draw = PollPolicy(initial=initial), random.Random(1).random
    firsts = [policy.first(draw) for _ in range(2000)]
    mean = 2000 * 0.1 / initial
    chance = 4 * mean**0.5
    assert peak(firsts, 0.1) < mean + chance
    assert max(firsts) <= initial

    later = [first + policy.interval(first, draw) for first in firsts]
    assert peak(later, 0.1) < mean + chance


@given(age=ages, draw=draws, hint=hints)
def test_a_hint_is_a_floor_up_to_its_maximum(age: float, draw: float, hint: float) -> None:
    policy = PollPolicy()
    own, told = policy.interval(age, lambda: draw), policy.interval(age, lambda: draw, hint)
    assert told == max(own, min(hint, policy.hint_maximum))
    assert policy.first(lambda: draw, hint) >= min(hint, policy.hint_maximum)


@pytest.mark.parametrize("hint", [-5.0, 0.0, float("nan"), None])
def test_a_hint_that_makes_no_sense_changes_nothing(hint: float | None) -> None:
    assert PollPolicy().interval(10, middle, hint) == PollPolicy().interval(10, middle)


def test_an_endless_hint_is_capped() -> None:
    assert PollPolicy(hint_maximum=30).interval(0, middle, float("inf")) == 30
    assert PollPolicy(hint_maximum=30).after_fault(1, middle, 1e9) == 30


@given(failures=st.integers(1, 3000), draw=draws)
def test_backoff_doubles_up_to_its_maximum_and_half_of_it_is_random(failures: int, draw: float) -> None:
    whole = min(2.0 ** min(failures - 1, 20), 60.0)
    assert Backoff().delay(failures, lambda: draw) == pytest.approx(whole * (0.5 + 0.5 * draw))


@given(failures=st.integers(1, 20), draw=draws, retry_after=hints)
def test_retry_after_is_a_floor_under_the_backoff(failures: int, draw: float, retry_after: float) -> None:
    policy = PollPolicy()
    own, told = (policy.after_fault(failures, lambda: draw, floor) for floor in (None, retry_after))
    assert told == max(own, min(retry_after, policy.hint_maximum))


@pytest.mark.parametrize(
    "wrong",
    [
        {"initial": 0},
        {"initial": -1},
        {"initial": 20},
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


@pytest.mark.parametrize("wrong", [{"idle": 0}, {"quiet": -1}, {"attempts": 0}])
def test_a_stream_policy_that_cannot_be_right_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="StreamPolicy needs"):
        StreamPolicy(**wrong)
