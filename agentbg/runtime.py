"""The runtime: it drives, you hold handles."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from math import inf
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary

from .agent import Agent
from .clock import Clock, SystemClock
from .core.budget import RequestBudget
from .core.model import NOTHING
from .core.record import RunRecord
from .core.run import Run
from .core.schedule import Draw, PollPolicy, StreamPolicy
from .core.status import RunStatus
from .core.token import ContinuationToken
from .driver import Driver
from .errors import AgentBGError, RunUnknown, UsageError
from .gate import Gates
from .handle import BackgroundHandle
from .hooks import Hook, Hooks
from .inputs import Input, read_input
from .journal import Flush, JournalMode, check_choice, open_journal
from .learning import Learning
from .live import LiveRun, Ways, heard, outlast
from .options import AgentRunOptions
from .providers.base import Cap
from .retention import KEPT, Retention, moment
from .stores.base import Store
from .stores.memory import MemoryStore
from .thread import AgentThread

T = TypeVar("T")
_LIVE = frozenset(status for status in RunStatus if status.live)


class AgentRuntime:
    """Drives background runs: starts them, polls them, keeps their streams, and stores what must survive.

    Use it as `async with AgentRuntime(…) as runtime:`; it may be entered in one task and left in another. Leaving it
    waits for starts under way (10 s at most), stops driving, and releases the store; the runs go on at their services,
    and a later runtime on the same store goes on with them by itself.

    - `store` keeps the runs; by default a `MemoryStore`, which ends with the process.
    - `poll` and `stream` say when to poll and how a stream is kept.
    - `agents` are those whose stored runs are to be driven on, each with a name of its own; agents given to `submit`
      and `resume` are known from then on, the first of a name.
    - `journal` says how much of the updates of streams is kept: "full", each with the service's event; "checkpoint",
      their text and place, at intervals; "off", none. A consumer that misses what is not kept gets a RESET with the
      text so far. `flush` says when a full journal is written: by "commit" before any consumer sees an update,
      "pipelined" a moment later. `docs/storage.md` has what each costs, and what a crash leaves.
    - `retention` is how long runs are kept after their end, 30 days by default, None for ever. Those that are older are
      forgotten when the runtime is entered, and as runs are submitted, at most once an hour. Runs that go on, or wait
      for their user, are never forgotten.
    - `budget` bounds the requests to each service: how many are under way, and how many are sent per second. Where it
      binds, a submit or a cancel waits for its turn; see `RequestBudget`.
    - `hooks` see what happens to the runs: `agentbg.hooks` says what.
    - `draw` and `clock` are for tests: random numbers in [0, 1), and the time.
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        poll: PollPolicy | None = None,
        stream: StreamPolicy | None = None,
        agents: Iterable[Agent[Any]] = (),
        journal: JournalMode = "full",
        flush: Flush = "commit",
        retention: timedelta | None = KEPT,
        budget: RequestBudget | None = None,
        hooks: Iterable[Hook] = (),
        draw: Draw = random.random,
        clock: Clock | None = None,
    ) -> None:
        check_choice("journal", journal, JournalMode)
        check_choice("flush", flush, Flush)
        self._journal: JournalMode = journal
        self._flush: Flush = flush
        self.clock = clock or SystemClock()
        self._store = MemoryStore() if store is None else store  # a store may have a length, and be empty
        self._poll, self._stream = poll or PollPolicy(), stream or StreamPolicy()
        self._agents: dict[str, Agent[Any]] = {}
        self._ways: WeakKeyDictionary[Agent[Any], Ways] = WeakKeyDictionary()  # an agent may be made for one run only
        self._taking: dict[Hashable, asyncio.Future[LiveRun]] = {}
        self._draw = draw
        self._learning = Learning(self._store)
        observed = Hooks(hooks, lambda live: BackgroundHandle(self._driver, live))
        self._retention = Retention(self._store, self.clock, retention)
        self._gates = Gates(budget or RequestBudget(), self.clock, draw)
        self._driver = Driver(self._store, self.clock, self._gates, observed)
        for agent in agents:
            if self._agents.setdefault(agent.name, agent) is not agent:
                raise UsageError(
                    f"Two agents are named {agent.name!r}, and stored runs find theirs by name: pass Agent(…, name=…)."
                )

    async def __aenter__(self) -> Self:
        if self._driver.used:
            raise UsageError("A runtime is entered once. Make a new AgentRuntime on the same store.")

        await self._store.open()
        try:
            await self._learning.load()
            await self._driver.open()
            await self._take_up_all()
            self._retention.look()
        except BaseException:
            await self.__aexit__()
            raise

        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._driver.aclose()
        finally:
            await self._release()

    # --- runs ---

    async def submit(
        self,
        agent: Agent[T],
        input: Input,
        *,
        thread: AgentThread | None = None,
        stream: bool = False,
        options: AgentRunOptions | None = None,
        deadline: float | None = None,
        journal: JournalMode | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> BackgroundHandle[T]:
        """Start a run in the background; returns when the service has it, or has answered it at once.

        With `stream` the run is streamed from the start, and so can be streamed again after a cut. `deadline` is in
        seconds from now: a run that is not done by then expires. `options` are those of any run; a submitted run is a
        background run always. `journal` is this run's own, in the place of the runtime's. `metadata` is yours,
        JSON-safe, kept in the store, and shown to tools. A `thread` takes one run at a time: UsageError while its last
        one goes on.

        An intent is stored before the start is sent. Cancelling this call does not stop the start: the run is then in
        the store, and in `list()`. Raises ProviderError when the service refuses, or stays unreachable over several
        tries; SubmitUnknown when the start's answer was lost; UsageError, RuntimeClosed, StoreError.
        """
        self._driver.require_open()
        _check_submission(options, deadline)
        kept: JournalMode = self._journal if journal is None else journal
        check_choice("journal", kept, JournalMode)
        self._register(agent)
        self._retention.look()
        if thread is not None:
            await self._bring_up_to_date(thread)

        if options is not None:
            options = replace(options, allow_background_responses=True)

        record = agent.record(None, self.clock.wall(), agent.request(input, thread, options))
        record.stream = stream
        record.journal, record.flush = kept, self._flush
        record.epoch = 1
        record.deadline_at = None if deadline is None else record.created_at + deadline
        record.metadata = dict(metadata) if metadata else NOTHING
        live = self._live(record, agent, thread)
        assert record.request is not None, "made above"
        if thread is None:
            await self._driver.start(live, record.request)
            return BackgroundHandle(self._driver, live)

        turn = thread.begin(read_input(input), record.id, record.request)
        live.at_rest(id(turn), partial(thread.take, turn, record))
        try:
            await self._driver.start(live, record.request)
        except AgentBGError:
            thread.forget(turn)
            raise

        turn.take(record, seen=live.settled)
        return BackgroundHandle(self._driver, live)

    async def get(self, run_id: str, *, thread: AgentThread | None = None) -> BackgroundHandle[Any]:
        """The handle of a run in the store. A live one whose agent is known is driven on from here.

        `thread`, restored from another process perhaps, gets the run's answer when it comes. Raises RunUnknown for an
        id that is not there; RuntimeClosed, StoreError. Cancelling this changes nothing.
        """
        self._driver.require_open()
        live = self._driver.runs.get(run_id) or await self._take_up(await self._store.load(run_id))
        if thread is not None:
            self._tie(thread, live)

        return BackgroundHandle(self._driver, live)

    async def resume(
        self, token: ContinuationToken | str, *, agent: Agent[T], thread: AgentThread | None = None
    ) -> BackgroundHandle[T]:
        """Take up a run by its token, wherever it was started; one that the store has already is that run.

        A token stands for the run also when it is of an earlier round. `thread` is as for `get`.

        Raises TokenError for a token that is damaged, of another service than the agent's, or older than the service
        keeps runs, unless the store has the run; RuntimeClosed, StoreError. Cancelling this leaves the remote run
        alive; it may be in the store by then.
        """
        self._driver.require_open()
        token = ContinuationToken.parse(token) if isinstance(token, str) else token
        token.check(provider=agent.provider.name, endpoint=agent.provider.endpoint)
        self._register(agent)
        if thread is not None and thread.find(token.ref) is None:
            await self._bring_up_to_date(thread)
            thread.require_idle()

        service = (token.ref.provider, token.ref.endpoint, token.ref.id)
        live = await self._once(service, lambda: self._adopt(token, agent, thread))
        if thread is not None:
            self._tie(thread, live)

        return BackgroundHandle(self._driver, live)

    async def list(
        self,
        *,
        status: RunStatus | str | Collection[RunStatus | str] | None = None,
        agent: str | None = None,
        limit: int | None = None,
    ) -> Sequence[BackgroundHandle[Any]]:
        """Handles of the runs in the store, the newest first: of some statuses, of one agent's name, at most `limit`.

        Raises UsageError for a word that is no status or a negative `limit`; RuntimeClosed, StoreError.
        """
        self._driver.require_open()
        if limit is not None and limit < 0:
            raise UsageError(f"limit is how many runs to list at most: 0 or more, not {limit}.")

        records = await self._store.list(statuses=_statuses(status), agent=agent, limit=limit)
        return [BackgroundHandle(self._driver, await self._take_up(record)) for record in records]

    async def purge(self, *, before: datetime | float) -> int:
        """Forget the runs that ended before this time, a Unix time or a datetime with its zone; how many they were.

        Runs that go on, or wait for their user, stay. A handle of a forgotten run keeps its response; to stream it
        raises RunUnknown. What a run is at its service does not change. Raises UsageError, RuntimeClosed, StoreError.
        """
        self._driver.require_open()
        return await self._store.purge(before=moment(before))

    async def as_completed(self, handles: Iterable[BackgroundHandle[T]]) -> AsyncIterator[BackgroundHandle[T]]:
        """The handles, each as soon as it is done, well or badly, or this process stops driving it: `result` says why.

        Leaving the loop, or cancelling it, leaves the runs alive. Raises UsageError for a run whose agent is not known.
        """
        done: asyncio.Queue[BackgroundHandle[T]] = asyncio.Queue()
        waiting = list(handles)
        for handle in waiting:
            handle.add_done_callback(done.put_nowait)

        for _ in waiting:
            yield await done.get()

    async def _release(self) -> None:
        """Let go of the store, once the runs on their way out of it have come: a later owner's are not to be taken."""
        try:
            await outlast(set(self._taking.values()))
            await self._retention.aclose()
        finally:
            try:
                await self._learning.aclose()
            finally:
                await self._store.aclose()

    # --- threads ---

    async def _bring_up_to_date(self, thread: AgentThread) -> None:
        """A thread from another process may hold a run that has ended since: the store knows."""
        turn = thread.current
        if turn is None:
            return

        try:
            thread.take(turn, await self._store.load(turn.run_id))
        except RunUnknown:
            return

    def _tie(self, thread: AgentThread, live: LiveRun) -> None:
        turn = thread.adopt(live.record)
        live.at_rest(id(turn), partial(thread.take, turn, live.record))
        turn.take(live.record, seen=live.settled)

    # --- taking up ---

    async def _take_up_all(self) -> None:
        """Go on with what an earlier runtime left unfinished, as far as the agents are known."""
        records = await self._store.list(statuses=_LIVE)
        await asyncio.gather(*(self._take_up(record) for record in records))

    async def _take_up(self, record: RunRecord, agent: Agent[Any] | None = None) -> LiveRun:
        """The run behind a stored record, driven if it is live and its agent is known."""
        live = self._driver.runs.get(record.id)
        if live is not None:
            return live

        agent = agent or self._agent_of(record)
        if agent is None or record.status.terminal:
            return self._live(record, agent)

        return await self._once(record.id, lambda: self._acquire(record.id, agent))

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
        """The run behind a token: the store's, or a new one, which nobody is to find before it is driven."""
        known = await self._store.find(token.ref.provider, token.ref.endpoint, token.ref.id)
        if known is not None:
            return await self._take_up(known, agent)

        token.check_age(self.clock.wall(), agent.provider.retention)
        record = agent.record(token, self.clock.wall(), None)
        record.journal, record.flush = self._journal, self._flush
        record.epoch = 1
        return await self._once(record.id, lambda: self._enter(record, agent, thread))

    async def _enter(self, record: RunRecord, agent: Agent[Any], thread: AgentThread | None) -> LiveRun:
        await self._store.create(record)
        return await self._drive(record, agent, thread)

    async def _acquire(self, run_id: str, agent: Agent[Any]) -> LiveRun:
        return await self._drive(await self._store.acquire(run_id), agent)

    async def _drive(self, record: RunRecord, agent: Agent[Any], thread: AgentThread | None = None) -> LiveRun:
        live = self._live(record, agent, thread)
        await self._driver.take_up(live)
        return live

    def _live(self, record: RunRecord, agent: Agent[Any] | None, thread: AgentThread | None = None) -> LiveRun:
        run = Run(
            record,
            poll=self._poll,
            stream=self._stream,
            draw=self._draw,
            now=self.clock.now(),
            age=max(self.clock.wall() - record.created_at, 0.0),
            parse=agent.parse if agent else None,
            tools=agent.tooling(thread, record.request) if agent else None,
            hazard=self._learning.of(agent, record) if agent else None,
        )
        live = LiveRun(run, open_journal(self._store, self.clock, run), ways := self._ways_of(agent) if agent else None)
        if agent is not None and agent.name == record.agent and ways and ways.restarts:
            bounds = (record.deadline_at, self._poll.max_age and record.created_at + self._poll.max_age)
            live.restarts_until = min(bound or inf for bound in bounds)

        return live

    def _ways_of(self, agent: Agent[Any]) -> Ways:
        ways = self._ways.get(agent)
        if ways is None:
            calls = agent.calls(self._stream.idle, self._gates.of(agent.provider))
            restarts = Cap.IDEMPOTENT_START in agent.provider.caps
            ways = self._ways[agent] = Ways(calls, agent.tools, restarts, agent.read_partial)

        return ways

    def _agent_of(self, record: RunRecord) -> Agent[Any] | None:
        """The known agent of this name, if it still talks to the service that the run lives at."""
        agent = self._agents.get(record.agent)
        if agent is None or (agent.provider.name, agent.provider.endpoint) != (record.provider, record.endpoint):
            return None

        return agent

    def _register(self, agent: Agent[Any]) -> None:
        self._agents.setdefault(agent.name, agent)


def _check_submission(options: AgentRunOptions | None, deadline: float | None) -> None:
    if options is not None and options.continuation_token is not None:
        raise UsageError("To take up a run by its token, call runtime.resume(token, agent=…), not submit.")

    if deadline is not None and deadline <= 0:
        raise UsageError(f"deadline is in seconds from now, above 0; not {deadline}.")


def _statuses(status: RunStatus | str | Collection[RunStatus | str] | None) -> Collection[RunStatus] | None:
    if status is None:
        return None

    words = [status] if isinstance(status, str) else status
    try:
        return [RunStatus(word) for word in words]
    except ValueError as error:
        raise UsageError(f"{error}. The statuses are: {', '.join(RunStatus)}.") from error
