"""What the schedules are to achieve, on the workloads of `benchmarks.bench_polling`, smaller: seeded, and so exact."""

from __future__ import annotations

import pytest

from agentbg import PollPolicy
from benchmarks.bench_polling import ADAPTIVE, adaptive_after, match
from benchmarks.polling import W1, W2, Workload, expected, follow, learn, optimum, poll

BOTH = pytest.mark.parametrize("workload", [W1, W2], ids=["W1", "W2"])
RUNS = 1000


@BOTH
def test_the_optimum_is_what_it_is_said_to_be(workload: Workload) -> None:
    plan = optimum(workload)
    exact = expected(workload, plan)
    assert exact.cost() == pytest.approx({"W1": 6.19, "W2": 5.35}[workload.name], abs=0.01)
    assert follow(plan, workload.even(20_000)).cost() == pytest.approx(exact.cost(), rel=0.005)
    for stretch in (0.97, 1.03):
        assert expected(workload, [age * stretch for age in plan]).cost() > exact.cost()


@BOTH
def test_adaptive_is_within_8_percent_of_the_optimum_after_100_runs(workload: Workload) -> None:
    best = expected(workload, optimum(workload)).cost()
    known = adaptive_after(100, workload, workload.even(RUNS), seeds=4)
    assert known.cost < 1.07 * best
    assert known.worst < 1.10 * best


@BOTH
def test_it_is_better_than_any_other_after_30_and_bearable_with_no_history_at_all(workload: Workload) -> None:
    ends = workload.even(RUNS)
    best = expected(workload, optimum(workload)).cost()
    assert adaptive_after(30, workload, ends, seeds=4).cost < 1.15 * best < poll(PollPolicy(), ends).cost()
    assert adaptive_after(0, workload, ends, seeds=1).cost < 1.40 * best


def test_at_the_delay_of_polls_every_2_seconds_it_needs_at_most_55_percent_of_them() -> None:
    found = match(W2, RUNS, seeds=2)
    assert found.adaptive.delay < 1.05 * found.fixed.delay
    assert found.adaptive.polls < 0.53 * found.fixed.polls


@BOTH
def test_a_fleet_that_starts_with_no_history_learns_as_it_goes(workload: Workload) -> None:
    """Most of its runs go on while the first end: were they left out, all would be taken for short."""
    hazard, outcome = learn(ADAPTIVE, workload.random(2000, 1), every=0.1)
    assert outcome.cost() < 1.15 * expected(workload, optimum(workload)).cost()
    median = sorted(workload.even(RUNS))[RUNS // 2]
    assert hazard.remaining(0) == pytest.approx(median, rel=0.15)
