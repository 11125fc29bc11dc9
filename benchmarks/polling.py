"""Polling in theory: lifetimes of runs, the exact optimum, and the library's own policies against them.

Pure, in virtual time, without sockets: `bench_polling` prints what this computes, and tests hold the library to it.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, inf, log
from statistics import NormalDist

from agentbg import PollPolicy
from agentbg.core.hazard import UNKNOWN, Hazard
from agentbg.core.life import Life
from agentbg.core.model import StartRequest
from agentbg.core.record import RunRecord

_normal = NormalDist().cdf
POLL_COST = 0.2
"""Seconds: how long a wait one poll is worth."""
HORIZON = 30_000.0
"""Seconds after which practically every run of the workloads has ended."""
_RECORD = RunRecord("run", "agent", "simulated", "here", stream=False, created_at=0.0, request=StartRequest(()))


@dataclass(frozen=True)
class Part:
    """A share of the runs, with lifetimes of a lognormal distribution."""

    share: float
    median: float
    sigma: float


@dataclass(frozen=True)
class Workload:
    """A mixture of lognormal lifetimes, in seconds."""

    name: str
    parts: Sequence[Part]

    def random(self, runs: int, seed: int) -> list[float]:
        """Lifetimes as they come."""
        chance = random.Random(f"{self.name} {seed}")
        weights = [part.share for part in self.parts]
        chosen = chance.choices(self.parts, weights, k=runs)
        return [chance.lognormvariate(log(part.median), part.sigma) for part in chosen]

    def even(self, runs: int) -> list[float]:
        """Lifetimes of equal likelihood, one from each of so many parts of the distribution: a mean over them is that
        over many more random ones."""
        lifetimes = list[float]()
        for part in self.parts:
            count = round(runs * part.share)
            normal = NormalDist(log(part.median), part.sigma)
            lifetimes += [exp(normal.inv_cdf((place + 0.5) / count)) for place in range(count)]

        return lifetimes

    def ended(self, age: float) -> float:
        """The share of the runs that have ended by this age."""
        return sum(part.share * _normal(log(age / part.median) / part.sigma) for part in self.parts) if age > 0 else 0.0

    def lived(self, age: float) -> float:
        """The lifetimes of those, summed up, per run."""
        if age <= 0:
            return 0.0

        return sum(
            part.share
            * part.median
            * exp(part.sigma**2 / 2)
            * _normal(log(age / part.median) / part.sigma - part.sigma)
            for part in self.parts
        )


W1 = Workload("W1", (Part(1.0, 60.0, 1.0),))
W2 = Workload("W2", (Part(0.8, 8.0, 0.7), Part(0.2, 600.0, 0.6)))
"""Chats, and deep research."""


@dataclass(frozen=True)
class Outcome:
    """What polling by some policy comes to, per run. A delay is the time from a run's end to the poll that sees it."""

    polls: float
    delay: float
    p95: float

    def cost(self, poll_cost: float = POLL_COST) -> float:
        return poll_cost * self.polls + self.delay


# --- the optimum ---


def optimum(workload: Workload, poll_cost: float = POLL_COST) -> list[float]:
    """The ages at which to poll for the least expected cost, by dynamic programming over a grid of ages.

    From the last age down: the cost from an age on, times the share of the runs that reach it, is the least, over the
    next age to poll at, of the poll, the delay of those that end in between, and the cost from there on. The best next
    age never falls with the age (the cost has the Monge property), so the search is short.
    """
    ages = [0.0]
    while ages[-1] < HORIZON:
        ages.append(ages[-1] + 0.02 + 0.002 * ages[-1])

    ended, lived = [workload.ended(age) for age in ages], [workload.lived(age) for age in ages]
    last = len(ages) - 1
    costs, following = [0.0] * len(ages), [last] * len(ages)
    for here in range(last - 1, -1, -1):
        best = inf
        for there in range(here + 1, following[here + 1] + 1):
            cost = ages[there] * (ended[there] - ended[here]) - (lived[there] - lived[here]) + costs[there]
            if cost < best:
                best, following[here] = cost, there

        costs[here] = best + poll_cost * (1 - ended[here])

    plan, here = list[float](), 0
    while here < last:
        here = following[here]
        plan.append(ages[here])

    return plan


def expected(workload: Workload, plan: Sequence[float]) -> Outcome:
    """What polls at these ages come to: exactly, but for the percentile, which is not computed."""
    polls = sum(1 - workload.ended(age) for age in (0.0, *plan[:-1]))
    delay, before = 0.0, 0.0
    for age in plan:
        delay += age * (workload.ended(age) - workload.ended(before)) - (workload.lived(age) - workload.lived(before))
        before = age

    return Outcome(polls, delay, float("nan"))


def follow(plan: Sequence[float], lifetimes: Sequence[float]) -> Outcome:
    """What polls at these ages come to for these very runs."""
    places = [bisect_left(plan, lifetime) for lifetime in lifetimes]
    return _outcome(
        sum(place + 1 for place in places),
        [plan[place] - lifetime for place, lifetime in zip(places, lifetimes, strict=True)],
    )


# --- the library's policies ---


def poll(policy: PollPolicy, lifetimes: Sequence[float], hazard: Hazard = UNKNOWN, *, seed: int = 0) -> Outcome:
    """Poll these runs by what is known, and learn nothing from them."""
    draw = random.Random(seed).random
    polls, delays = 0, list[float]()
    for lifetime in lifetimes:
        age = policy.first(draw, None, hazard)
        polls += 1
        while age < lifetime:
            age += policy.interval(age, draw, None, hazard)
            polls += 1

        delays.append(age - lifetime)

    return _outcome(polls, delays)


def learn(
    policy: PollPolicy, lifetimes: Sequence[float], *, every: float = inf, seed: int = 0
) -> tuple[Hazard, Outcome]:
    """Submit a run `every` so many seconds, and poll each by what the polls of all have told so far.

    With the default the next run is submitted when the one before has ended.
    """
    draw, hazard = random.Random(seed).random, Hazard()
    waiting = list(enumerate(lifetimes))[::-1]
    due: list[tuple[float, int, Life, float]] = []
    now, polls, delays = 0.0, 0, list[float]()
    while waiting or due:
        start = (len(lifetimes) - len(waiting)) * every if every < inf else now
        if waiting and (not due or start <= due[0][0]) and (every < inf or not due):
            now = start
            number, lifetime = waiting.pop()
            life = Life(_RECORD, hazard, now, now)
            life.begin(now)
            heapq.heappush(due, (now + policy.first(draw, None, hazard), number, life, now + lifetime))
            continue

        now, number, life, end = heapq.heappop(due)
        polls += 1
        life.show(now, live=now < end)
        if now < end:
            age = now - life.began
            heapq.heappush(due, (now + policy.interval(age, draw, None, hazard), number, life, end))
        else:
            delays.append(now - end)

    return hazard, _outcome(polls, delays)


def matching(policy: PollPolicy, lifetimes: Sequence[float], hazard: Hazard, delay: float) -> PollPolicy:
    """The policy with the poll cost at which the mean delay comes to `delay`: it grows with the cost's square root."""
    for _ in range(4):
        now = poll(policy, lifetimes, hazard).delay
        policy = replace(policy, poll_cost_seconds=policy.poll_cost_seconds * (delay / now) ** 2)

    return policy


def _outcome(polls: int, delays: list[float]) -> Outcome:
    runs = len(delays)
    return Outcome(polls / runs, sum(delays) / runs, sorted(delays)[int(0.95 * runs)])
