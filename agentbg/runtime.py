"""The runtime: it drives, you hold handles."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from .agent import Agent
from .batch import Batch, Each, Inputs, as_completed, gather
from .clock import Clock, SystemClock
from .core.budget import RequestBudget
from .core.model import NOTHING
from .core.response import AgentRunResponse
from .core.schedule import Draw, PollPolicy, StreamPolicy
from .core.status import RunStatus
from .core.token import ContinuationToken
from .driver import Driver
from .errors import AgentBGError, RunUnknown, UsageError
from .gate import Gates
from .handle import BackgroundHandle
from .hooks import Hook, Hooks
from .inputs import Input, read_input
from .intake import Intake, Policies
from .journal import Flush, JournalMode
from .learning import Learning
from .live import LiveRun
from .options import AgentRunOptions
from .progress import OnProgress, Tracker
from .retention import KEPT, Retention, moment
from .stats import RuntimeStats
from .stores.base import Store
from .stores.memory import MemoryStore
from .terms import OnDeadline, Terms
from .thread import AgentThread
from .webhooks import Headers, WebhookReceipt, Webhooks

T = TypeVar("T")


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
    - `deadline`, in seconds from the submit, and `on_deadline`, are for runs whose `submit` says nothing of them.
    - `webhooks`: services that can are to say by themselves when a run ends, and what they send is given to `webhook`,
      or `notify`. Their runs are then polled for safety only, every `PollPolicy.safety` seconds.
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
        deadline: float | None = None,
        on_deadline: OnDeadline = "detach",
        webhooks: bool = False,
        hooks: Iterable[Hook] = (),
        draw: Draw = random.random,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or SystemClock()
        self._store = MemoryStore() if store is None else store  # a store may have a length, and be empty
        self._terms = Terms(deadline, on_deadline, journal, flush)
        observed = Hooks(hooks, lambda live: BackgroundHandle(self._driver, live))
        self._retention = Retention(self._store, self.clock, retention)
        self._learning = Learning(self._store)
        self._gates = Gates(budget or RequestBudget(), self.clock, draw)
        self._driver = Driver(self._store, self.clock, self._gates, observed)
        policies = Policies(poll or PollPolicy(), stream or StreamPolicy(), draw, self._terms, webhooks)
        self._intake = Intake(self._store, self._driver, policies, self._gates, self._learning, agents)
        self._webhooks = Webhooks(self._intake.providers, self._driver.notify)

    async def __aenter__(self) -> Self:
        if self._driver.used:
            raise UsageError("A runtime is entered once. Make a new AgentRuntime on the same store.")

        await self._store.open()
        try:
            await self._learning.load()
            await self._driver.open()
            await self._intake.take_up_all()
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
        on_deadline: OnDeadline | None = None,
        journal: JournalMode | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> BackgroundHandle[T]:
        """Start a run in the background; returns when the service has it, or has answered it at once.

        With `stream` the run is streamed from the start, and so can be streamed again after a cut. `options` are those
        of any run; a submitted run is a background run always. `journal` is this run's own, in the place of the
        runtime's. `metadata` is yours, JSON-safe, kept in the store, and shown to tools. A `thread` takes one run at a
        time: UsageError while its last one goes on.

        `deadline` is in seconds from now. A run that has not ended by then, be it that it waits for its user, is asked
        about a last time; then `on_deadline` counts. "detach" lets go of it: it ends here as expired, and goes on at
        its service; RunExpired has the token with which `resume` takes it up again. "cancel" cancels it there, and the
        run ends as its service says. Without them, the runtime's own count. Both are kept in the store.

        An intent is stored before the start is sent. Cancelling this call does not stop the start: the run is then in
        the store, and in `list()`. Raises ProviderError when the service refuses, or stays unreachable over several
        tries; SubmitUnknown when the start's answer was lost; UsageError, RuntimeClosed, StoreError.
        """
        self._driver.require_open()
        if options is not None and options.continuation_token is not None:
            raise UsageError("To take up a run by its token, call runtime.resume(token, agent=…), not submit.")

        terms = self._terms.own(deadline, on_deadline, journal)
        self._intake.register(agent)
        self._retention.look()
        if thread is not None:
            await self._bring_up_to_date(thread)

        if options is not None:
            options = replace(options, allow_background_responses=True)

        record = agent.record(None, self.clock.wall(), agent.request(input, thread, options))
        record.stream = stream
        record.epoch = 1
        terms.note(record)
        record.metadata = dict(metadata) if metadata else NOTHING
        live = self._intake.live(record, agent, thread)
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
        live = self._driver.runs.get(run_id) or await self._intake.take_up(await self._store.load(run_id))
        if thread is not None:
            self._tie(thread, live)

        return BackgroundHandle(self._driver, live)

    async def resume(
        self, token: ContinuationToken | str, *, agent: Agent[T], thread: AgentThread | None = None
    ) -> BackgroundHandle[T]:
        """Take up a run by its token, wherever it was started; one that the store has already is that run.

        A token stands for the run also when it is of an earlier round. The token of a run that was let go of at its
        deadline takes up what goes on at the service as a new run, with an id of its own and no deadline; the expired
        one stays as it is. `thread` is as for `get`.

        Raises TokenError for a token that is damaged, of another service than the agent's, or older than the service
        keeps runs, unless the store has the run; RuntimeClosed, StoreError. Cancelling this leaves the remote run
        alive; it may be in the store by then.
        """
        self._driver.require_open()
        token = ContinuationToken.parse(token) if isinstance(token, str) else token
        token.check(provider=agent.provider.name, endpoint=agent.provider.endpoint)
        self._intake.register(agent)
        if thread is not None and thread.find(token.ref) is None:
            await self._bring_up_to_date(thread)
            thread.require_idle()

        live = await self._intake.resume(token, agent, thread)
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
        return [BackgroundHandle(self._driver, await self._intake.take_up(record)) for record in records]

    async def purge(self, *, before: datetime | float) -> int:
        """Forget the runs that ended before this time, a Unix time or a datetime with its zone; how many they were.

        Runs that go on, or wait for their user, stay. A handle of a forgotten run keeps its response; to stream it
        raises RunUnknown. What a run is at its service does not change. Raises UsageError, RuntimeClosed, StoreError.
        """
        self._driver.require_open()
        return await self._store.purge(before=moment(before))

    # --- many runs ---

    @overload
    def submit_many(
        self,
        agent: Agent[T],
        inputs: Inputs,
        *,
        max_active: int,
        return_exceptions: Literal[False] = False,
        on_progress: OnProgress | None = None,
        **each: Unpack[Each],
    ) -> Batch[T, AgentRunResponse[T]]: ...
    @overload
    def submit_many(
        self,
        agent: Agent[T],
        inputs: Inputs,
        *,
        max_active: int,
        return_exceptions: bool,
        on_progress: OnProgress | None = None,
        **each: Unpack[Each],
    ) -> Batch[T, AgentRunResponse[T] | Exception]: ...
    def submit_many(
        self,
        agent: Agent[T],
        inputs: Inputs,
        *,
        max_active: int,
        return_exceptions: bool = False,
        on_progress: OnProgress | None = None,
        **each: Unpack[Each],
    ) -> Batch[T, Any]:
        """Start a run for each input, so that no more than `max_active` go on at a time. The next input is taken when
        there is room for its run, from a list or any other iterable, also an endless or an asynchronous one.

        Iterate over what this returns for an `Outcome` each, as soon as it is there; then a start that fails is one of
        them. Who falls behind by more than `max_active` outcomes holds up the starts. Or await it for all responses, in
        the order of the inputs: a start that fails, or a run without a result, raises, and no more are started; with
        `return_exceptions` the error takes the response's place. In either case the other runs go on.

        A run that waits for its user counts as done. `each` is passed to every `submit`. `on_progress` is called with
        a `Progress` at each start and each end. Cancelling, or leaving the loop, starts no more runs and leaves those
        that were started alive, in `batch.handles` and in the store. What `inputs` raises is raised once the runs
        before it are done. When the runtime is closed meanwhile, RuntimeClosed is raised after the last outcome.
        Raises UsageError at once for inputs that are none, or a `max_active` below 1.
        """
        self._driver.require_open()
        remaining = self._intake.remaining(agent, each.get("options"))
        return Batch(
            inputs,
            lambda given: self.submit(agent, given, **each),
            self._driver.require_open,
            max_active=max_active,
            return_exceptions=return_exceptions,
            tracker=lambda total: Tracker(
                self.clock.now, on_progress, total=total, slots=max_active, remaining=remaining
            ),
        )

    def as_completed(
        self,
        handles: Iterable[BackgroundHandle[T]],
        *,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> AsyncIterator[BackgroundHandle[T]]:
        """The handles, each as soon as it is done, well or badly, or this process stops driving it: `result` says why.

        Raises RunTimeout when they are not all done `timeout` seconds after the first was asked for. `on_progress` is
        called with a `Progress` at each end. Leaving the loop, or cancelling it, leaves the runs alive. Raises
        UsageError for a run whose agent is not known, and for a handle of another runtime.
        """
        own = self._own(handles)
        return as_completed(own, timeout=timeout, tracker=Tracker(self.clock.now, on_progress, total=len(own)))

    @overload
    async def gather(
        self,
        handles: Iterable[BackgroundHandle[T]],
        *,
        return_exceptions: Literal[False] = False,
        on_progress: OnProgress | None = None,
    ) -> Sequence[AgentRunResponse[T]]: ...
    @overload
    async def gather(
        self,
        handles: Iterable[BackgroundHandle[T]],
        *,
        return_exceptions: bool,
        on_progress: OnProgress | None = None,
    ) -> Sequence[AgentRunResponse[T] | Exception]: ...
    async def gather(
        self,
        handles: Iterable[BackgroundHandle[T]],
        *,
        return_exceptions: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Any:
        """The responses of all these runs, in the order of their handles, as `asyncio.gather` would give them.

        The first `result` that raises is raised at once, and the other runs go on; with `return_exceptions` the error
        takes the response's place. `on_progress` is called with a `Progress` at each end. Cancelling this leaves the
        runs alive. Raises UsageError for a run whose agent is not known, and for a handle of another runtime.
        """
        own = self._own(handles)
        tracker = Tracker(self.clock.now, on_progress, total=len(own))
        return await gather(own, return_exceptions=return_exceptions, tracker=tracker)

    def _own(self, handles: Iterable[BackgroundHandle[T]]) -> Sequence[BackgroundHandle[T]]:
        own = list(handles)
        for handle in own:
            if not handle.driven_by(self._driver):
                raise UsageError(
                    f"{handle!r} is of another runtime: ask that one, or take it up with `get` or `resume`."
                )

        return own

    # --- words from outside ---

    def notify(self, response_id: str) -> bool:
        """Make a run due now: somebody says that it has changed. By its id at its service, or ours.

        False when no run that goes on here has this id. Such an id is remembered for a minute, and 4096 of them at
        most: a word may come before the answer to the start does, and the run is then polled as soon as that is there.
        A stream that is open has 2 s to bring the news by itself. It is a plain call that waits for nothing; from
        another thread: `loop.call_soon_threadsafe(runtime.notify, response_id)`. Raises RuntimeClosed.
        """
        return self._driver.notify(response_id)

    def webhook(self, body: str | bytes, headers: Headers) -> WebhookReceipt:
        """Take a webhook of a service, and make the run that it is about due now. Answer it 200 when this returns.

        `body` is as it came, and `headers` a mapping or pairs, in any case. It is verified with the secret of the
        agents' provider, and must be younger than 5 minutes. One that came before does nothing; the last 8192 are
        remembered, in this process. They may come in any order, since the service's own word is asked for: what a
        webhook says is never taken for it. `WebhookReceipt.outcome` says what was done.

        Raises WebhookInvalid for one that is not genuine (answer 400); UsageError for a body that was parsed, without a
        secret, or without an agent whose service sends webhooks; RuntimeClosed. It is a plain call, as `notify` is.
        """
        self._driver.require_open()
        return self._webhooks.take(body, headers)

    def stats(self) -> RuntimeStats:
        """How the runtime fares: runs by status, polls, requests, lags. Cheap: counters, kept as things happen. A plain
        call, in the event loop; at any time, also once the runtime is closed."""
        return self._driver.stats()

    async def _release(self) -> None:
        """Let go of the store, once the runs on their way out of it have come: a later owner's are not to be taken."""
        try:
            await self._intake.aclose()
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


def _statuses(status: RunStatus | str | Collection[RunStatus | str] | None) -> Collection[RunStatus] | None:
    if status is None:
        return None

    words = [status] if isinstance(status, str) else status
    try:
        return [RunStatus(word) for word in words]
    except ValueError as error:
        raise UsageError(f"{error}. The statuses are: {', '.join(RunStatus)}.") from error
