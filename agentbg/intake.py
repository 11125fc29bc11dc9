"""Which runs a runtime drives: those that it starts, and those of its store whose agents it knows, each once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any
from weakref import WeakKeyDictionary

from .agent import Agent
from .core.record import RunRecord
from .core.run import Run
from .core.schedule import Draw, PollPolicy, StreamPolicy
from .core.status import RunStatus
from .core.token import ContinuationToken
from .driver import Driver
from .errors import UsageError
from .gate import Gates
from .journal import open_journal
from .learning import Learning
from .live import LiveRun, Ways, heard, outlast
from .options import AgentRunOptions
from .progress import Remaining
from .providers.base import Cap, Provider
from .stores.base import Store
from .terms import Terms
from .thread import AgentThread

ENOUGH = 10
"""Ends of runs that a hazard must go by before an ETA does."""
_LIVE = frozenset(status for status in RunStatus if status.live)


@dataclass(frozen=True, slots=True)
class Policies:
    """How all runs of a runtime are driven."""

    poll: PollPolicy
    stream: StreamPolicy
    draw: Draw
    terms: Terms
    webhooks: bool
    """True when services that can are to say by themselves when a run ends."""


class Intake:
    """Makes records into runs that are driven."""

    def __init__(
        self,
        store: Store,
        driver: Driver,
        policies: Policies,
        gates: Gates,
        learning: Learning,
        agents: Iterable[Agent[Any]],
    ) -> None:
        self.agents: dict[str, Agent[Any]] = {}
        """Those that are known, by name: the first of each."""
        self._store, self._driver, self._policies = store, driver, policies
        self._gates, self._learning = gates, learning
        self._clock = driver.clock
        self._ways: WeakKeyDictionary[Agent[Any], Ways] = WeakKeyDictionary()  # an agent may be made for one run only
        self._taking: dict[Hashable, asyncio.Future[LiveRun]] = {}
        for agent in agents:
            if self.register(agent) is not agent:
                raise UsageError(
                    f"Two agents are named {agent.name!r}, and stored runs find theirs by name: pass Agent(…, name=…)."
                )

    def register(self, agent: Agent[Any]) -> Agent[Any]:
        """Know an agent from now on; the one that is known by its name."""
        return self.agents.setdefault(agent.name, agent)

    def remaining(self, agent: Agent[Any], options: AgentRunOptions | None) -> Remaining | None:
        """How long runs of this agent still take, as far as it was learned; None for runs on another model."""
        if options is not None and "model" in options.extra:
            return None

        hazard = self._learning.of(agent, agent.record(None, 0.0, None))
        return lambda age: hazard.remaining(age) if hazard.ends >= ENOUGH else None

    def providers(self) -> list[Provider]:
        """Of the agents that are known."""
        return [agent.provider for agent in self.agents.values()]

    async def aclose(self) -> None:
        """Wait for the runs on their way: once the store is another's, they are not to be taken."""
        await outlast(set(self._taking.values()))

    async def take_up_all(self) -> None:
        """Go on with what an earlier runtime left unfinished, as far as the agents are known."""
        records = await self._store.list(statuses=_LIVE)
        await asyncio.gather(*(self.take_up(record) for record in records))

    async def take_up(self, record: RunRecord, agent: Agent[Any] | None = None) -> LiveRun:
        """The run behind a stored record, driven if it is live and its agent is known."""
        live = self._driver.runs.get(record.id)
        if live is not None:
            return live

        agent = agent or self._agent_of(record)
        if agent is None or record.status.terminal:
            return self.live(record, agent)

        return await self._once(record.id, lambda: self._acquire(record.id, agent))

    async def resume(self, token: ContinuationToken, agent: Agent[Any], thread: AgentThread | None) -> LiveRun:
        """The run behind a token."""
        service = (token.ref.provider, token.ref.endpoint, token.ref.id)
        return await self._once(service, lambda: self._adopt(token, agent, thread))

    async def _once(self, key: Hashable, take: Callable[[], Coroutine[Any, Any, LiveRun]]) -> LiveRun:
        """What `take` gives: to all who ask meanwhile, too, and to its end, also when whoever asked is cancelled.

        A run taken up twice at once would be two: a second owner fences off the first.
        """
        taking = self._taking.get(key)
        if taking is None:
            self._driver.require_open()  # whoever closes it waits for those that are under way, and there are no more
            taking = self._taking[key] = asyncio.ensure_future(take())
            taking.add_done_callback(lambda _: self._taking.pop(key, None))
            taking.add_done_callback(heard)

        return await asyncio.shield(taking)

    async def _adopt(self, token: ContinuationToken, agent: Agent[Any], thread: AgentThread | None) -> LiveRun:
        """The run behind a token: the store's, or a new one, which nobody is to find before it is driven. What was let
        go of at its deadline is a new one: the other has ended, and its journal, too."""
        known = await self._store.find(token.ref.provider, token.ref.endpoint, token.ref.id)
        if known is not None and not known.detached:
            return await self.take_up(known, agent)

        token.check_age(self._clock.wall(), agent.provider.retention)
        record = agent.record(token, self._clock.wall(), None)
        record.journal, record.flush = self._policies.terms.journal, self._policies.terms.flush
        record.epoch = 1
        if known is not None:
            record.metadata = known.metadata

        return await self._once(record.id, lambda: self._enter(record, agent, thread))

    async def _enter(self, record: RunRecord, agent: Agent[Any], thread: AgentThread | None) -> LiveRun:
        await self._store.create(record)
        return await self._drive(record, agent, thread)

    async def _acquire(self, run_id: str, agent: Agent[Any]) -> LiveRun:
        return await self._drive(await self._store.acquire(run_id), agent)

    async def _drive(self, record: RunRecord, agent: Agent[Any], thread: AgentThread | None = None) -> LiveRun:
        live = self.live(record, agent, thread)
        await self._driver.take_up(live)
        return live

    def live(self, record: RunRecord, agent: Agent[Any] | None, thread: AgentThread | None = None) -> LiveRun:
        """What handles look at and the driver drives; without an agent it can only be looked at."""
        poll = self._policies.poll
        run = Run(
            record,
            poll=poll,
            stream=self._policies.stream,
            draw=self._policies.draw,
            now=self._clock.now(),
            age=max(self._clock.wall() - record.created_at, 0.0),
            parse=agent.parse if agent else None,
            tools=agent.tooling(thread, record.request) if agent else None,
            hazard=self._learning.of(agent, record) if agent else None,
            announced=self._policies.webhooks and agent is not None and Cap.WEBHOOKS in agent.provider.caps,
        )
        journal = open_journal(self._store, self._clock, run)
        live = LiveRun(run, journal, ways := self._ways_of(agent) if agent else None)
        if agent is not None and agent.name == record.agent and ways and ways.restarts:
            bounds = (record.deadline_at, poll.max_age and record.created_at + poll.max_age)
            live.restarts_until = min(bound or inf for bound in bounds)

        return live

    def _ways_of(self, agent: Agent[Any]) -> Ways:
        ways = self._ways.get(agent)
        if ways is None:
            calls = agent.calls(self._policies.stream.idle, self._gates.of(agent.provider))
            restarts = Cap.IDEMPOTENT_START in agent.provider.caps
            ways = self._ways[agent] = Ways(calls, agent.tools, restarts, agent.read_partial)

        return ways

    def _agent_of(self, record: RunRecord) -> Agent[Any] | None:
        """The known agent of this name, if it still talks to the service that the run lives at."""
        agent = self.agents.get(record.agent)
        if agent is None or (agent.provider.name, agent.provider.endpoint) != (record.provider, record.endpoint):
            return None

        return agent
