"""What a run teaches, and what its polls go by: a life told by observations of the run's machine."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbg.core.hazard import EDGES, Hazard
from agentbg.core.life import Life
from agentbg.core.messages import (
    Answered,
    Attach,
    CancelAsked,
    Due,
    Observation,
    Polled,
    PollFailed,
    Started,
    Streamed,
    StreamEnded,
    WakeAt,
)
from agentbg.core.model import EventKind, RunRef
from agentbg.core.record import RunRecord
from agentbg.core.requests import InputRequest, RequestKind
from agentbg.core.run import Run
from agentbg.core.schedule import PollPolicy, StreamPolicy
from agentbg.core.status import RunStatus
from agentbg.errors import ServiceUnavailable

from .service import REF, event, record, snapshot

T0 = 1000.0
COMPLETED = RunStatus.COMPLETED
DOWN = ServiceUnavailable("503")


class Scene:
    """A run's machine, and the hazard that it teaches."""

    def __init__(self, record: RunRecord, *, schedule: str = "exponential", age: float = 0.0) -> None:
        self.hazard = Hazard()
        policy = PollPolicy(schedule=schedule, jitter=0)  # type: ignore[arg-type]
        self.run = Run(
            record, poll=policy, stream=StreamPolicy(), draw=lambda: 0.5, now=T0, age=age, hazard=self.hazard
        )

    def feed(self, seen: Observation, at: float) -> list[object]:
        return list(self.run.feed(seen, T0 + at))

    def poll(self, at: float, status: RunStatus = RunStatus.RUNNING) -> list[object]:
        self.feed(Due(), at)
        return self.feed(Polled(snapshot(status)), at)


def started(*, at: float = 0.0, **settings: str) -> Scene:
    scene = Scene(record(stream=False), **settings)  # type: ignore[arg-type]
    scene.feed(Started(snapshot()), at)
    return scene


def learned(hazard: Hazard) -> list[tuple[float, float]]:
    """What the hazard has been told."""
    return list(zip(hazard._ends, hazard._lived, strict=True))


def told(*observations: tuple[float, ...]) -> list[tuple[float, float]]:
    """What a hazard knows that was told of these lives: from, to; of those that ended, the first sight of that."""
    hazard = Hazard()
    for since, until, *end in observations:
        hazard.survived(since, until)
        if end:
            hazard.ended(until, end[0])

    return learned(hazard)


def same(hazard: Hazard, *observations: tuple[float, ...]) -> bool:
    flat = [count for pair in learned(hazard) for count in pair]
    return flat == pytest.approx([count for pair in told(*observations) for count in pair], abs=1e-9)


def test_a_run_has_ended_between_the_last_poll_that_saw_it_alive_and_the_first_that_did_not() -> None:
    scene = started()
    scene.poll(3)
    scene.poll(8)
    assert same(scene.hazard, (0, 8)), "a run that goes on counts by what it has lived"
    scene.poll(20, COMPLETED)
    assert same(scene.hazard, (0, 8, 20))


def test_its_age_counts_from_the_answer_to_its_start() -> None:
    scene = started(at=100.0)
    scene.poll(103)
    scene.poll(110, COMPLETED)
    assert same(scene.hazard, (0, 3, 10))


def test_polls_go_by_that_age_too() -> None:
    assert started(at=100.0).poll(110) == [WakeAt(T0 + 110 + 0.5 + 1.0)]


@pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.INCOMPLETE, RunStatus.CANCELLED])
def test_every_end_that_the_service_makes_is_an_end(status: RunStatus) -> None:
    scene = started()
    scene.poll(3)
    scene.poll(8, status)
    assert same(scene.hazard, (0, 3, 8))


def test_a_run_that_was_answered_at_once_teaches_nothing_about_polls() -> None:
    scene = Scene(record(stream=False))
    scene.feed(Started(snapshot(COMPLETED)), 5)
    assert scene.hazard.ends == 0


def test_a_run_whose_cancel_was_asked_for_has_lived_but_not_ended() -> None:
    scene = started()
    scene.poll(3)
    scene.feed(CancelAsked(), 5)
    scene.poll(6)
    scene.poll(7, RunStatus.CANCELLED)
    assert same(scene.hazard, (0, 3))


def test_so_has_one_whose_cancel_was_asked_for_while_it_was_started() -> None:
    scene = Scene(record(stream=False))
    scene.feed(CancelAsked(), 1)
    scene.feed(Started(snapshot()), 2)
    scene.poll(3)
    scene.poll(4, RunStatus.CANCELLED)
    assert scene.hazard.ends == 0


def test_so_has_one_that_was_taken_up_after_that() -> None:
    scene = Scene(replace(record(stream=False, ref=REF), cancel_requested=True), age=10.0)
    scene.run.begin(T0)
    scene.poll(2)
    scene.poll(4, RunStatus.CANCELLED)
    assert scene.hazard.ends == 0


def test_a_run_that_expires_has_lived_but_not_ended() -> None:
    scene = started()
    scene.poll(3)
    scene.poll(2 * 86_400.0)
    assert scene.run.record.status is RunStatus.EXPIRED
    assert scene.hazard.ends == 0


def test_nobody_knows_when_a_run_ended_whose_polls_failed() -> None:
    scene = started()
    scene.poll(3)
    scene.feed(Due(), 5)
    scene.feed(PollFailed(DOWN), 5)
    scene.poll(3600, COMPLETED)
    assert same(scene.hazard, (0, 3))


def test_one_that_is_seen_alive_again_counts_from_there() -> None:
    scene = started()
    scene.feed(Due(), 5)
    scene.feed(PollFailed(DOWN), 5)
    scene.poll(10)
    scene.poll(12, COMPLETED)
    assert same(scene.hazard, (10, 10, 12))


def test_a_run_that_was_taken_up_counts_from_the_first_sight_of_it() -> None:
    scene = Scene(record(stream=False, ref=REF), age=500.0)
    scene.run.begin(T0)
    scene.poll(2)
    scene.poll(7)
    scene.poll(9, COMPLETED)
    assert same(scene.hazard, (502, 507, 509))


def test_one_that_ended_while_nobody_looked_teaches_nothing() -> None:
    scene = Scene(record(stream=False, ref=REF), age=500.0)
    scene.run.begin(T0)
    scene.poll(2, COMPLETED)
    assert same(scene.hazard)


def test_a_run_that_is_known_by_its_token_alone_is_of_no_known_age() -> None:
    scene = Scene(replace(record(stream=False, ref=REF), request=None), age=500.0)
    scene.run.begin(T0)
    scene.poll(2)
    scene.poll(7, COMPLETED)
    assert same(scene.hazard)


def test_a_streams_end_is_seen_when_it_comes() -> None:
    scene = Scene(record(stream=True))
    scene.feed(Streamed([event(EventKind.STATUS, 0, status="queued")]), 1)
    scene.feed(Streamed([event(EventKind.TEXT, 1, "Hello")]), 20)
    scene.feed(Streamed([event(EventKind.END, 2, status="completed")]), 20.5)
    assert same(scene.hazard, (0, 19.5, 19.5))


def test_a_round_is_a_life_of_its_own() -> None:
    """It ends when it asks for something; while its user thinks nobody lives; the next is born when it has a name."""
    scene = started()
    scene.poll(3)
    scene.feed(Due(), 8)
    asks = replace(snapshot(RunStatus.INPUT_REQUIRED), requests=(InputRequest("c1", RequestKind.CALL, "look", "{}"),))
    scene.feed(Polled(asks), 8)
    assert same(scene.hazard, (0, 3, 8))
    request = scene.run.response.requests[0]
    scene.feed(Answered([request.answer("seen")]), 1000)
    scene.feed(Started(snapshot(ref=RunRef("model", "here", {"id": "run_2"}))), 1002)
    assert scene.poll(1012) == [WakeAt(T0 + 1012 + 0.5 + 1.0)]
    scene.poll(1014, COMPLETED)
    assert same(scene.hazard, (0, 3, 8), (0, 10, 12))


def test_adaptive_polls_go_by_what_is_known() -> None:
    scene = started(schedule="adaptive")
    before = scene.poll(10)
    for _ in range(200):
        scene.hazard.survived(0, 300)

    after = scene.poll(10)
    assert before[-1].at + 10 < after[-1].at  # type: ignore[attr-defined]


def test_a_run_that_nobody_wants_to_learn_from_is_polled_all_the_same() -> None:
    run = Run(
        record(stream=False), poll=PollPolicy(schedule="adaptive"), stream=StreamPolicy(), draw=lambda: 0.5, now=T0
    )
    run.feed(Started(snapshot()), T0)
    run.feed(Due(), T0 + 5)
    (wake,) = run.feed(Polled(snapshot()), T0 + 5)
    assert isinstance(wake, WakeAt)


def test_a_taken_up_run_is_polled_soon_whatever_its_age() -> None:
    scene = Scene(record(stream=False, ref=REF), age=5000.0)
    assert scene.run.begin(T0) == [WakeAt(T0 + 1.0)]


def test_many_streams_cut_at_one_instant_come_back_apart_and_none_feels_it() -> None:
    pauses, draw = list[float](), random.Random(1).random
    for _ in range(1000):
        run = Run(record(stream=True), poll=PollPolicy(), stream=StreamPolicy(), draw=draw, now=T0)
        run.feed(Streamed([event(EventKind.STATUS, 0, status="queued")]), T0)
        attach = run.feed(StreamEnded(DOWN), T0 + 1)[0]
        assert isinstance(attach, Attach)
        pauses.append(attach.pause)

    assert max(pauses) <= 0.1
    assert 0.04 < sum(pauses) / len(pauses) < 0.06
    assert max(pauses.count(pause) for pause in pauses) == 1


def test_a_first_connection_waits_for_nothing() -> None:
    run = Run(record(stream=True), poll=PollPolicy(), stream=StreamPolicy(), draw=lambda: 0.5, now=T0)
    attach = next(each for each in run.feed(Started(snapshot()), T0) if isinstance(each, Attach))
    assert attach.pause == 0


STEPS = st.lists(st.tuples(st.sampled_from(["hear", "live", "over", "lose", "begin", "stop"]), st.floats(0, 100)))


@given(steps=STEPS, known=st.booleans())
def test_no_time_is_counted_twice_and_no_life_ends_twice(steps: list[tuple[str, float]], known: bool) -> None:
    hazard = Hazard()
    life = Life(record(stream=False) if known else replace(record(), request=None), hazard, 0.0, 0.0)
    now, begun = 0.0, 0
    for step, pause in steps:
        now += pause
        match step:
            case "hear":
                life.hear(now)
            case "live" | "over":
                life.show(now, live=step == "live")
            case "lose":
                life.lose_sight()
            case "begin":
                life.begin(now)
                begun += 1
            case _:
                life.stop()

    middles = [(low + high) / 2 for low, high in pairwise(EDGES)] + [EDGES[-1]]
    lived = sum(units * middle for units, middle in zip(hazard._lived, middles, strict=True))
    assert lived <= now + 1e-6
    assert hazard.ends <= sum(step == "over" for step, _ in steps) + 1e-6
