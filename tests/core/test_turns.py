"""Whose turn it is: fair by weight, starvation-free, and quick."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbg.core.turns import Kind, Line, Turns

INTERVALS = st.floats(min_value=0.01, max_value=1000)


def in_turn(intervals: dict[str, float], turns: int) -> list[str]:
    """Who goes, when all come back as soon as they went."""
    line: Line[str] = Line()
    for who, interval in intervals.items():
        line.join(who, interval)

    gone: list[str] = []
    for _ in range(turns):
        who = line.pop()
        gone.append(who)
        line.join(who, intervals[who])

    return gone


def test_equal_intervals_go_in_the_order_of_their_coming():
    line: Line[int] = Line()
    for who in range(100):
        line.join(who, 5.0)

    assert [line.pop() for _ in range(100)] == list(range(100))


def test_turns_are_in_proportion_to_the_frequency():
    """Each run's interval is stretched by the same factor."""
    intervals = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0}
    turns = Counter(in_turn(intervals, 15_000))
    assert [turns[who] for who in "abcd"] == pytest.approx([8000, 4000, 2000, 1000], abs=4)


@given(st.lists(INTERVALS, min_size=2, max_size=8), st.integers(0, 100))
def test_nobody_starves(intervals: list[float], served: int):
    """One with an interval of d lets at most d/e + 1 turns of each other go first."""
    named = {str(n): interval for n, interval in enumerate(intervals)}
    gone = in_turn(named, 400)[served:]
    for who, interval in named.items():
        places = [place for place, each in enumerate(gone) if each == who]
        for begin, end in pairwise(places):
            between = Counter(gone[begin + 1 : end])
            for other, turns in between.items():
                assert turns <= interval / named[other] * (1 + 1e-9) + 1 + 1e-6


@given(st.lists(st.tuples(INTERVALS, st.booleans()), max_size=200))
def test_those_who_leave_lose_nobodys_turn(comers: list[tuple[float, bool]]):
    left: Line[int] = Line()
    alone: Line[int] = Line()
    for who, (interval, stays) in enumerate(comers):
        left.join(who, interval)
        if stays:
            alone.join(who, interval)

    for who, (_, stays) in enumerate(comers):
        if not stays:
            assert left.leave(who)
            assert not left.leave(who)

    assert len(left) == len(alone)
    assert [left.pop() for _ in range(len(left))] == [alone.pop() for _ in range(len(alone))]
    with pytest.raises(IndexError):
        left.pop()


def test_kinds_that_wait_take_turns():
    turns: Turns[tuple[Kind, int]] = Turns()
    for kind in reversed(Kind):
        for n in range(3):
            turns.join(kind, (kind, n), 7.0 if kind is Kind.POLL else 0.0)

    gone = [turns.pop() for _ in range(len(turns))]
    assert [kind for kind, _ in gone] == 3 * list(Kind)
    assert all([n for each, n in gone if each is kind] == [0, 1, 2] for kind in Kind)
    with pytest.raises(IndexError):
        turns.pop()


@given(st.sampled_from(Kind), st.lists(st.sampled_from(Kind), max_size=60))
def test_a_single_request_lets_at_most_four_go_first(kind: Kind, others: list[Kind]):
    turns: Turns[object] = Turns()
    for n, each in enumerate(others):
        if each is not kind:
            turns.join(each, (each, n))

    for _ in range(len(turns) // 2):
        turns.pop()

    turns.join(kind, "me", 1000.0)
    before = 0
    while turns.pop() != "me":
        before += 1

    assert before <= 4


def test_ten_thousand_cancels_leave_half_of_the_turns_to_the_polls():
    turns: Turns[tuple[Kind, int]] = Turns()
    for n in range(10_000):
        turns.join(Kind.CANCEL, (Kind.CANCEL, n))

    for n in range(100):
        turns.join(Kind.POLL, (Kind.POLL, n), 2.0)

    first = Counter(kind for kind, _ in (turns.pop() for _ in range(200)))
    assert first == {Kind.CANCEL: 100, Kind.POLL: 100}


def test_a_turn_costs_little_in_a_long_line():
    """O(log n): far under the 10 µs that a decision of the scheduler may cost; the bound is for slow machines."""
    line: Line[int] = Line()
    for who in range(100_000):
        line.join(who, 1.0 + who % 100)

    began = perf_counter()
    for _ in range(20_000):
        line.join(line.pop(), 5.0)

    assert (perf_counter() - began) / 20_000 < 100e-6
