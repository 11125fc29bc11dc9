"""How fast a service may be asked, by how it answers: the rules of `agentbg.core.pace`, one by one."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbg.core.pace import CALM, FLOOR, GAIN, LONGEST_PAUSE, MANY, SPREAD, TRIES, Pace


def half() -> float:
    return 0.5


def at_work(per_second: float = 100.0, draw=half) -> Pace:
    """A service that was asked so often, up to the time 10."""
    pace = Pace(draw)
    for n in range(int(10 * per_second)):
        answer(pace, n / per_second)

    return pace


def answer(pace: Pace, now: float, *, waiting: bool = False) -> None:
    era = pace.sent(now)
    pace.withdrawn(era)
    pace.answered(era, now, waiting=waiting)


def refuse(pace: Pace, now: float, wish: float | None = None) -> None:
    era = pace.sent(now)
    pace.withdrawn(era)
    pace.refused(era, now, wish)


def fail(pace: Pace, now: float, run: str = "a") -> None:
    era = pace.sent(now)
    pace.withdrawn(era)
    pace.failed(era, run, now)


def test_a_service_that_is_well_has_no_limit():
    pace = at_work()
    assert (pace.rate, pace.may_try, pace.down) == (inf, True, False)
    assert pace.tempo.per_second(10.0) == pytest.approx(100, rel=0.02)


@given(st.floats(0, 10 * LONGEST_PAUSE), st.floats(0, 0.999))
def test_a_wish_is_a_floor_and_is_spread_upward(wish: float, chance: float):
    pace = at_work(draw=lambda: chance)
    refuse(pace, 10.0, wish)
    heeded = min(wish, LONGEST_PAUSE)
    assert heeded <= pace.not_before - 10.0 + 1e-9
    assert pace.not_before - 10.0 <= heeded * (1 + SPREAD) + 1e-9


def test_refusals_without_a_wish_back_off():
    pace = at_work()
    now, pauses = 10.0, []
    for _ in range(8):
        refuse(pace, now)
        pauses.append(pace.not_before - now)
        now = pace.not_before

    assert pauses == [0.75 * min(2.0**n, 30.0) for n in range(8)]


def test_after_a_refusal_half_the_rate_and_again_half():
    pace = at_work()
    refuse(pace, 10.0, 5.0)
    assert pace.rate == pytest.approx(50, rel=0.05)
    before = pace.rate
    refuse(pace, 16.0, 5.0)
    assert pace.rate == pytest.approx(before / 2)
    for n in range(20):
        refuse(pace, 30.0 + 6.0 * n, 5.0)

    assert pace.rate == FLOOR


def test_refusals_of_one_moment_count_once_and_the_longest_wish_holds():
    pace = at_work()
    eras = [pace.sent(10.0) for _ in range(32)]
    for n, era in enumerate(eras):
        pace.withdrawn(era)
        pace.refused(era, 10.1, 1.0 + n)

    assert pace.rate == pytest.approx(58, rel=0.1)
    assert pace.not_before == pytest.approx(10.1 + 32 * (1 + SPREAD / 2))


def test_answers_to_what_was_sent_before_a_refusal_end_no_pause():
    pace = at_work()
    late = pace.sent(10.0)
    refuse(pace, 10.0, 20.0)
    pace.withdrawn(late)
    until, rate = pace.not_before, pace.rate
    pace.answered(late, 10.5, waiting=True)
    assert (pace.not_before, pace.rate) == (until, rate)


def test_one_runs_own_trouble_is_not_the_services():
    pace = at_work()
    for n in range(1000):
        fail(pace, 10.0 + n, "sick")

    assert (pace.rate, pace.down, pace.may_try) == (inf, False, True)


def test_mixed_answers_keep_it_open():
    """Seven of eight runs are sick."""
    pace = at_work()
    for n in range(1000):
        for sick in range(MANY - 1):
            fail(pace, 10.0 + n, f"sick {sick}")

        answer(pace, 10.0 + n)

    assert (pace.rate, pace.down) == (inf, False)


def test_many_runs_in_a_row_are_the_services_trouble():
    pace = at_work()
    for n in range(MANY):
        assert not pace.down
        fail(pace, 10.0, f"run {n}")

    assert pace.down
    assert pace.not_before == 10.75
    assert pace.rate == pytest.approx(10, rel=0.05)


def test_those_that_fail_together_are_one_trouble():
    pace = at_work()
    eras = [pace.sent(10.0) for _ in range(200)]
    for n, era in enumerate(eras):
        pace.withdrawn(era)
        pace.failed(era, f"run {n}", 10.0)

    assert pace.not_before == 10.75


def down() -> Pace:
    pace = at_work()
    for n in range(MANY):
        fail(pace, 10.0, f"run {n}")

    return pace


def test_a_service_that_is_down_is_tried_by_few():
    pace = down()
    for hour in range(100):
        now = pace.not_before
        eras = []
        while pace.may_try:
            eras.append(pace.sent(now))

        assert len(eras) == TRIES
        for era in eras:
            pace.withdrawn(era)
            pace.failed(era, "a", now)

        assert pace.down
        assert now + 0.5 <= pace.not_before <= now + 30
        assert pace.may_try, hour

    assert pace.rate == pytest.approx(10, rel=0.05), "a long outage is no reason to come back slower"


def test_a_try_that_was_given_up_makes_room_for_another():
    pace = down()
    for _ in range(100):
        assert pace.may_try
        pace.withdrawn(pace.sent(pace.not_before))


def test_any_answer_shows_that_a_service_is_not_down():
    pace = at_work()
    late = pace.sent(10.0)
    for n in range(MANY):
        fail(pace, 10.0, f"run {n}")

    pace.withdrawn(late)
    pace.answered(late, 10.2, waiting=True)
    assert not pace.down
    assert pace.not_before == 10.2
    assert pace.may_try


def test_recovery_is_gradual_and_comes_to_an_end():
    pace = down()
    now = pace.not_before
    for n in range(1, 200):
        rate = pace.rate
        answer(pace, now, waiting=True)
        assert pace.rate == pytest.approx(rate + GAIN), n

    answer(pace, now + CALM + 1, waiting=True)
    assert pace.rate < inf, "it binds"
    answer(pace, now + CALM + 1)
    assert pace.rate == inf


def test_a_rate_that_is_used_in_full_grows_by_a_tenth_per_second():
    pace = down()
    now = pace.not_before
    rates = [pace.rate]
    for _ in range(30):
        for _ in range(round(rates[-1])):
            answer(pace, now, waiting=True)

        now += 1
        rates.append(pace.rate)

    assert all(later / earlier < 1.11 for earlier, later in pairwise(rates))
    assert rates[-1] > 10 * rates[0]


def test_one_sick_run_does_not_stop_a_recovery():
    pace = at_work()
    refuse(pace, 10.0, 1.0)
    for n in range(100):
        fail(pace, 12.0 + n, "sick")
        assert pace.may_try
        assert not pace.down
