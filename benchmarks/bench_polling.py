"""Polls per run against the delay in seeing its end: the library's schedules, what others do, and the exact optimum.

    python -m benchmarks.bench_polling [--quick]

A simulation in virtual time that drives the library's own `PollPolicy` and `Hazard`. W1: lifetimes of a lognormal
distribution with a median of 60 s and sigma 1. W2: 80 % chats (8 s, 0.7) and 20 % deep research (600 s, 0.6). The cost
of a run is its mean delay, and 0.2 s for each poll. The optimum is computed by dynamic programming from the true
distribution, which no policy knows.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agentbg import PollPolicy
from agentbg.core.hazard import UNKNOWN, Hazard

from .polling import POLL_COST, W1, W2, Outcome, Workload, expected, follow, learn, matching, optimum, poll

WORKLOADS = (W1, W2)
ADAPTIVE = PollPolicy(schedule="adaptive")
FIXED_2 = PollPolicy(schedule="fixed", initial=2.0)
OTHERS = {
    "fixed 1 s (openai-python's *_and_poll)": PollPolicy(schedule="fixed", initial=1.0),
    "fixed 2 s (OpenAI's guide, pydantic-ai, agno)": FIXED_2,
    "fixed 30 s (azure-core)": PollPolicy(schedule="fixed", initial=30.0),
    "exponential x1.5 from 1 s, cap 20 (google-api-core)": PollPolicy(initial=1.0, growth=0.5, maximum=20.0),
    "exponential x2 from 1 s, cap 60": PollPolicy(initial=1.0, growth=1.0, maximum=60.0),
}
LEARNED = (0, 30, 100)
POLL_COSTS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Point:
    """One policy on one workload: means over the seeds."""

    workload: str
    policy: str
    polls: float
    """Per run."""
    delay: float
    """Its mean, in seconds; `p95` is its 95th percentile, None where only the mean was computed."""
    p95: float | None
    poll_cost: float | None = None
    """What the policy takes a poll to be worth, in seconds; None for one that does not ask."""
    learned: int | None = None
    """How many finished runs it had learned from."""
    worst: float = 0.0
    """The highest cost of any seed."""

    @property
    def cost(self) -> float:
        """With polls at 0.2 s."""
        return POLL_COST * self.polls + self.delay


@dataclass(frozen=True)
class Match:
    """At the mean delay of `fixed`: how many polls adaptive needs after 100 runs, and how many the optimum."""

    fixed: Point
    adaptive: Point
    optimum: Point


@dataclass(frozen=True)
class Results:
    """All that is measured here."""

    runs: int
    seeds: int
    points: Sequence[Point]
    optima: Sequence[Point]
    """At a poll cost of 0.2 s, one per workload: exact."""
    curve: Sequence[Point]
    """The optimum over poll costs, both workloads: exact."""
    adaptive: Sequence[Point]
    """Adaptive after 100 runs over poll costs, both workloads."""
    match: Match
    decision: float
    """Seconds of CPU to tell a hazard of a poll, and to decide on the next: the median of some rounds."""

    def ratio(self, point: Point) -> float:
        """A point's cost in that of the optimum."""
        return point.cost / next(best.cost for best in self.optima if best.workload == point.workload)


def results(quick: bool = False) -> Results:
    """Measure everything; a `quick` one is rough, and takes a few seconds."""
    runs, seeds = (1000, 2) if quick else (20_000, 5)
    points, adaptive = list[Point](), list[Point]()
    for workload in WORKLOADS:
        ends = workload.even(runs)
        for name, policy in OTHERS.items():
            points.append(_point(workload, name, [poll(policy, ends)]))

        points.append(_point(workload, "agentbg exponential (the default)", [poll(PollPolicy(), ends)]))
        for count in LEARNED:
            points.append(adaptive_after(count, workload, ends, seeds))

        going = [learn(ADAPTIVE, workload.random(runs, seed), every=0.1, seed=seed)[1] for seed in range(min(seeds, 2))]
        points.append(_point(workload, "agentbg adaptive, learning as it goes", going, poll_cost=POLL_COST))
        few = workload.even(min(runs, 2000))
        adaptive += [adaptive_after(100, workload, few, 2, cost) for cost in POLL_COSTS]

    return Results(
        runs,
        seeds,
        points,
        [_best(workload, POLL_COST) for workload in WORKLOADS],
        [_best(workload, cost) for workload in WORKLOADS for cost in POLL_COSTS],
        adaptive,
        match(W2, runs, min(seeds, 3)),
        decision(),
    )


def adaptive_after(
    count: int, workload: Workload, ends: Sequence[float], seeds: int, poll_cost: float = POLL_COST
) -> Point:
    """Adaptive once it has learned from so many runs, which were others in each seed."""
    policy = replace(ADAPTIVE, poll_cost_seconds=poll_cost)
    outcomes = [poll(policy, ends, taught(policy, workload, count, seed), seed=seed) for seed in range(seeds)]
    return _point(workload, f"agentbg adaptive after {count} runs", outcomes, poll_cost=poll_cost, learned=count)


def taught(policy: PollPolicy, workload: Workload, count: int, seed: int) -> Hazard:
    """What the polls of so many runs have taught."""
    return learn(policy, workload.random(count, seed), seed=seed)[0] if count else UNKNOWN


def match(workload: Workload, runs: int, seeds: int) -> Match:
    """Adaptive after 100 runs with the poll cost that gives the mean delay of polls every 2 s, and so the optimum."""
    ends, few = workload.even(runs), workload.even(min(runs, 2000))
    fixed = _point(workload, "fixed 2 s", [poll(FIXED_2, ends)])
    outcomes, costs = list[Outcome](), list[float]()
    for seed in range(seeds):
        hazard = taught(ADAPTIVE, workload, 100, seed)
        policy = matching(ADAPTIVE, few, hazard, fixed.delay)
        outcomes.append(poll(policy, ends, hazard, seed=seed))
        costs.append(policy.poll_cost_seconds)

    cost = statistics.mean(costs)
    adaptive = _point(workload, "agentbg adaptive after 100 runs", outcomes, poll_cost=cost, learned=100)
    low, high = 0.001, 1.0
    for _ in range(20):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if _best(workload, middle).delay > fixed.delay else (middle, high)

    return Match(fixed, adaptive, _best(workload, low))


def decision(rounds: int = 5, polls: int = 20_000) -> float:
    """CPU seconds per poll of what decides on the next."""
    hazard, draw = taught(ADAPTIVE, W2, 100, 0), random.Random(0).random
    ages = W2.random(polls, 1)
    spent = list[float]()
    for _ in range(rounds):
        since = time.process_time()
        for age in ages:
            hazard.survived(age, age + 1)
            ADAPTIVE.interval(age, draw, None, hazard)

        spent.append((time.process_time() - since) / polls)

    return statistics.median(spent)


def _best(workload: Workload, poll_cost: float) -> Point:
    outcome = expected(workload, optimum(workload, poll_cost))
    at = follow(optimum(workload, poll_cost), workload.even(5000)) if poll_cost == POLL_COST else None
    return Point(workload.name, "exact optimum", outcome.polls, outcome.delay, at.p95 if at else None, poll_cost)


def _point(
    workload: Workload,
    name: str,
    outcomes: Sequence[Outcome],
    *,
    poll_cost: float | None = None,
    learned: int | None = None,
) -> Point:
    polls, delay, p95 = (
        statistics.mean(values)
        for values in zip(*((each.polls, each.delay, each.p95) for each in outcomes), strict=True)
    )
    worst = max(outcome.cost() for outcome in outcomes)
    return Point(workload.name, name, polls, delay, p95, poll_cost, learned, worst)


def main() -> None:
    measured = results("--quick" in sys.argv[1:])
    print(f"{measured.runs:,} runs per row, {measured.seeds} seeds of what was learned\n")
    print(f"| {'workload and policy':<55} | polls | mean delay | p95 delay | cost | of the optimum's | worst seed |")
    print(f"|{'-' * 57}|------:|-----------:|----------:|-----:|-----------------:|-----------:|")
    for name in (workload.name for workload in WORKLOADS):
        best = next(point for point in measured.optima if point.workload == name)
        for point in [*(point for point in measured.points if point.workload == name), best]:
            worst = f"{point.worst / best.cost:.3f}" if point.learned is not None else ""
            print(
                f"| {name + ' ' + point.policy:<55} | {point.polls:>5.1f} | {point.delay:>8.2f} s "
                f"| {point.p95:>7.1f} s | {point.cost:>4.1f} | {measured.ratio(point):>16.3f} | {worst:>10} |"
            )

    fixed, adaptive, best = measured.match.fixed, measured.match.adaptive, measured.match.optimum
    print(
        f"\nW2 at the delay of polls every 2 s ({fixed.delay:.2f} s, {fixed.polls:.1f} polls): adaptive after 100 runs "
        f"needs {adaptive.polls:.1f} polls ({adaptive.polls / fixed.polls:.0%}; {adaptive.delay:.2f} s), the optimum "
        f"{best.polls:.1f} ({best.polls / fixed.polls:.0%})."
    )
    print(f"A decision takes {measured.decision * 1e6:.1f} µs of CPU.")


if __name__ == "__main__":
    main()
