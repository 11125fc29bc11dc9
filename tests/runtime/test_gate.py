"""The gate: cancelled at every step of the event loop, those who wait lose nothing, and leave nothing behind."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from agentbg import RequestBudget, ServiceUnavailable
from agentbg.core.budget import Allowance
from agentbg.core.turns import Kind
from agentbg.gate import Gate, Gates, Passage
from agentbg.testing import ScriptedProvider, VirtualClock, virtual_time

from .stepped import cancel_at, run_stepped

REFUSED = ServiceUnavailable("too many", status_code=429, retry_after=20.0, unsent=True)


def gate(**budget) -> Gate:
    return Gate(Allowance(RequestBudget(**budget), lambda: 0.5), VirtualClock())


def now() -> float:
    return asyncio.get_running_loop().time()


class Traffic:
    """Requests through one gate, and when they were sent."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.sent: list[tuple[str, float]] = []
        self.tasks: list[asyncio.Future[None]] = []

    async def request(self, name: str, kind: Kind = Kind.START, *, seconds: float = 0.01) -> None:
        async with self.gate.turn(kind, name):
            self.sent.append((name, now()))
            await asyncio.sleep(0)
            await asyncio.sleep(seconds)

    def poll(self, name: str) -> Passage | None:
        return self.gate.ask(name, 5.0, lambda passage: self.polled(name, passage))

    def polled(self, name: str, passage: Passage) -> None:
        async def send() -> None:
            async with passage:
                self.sent.append((name, now()))
                await asyncio.sleep(0.01)

        self.tasks.append(asyncio.ensure_future(send()))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.sent]


def test_cancelled_anywhere_nobody_else_loses_a_turn():
    """One of five is cancelled at each step there is, in each place of the line; a poll without a task waits, too."""

    async def scene(step: int, place: int) -> bool:
        traffic = Traffic(gate(per_second=10, burst=1, in_flight=2))
        others = [asyncio.ensure_future(traffic.request(f"before {n}")) for n in range(place)]
        await asyncio.sleep(0)
        poll = traffic.poll("poll")
        assert (poll is None) == (place == 0)
        behind: list[asyncio.Future[None]] = []

        def come_later() -> None:
            behind.extend(asyncio.ensure_future(traffic.request(f"behind {n}")) for n in range(3))

        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, come_later)
        task = await cancel_at(step, traffic.request("victim"))
        await asyncio.sleep(0.01)
        await asyncio.gather(*others, *behind)
        await asyncio.sleep(1)
        await asyncio.gather(*traffic.tasks)
        assert sorted(set(traffic.names) - {"victim"}) == sorted(
            [*(f"before {n}" for n in range(place)), *(f"behind {n}" for n in range(3)), "poll"]
        )
        times = [at for _, at in traffic.sent]
        assert times[-1] <= len(times) * 0.1 + 0.3
        stats = traffic.gate.stats("p", "e")
        assert (stats.in_flight, stats.waiting) == (0, 0)
        assert stats.sent["start"] + stats.sent["poll"] == len(times)
        return task is None

    for place in range(3):
        for step in count(1):
            ended: list[bool] = []

            async def act(step: int = step, place: int = place, ended: list[bool] = ended) -> None:
                ended.append(await scene(step, place))

            run_stepped(act())
            if ended[0]:
                break

        assert step > 5


@virtual_time
async def test_ten_thousand_who_are_cancelled_at_once_leave_at_once():
    through = gate(per_second=1)
    traffic = Traffic(through)
    waiting = [asyncio.ensure_future(traffic.request(str(n))) for n in range(10_000)]
    await asyncio.sleep(0)
    last = asyncio.ensure_future(traffic.request("last"))
    await asyncio.sleep(0)
    assert through.stats("p", "e").waiting == 10_000
    for task in waiting:
        task.cancel()

    await asyncio.gather(*waiting, return_exceptions=True)
    assert through.stats("p", "e").waiting == 1
    await last
    assert traffic.sent[-1] == ("last", 1.0)


@virtual_time
async def test_a_turn_that_was_called_and_cancelled_in_the_same_moment_goes_to_the_next():
    """At one request per second, nobody waits a second longer for somebody who never was."""
    through = gate(per_second=1)
    traffic = Traffic(through)
    await traffic.request("first")
    second, third = (asyncio.ensure_future(traffic.request(name)) for name in ("second", "third"))
    asyncio.get_running_loop().call_at(1.0, second.cancel)  # set after the gate's own timer: it comes after the call
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_at(1.0, second.cancel)
    await asyncio.wait({second, third})
    assert second.cancelled()
    assert traffic.sent == [("first", 0.0), ("third", 1.0)]


@virtual_time
async def test_a_pause_that_comes_while_they_wait_turns_away_the_hasty():
    through = gate(in_flight=1)

    async def request(patience: float) -> None:
        async with through.turn(Kind.START, "a", patience):
            pass

    async def refused() -> None:
        async with through.turn(Kind.POLL, "b"):
            await asyncio.sleep(1)
            raise REFUSED

    first = asyncio.ensure_future(refused())
    await asyncio.sleep(0)
    hasty, patient = asyncio.ensure_future(request(5.0)), asyncio.ensure_future(request(60.0))
    with pytest.raises(ServiceUnavailable):
        await first

    with pytest.raises(ServiceUnavailable, match="Not sent, since the service is in trouble: too many"):
        await hasty

    assert now() == 1.0
    await patient
    assert now() >= 21.0


@virtual_time
async def test_a_closed_gate_calls_nobody():
    through = gate(per_second=1)
    traffic = Traffic(through)
    await traffic.request("first")
    waits = traffic.poll("poll")
    assert waits is not None
    through.close()
    await asyncio.sleep(10)
    waits.leave()
    assert traffic.names == ["first"]


@virtual_time
async def test_nobody_who_waits_means_no_timer():
    through = gate(per_second=1)
    for _ in range(5):
        await Traffic(through).request("a")

    assert through._timer is None


@virtual_time
async def test_a_gate_for_each_service_and_key():
    gates = Gates(RequestBudget(), VirtualClock(), lambda: 0.5)
    one, same, other, foreign = (ScriptedProvider(endpoint=name) for name in ("a", "a", "b", "a"))
    foreign.credential = "another"
    assert gates.of(one) is gates.of(same)
    assert len({gates.of(each) for each in (one, same, other, foreign)}) == 3
