import json
import random
from math import exp, inf, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbg.core.hazard import EDGES, MEMORY, UNKNOWN, Hazard
from agentbg.core.intervals import Adaptive, Exponential, Fixed
from agentbg.errors import UsageError

ages = st.floats(0, 1e6)
spans = st.tuples(ages, ages).map(sorted)
costs = st.floats(1e-3, 1e3)
lives = st.lists(st.tuples(st.booleans(), spans), max_size=20)


def told(observations: list[tuple[bool, list[float]]]) -> Hazard:
    hazard = Hazard()
    for ended, (since, until) in observations:
        (hazard.ended if ended else hazard.survived)(since, until)

    return hazard


def lived(*lengths: float) -> Hazard:
    """What is learned from runs of these lengths, each of which was looked at just before and just after its end."""
    hazard = Hazard()
    for length in lengths:
        hazard.survived(0, length * 0.99)
        hazard.ended(length * 0.99, length * 1.01)

    return hazard


# --- the estimate ---


@given(age=st.floats(1.0, 6e4))
def test_with_no_history_the_hazard_is_one_over_the_age(age: float) -> None:
    assert Hazard().rate(age) == pytest.approx(1 / age, rel=0.3)  # a constant in each bin


@given(age=st.floats(1.0, 3e4))
def test_then_a_run_is_as_likely_as_not_to_go_on_for_as_long_again(age: float) -> None:
    assert Hazard().remaining(age) == pytest.approx(age, rel=0.4)


def test_runs_of_a_constant_hazard_show_it() -> None:
    chance = random.Random(1)
    hazard = lived(*(chance.expovariate(1 / 50) for _ in range(900)))
    for age in (2, 10, 30, 60, 100):
        assert hazard.rate(age) == pytest.approx(1 / 50, rel=0.25)

    assert hazard.remaining(20) == pytest.approx(50 * log(2), rel=0.2)
    assert hazard.remaining(20, 0.9) == pytest.approx(50 * log(10), rel=0.2)


def test_the_ages_at_which_runs_end_stand_out() -> None:
    hazard = lived(*[60.0] * 50)
    assert hazard.rate(60) > 25 * hazard.rate(10)
    assert 30 < hazard.remaining(10) < 60


@given(observations=lives, since=ages, until=ages, age=ages)
def test_what_goes_on_lowers_the_hazard(
    observations: list[tuple[bool, list[float]]], since: float, until: float, age: float
) -> None:
    """Runs that have not ended are not left out."""
    hazard = told(observations)
    before = hazard.rate(age)
    hazard.survived(since, until)
    assert hazard.rate(age) <= before


def test_early_on_when_only_chats_have_ended_the_research_is_not_forgotten() -> None:
    chats_only, all_of_them = lived(*[8.0] * 80), lived(*[8.0] * 80)
    for _ in range(20):
        all_of_them.survived(0, 200)

    assert all_of_them.rate(100) < chats_only.rate(100) / 5
    assert all_of_them.remaining(60) > 3 * chats_only.remaining(60)
    assert all_of_them.rate(8) == pytest.approx(chats_only.rate(8), rel=0.3)


@given(observations=lives, length=ages)
def test_an_end_raises_the_hazard_where_it_was(observations: list[tuple[bool, list[float]]], length: float) -> None:
    hazard = told(observations)
    before = hazard.rate(length)
    hazard.ended(length, length)
    assert hazard.rate(length) > before


@given(span=spans)
def test_an_end_seen_late_is_one_end_spread_over_the_time_in_which_it_may_have_come(span: list[float]) -> None:
    hazard = Hazard()
    hazard.ended(*span)
    assert hazard.ends == pytest.approx(1)


def test_an_end_that_was_seen_late_is_not_taken_to_have_come_late() -> None:
    soon, late = Hazard(), Hazard()
    for _ in range(50):
        soon.ended(5, 5.1)
        late.ended(5, 30)

    assert late.rate(5.5) < soon.rate(5.5) / 10
    assert late.rate(5.5) == pytest.approx(1 / 25, rel=0.5)
    assert late.rate(28) > 2 * soon.rate(28)


@given(observations=lives, age=st.floats(-1e6, 1e9))
def test_there_is_a_rate_at_every_age(observations: list[tuple[bool, list[float]]], age: float) -> None:
    assert 0 < told(observations).rate(age) < inf


@given(observations=lives, age=ages)
def test_the_pieces_are_the_rate_from_an_age_to_eternity(
    observations: list[tuple[bool, list[float]]], age: float
) -> None:
    hazard, at = told(observations), age
    for rate, until in hazard.pieces(age):
        assert at < until
        assert rate == hazard.rate(at)
        at = until

    assert at == inf


@given(observations=lives, age=ages, share=st.floats(0.01, 0.99))
def test_what_remains_is_when_this_share_has_ended(
    observations: list[tuple[bool, list[float]]], age: float, share: float
) -> None:
    hazard = told(observations)
    end, left, at = age + hazard.remaining(age, share), 1.0, age
    for rate, until in hazard.pieces(age):
        left *= exp(-rate * (min(until, end) - at))
        at = until
        if until >= end:
            break

    assert 1 - left == pytest.approx(share, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_a_share_of_none_or_all_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="above 0 and below 1"):
        Hazard().remaining(10, share)


def test_old_lessons_fade() -> None:
    hazard = Hazard()
    for length in (10.0,) * 3000 + (100.0,) * 2000:
        hazard.survived(0, length)
        hazard.ended(length, length)

    assert hazard.ends < MEMORY
    assert 80 < hazard.remaining(0) < 120


def test_a_clock_that_went_back_teaches_nothing() -> None:
    hazard = Hazard()
    hazard.survived(10, 5)
    assert hazard.rate(7) == Hazard().rate(7)
    hazard.ended(10, 5)
    assert hazard.ends == 1


# --- for a store ---


@given(observations=lives)
def test_it_goes_through_json_as_it_is(observations: list[tuple[bool, list[float]]]) -> None:
    hazard = told(observations)
    again = Hazard.from_json(hazard.to_json())
    assert [again.rate(age) for age in EDGES] == [hazard.rate(age) for age in EDGES]
    assert len(hazard.to_json()) < 2000


GOOD = json.loads(Hazard().to_json())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        b"[]",
        b'{"v": 1}',
        b"\xff\xfe",
        json.dumps({**GOOD, "v": 2}).encode(),
        json.dumps({**GOOD, "ends": GOOD["ends"][1:]}).encode(),
        json.dumps({**GOOD, "lived": [*GOOD["lived"], 1.0]}).encode(),
        json.dumps({**GOOD, "ends": [-1.0, *GOOD["ends"][1:]]}).encode(),
        json.dumps({**GOOD, "lived": [float("nan"), *GOOD["lived"][1:]]}).encode(),
        json.dumps({**GOOD, "lived": [float("inf"), *GOOD["lived"][1:]]}).encode(),
        json.dumps({**GOOD, "lived": [None, *GOOD["lived"][1:]]}).encode(),
        json.dumps({**GOOD, "lived": [1e308, *GOOD["lived"][1:]]}).encode(),
        json.dumps({**GOOD, "ends": [*GOOD["ends"][1:], 1e308]}).encode(),
    ],
)
def test_what_is_damaged_or_of_another_version_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        Hazard.from_json(data)


def test_what_nothing_is_known_of_stays_unknown() -> None:
    assert UNKNOWN.ends == 0


# --- the schedules ---


@given(age=ages, observations=lives)
def test_fixed_is_the_same_always(age: float, observations: list[tuple[bool, list[float]]]) -> None:
    assert Fixed(2.0).interval(age, told(observations)) == 2.0


@given(age=ages, more=ages)
def test_exponential_grows_with_age(age: float, more: float) -> None:
    schedule = Exponential(0.5, 0.1)
    assert schedule.interval(age + more, UNKNOWN) >= schedule.interval(age, UNKNOWN) >= 0.5


@given(observations=lives, age=ages, cost=costs)
def test_adaptive_waits_until_its_density_comes_to_one_poll(
    observations: list[tuple[bool, list[float]]], age: float, cost: float
) -> None:
    hazard, at, polls = told(observations), age, 0.0
    end = age + Adaptive(cost).interval(age, hazard)
    for rate, until in hazard.pieces(age):
        polls += (min(until, end) - at) * (rate / (2 * cost)) ** 0.5
        at = until
        if until >= end:
            break

    assert polls == pytest.approx(1, rel=1e-3, abs=1e-4)


@given(observations=lives, age=ages, cost=costs, times=st.floats(1, 100))
def test_a_dearer_poll_comes_later(
    observations: list[tuple[bool, list[float]]], age: float, cost: float, times: float
) -> None:
    hazard = told(observations)
    cheap, dear = (Adaptive(each).interval(age, hazard) for each in (cost, cost * times))
    assert cheap <= dear * (1 + 1e-9)


@given(age=st.floats(1.0, 1e4))
def test_while_nothing_is_known_adaptive_grows_with_the_root_of_the_age(age: float) -> None:
    schedule = Adaptive(0.2)
    assert schedule.interval(4 * age, UNKNOWN) == pytest.approx(2 * schedule.interval(age, UNKNOWN), rel=0.35)


def test_adaptive_polls_where_runs_end_and_nowhere_else() -> None:
    hazard, schedule = lived(*[60.0] * 100), Adaptive(0.2)
    polls = [0.0]
    while polls[-1] < 70:
        polls.append(polls[-1] + schedule.interval(polls[-1], hazard))

    assert polls[1] > 20
    assert sum(poll < 40 for poll in polls[1:]) <= 3
    assert schedule.interval(60, hazard) < 4
