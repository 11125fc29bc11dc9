"""Runtimes, handles and streams through random lives: anything may happen at any moment, in virtual time.

A program is a service with its faults, a store with its moods, and some runtimes on that store, one after the other,
each with steps that are taken, and cancelled, at random moments. The last runtime has a calm service and a calm store.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle, pairwise
from math import inf
from typing import Any, Self

from hypothesis import given
from hypothesis import strategies as st

from agentbg import (
    Agent,
    AgentBGError,
    AgentRunOptions,
    AgentRuntime,
    AuthenticationFailed,
    Fenced,
    PollPolicy,
    RunNotFound,
    ServiceUnavailable,
    StoreError,
    StreamPolicy,
    StreamRefused,
    UpdateType,
    UsageError,
)
from agentbg.core.status import RunStatus
from agentbg.providers.base import Resume
from agentbg.stores import MemoryStore
from agentbg.testing import At, RunScript, ScriptedProvider, VirtualClock, run

BOUND = 400.0
"""Virtual seconds after which whoever waits for something that has ended must know."""
MAX_AGE = 600.0


class MoodyStore(MemoryStore):
    """Takes its time before and after each call, refuses some, and notes what it was told. Closing waits for calls."""

    def __init__(self, delays: Sequence[float], refused: frozenset[int], stubborn: bool) -> None:
        super().__init__()
        self.first: dict[str, int] = {}
        """The seq after which each run's journal begins."""
        self.ended: dict[str, RunStatus] = {}
        self.moody = True
        self.stolen = False
        self.troubled: set[str] = set()
        """Runs that a runtime had to let go of."""
        self._delays = cycle(delays)
        self._refused = refused
        self._stubborn = stubborn  # what was accepted is done, also when nobody waits for it any more
        self._calls = count(1)
        self._under_way = 0
        self._idle = asyncio.Event()
        self._closing = False

    async def _call(self, work: Coroutine[Any, Any, Any], run_id: str = "") -> Any:
        if not self._stubborn:
            return await self._do(work, run_id)

        doing = asyncio.ensure_future(self._do(work, run_id))
        doing.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(doing)

    async def _do(self, work: Coroutine[Any, Any, Any], run_id: str) -> Any:
        before, after = (next(self._delays), next(self._delays)) if self.moody else (0.0, 0.0)
        refused = self.moody and next(self._calls) in self._refused
        self._under_way += 1
        try:
            if self._closing:
                raise StoreError("The store is being closed.")

            await asyncio.sleep(before)
            if refused:
                self.troubled.add(run_id)
                raise StoreError("The disk is full.")

            result = await work
            await asyncio.sleep(after)
            return result
        finally:
            work.close()
            self._under_way -= 1
            self._idle.set()

    async def open(self, *, readonly=False):
        await asyncio.sleep(next(self._delays))
        await super().open(readonly=readonly)
        self._closing = False

    async def aclose(self):
        self._closing = True
        await asyncio.shield(asyncio.ensure_future(self.quiet()))

    async def quiet(self) -> None:
        """Closed, with nothing under way: a cancellation only stops the waiting for that."""
        while self._under_way:
            self._idle.clear()
            await self._idle.wait()

        await super().aclose()

    async def create(self, record):
        self.first[record.id] = record.position.seq
        await self._call(super().create(record), record.id)

    async def acquire(self, run_id):
        return await self._call(super().acquire(run_id), run_id)

    async def save(self, record, updates=()):
        await self._call(self._save(record, list(updates)), record.id)

    async def _save(self, record, updates):
        try:
            await super().save(record, updates)
        except StoreError:
            self.troubled.add(record.id)
            raise

        if record.status.terminal:
            assert self.ended.setdefault(record.id, record.status) is record.status, "it had ended otherwise"
        else:
            assert record.id not in self.ended, "it had ended"

    async def load(self, run_id):
        return await self._call(super().load(run_id))

    async def list(self, **what):
        return await self._call(super().list(**what))

    async def find(self, provider, endpoint, remote_id):
        return await self._call(super().find(provider, endpoint, remote_id))

    async def read(self, run_id, *, after=0, limit=3):
        return await self._call(super().read(run_id, after=after, limit=limit))

    async def steal(self, run_id: str) -> None:
        """What another process does that takes itself for the owner."""
        self.troubled.add(run_id)
        self.stolen = True
        await super().acquire(run_id)

    def journal(self, run_id: str):
        return self._runs[run_id].seqs

    @property
    def ids(self) -> list[str]:
        return list(self._runs)


@dataclass(frozen=True)
class Step:
    at: float
    kind: str
    which: int
    """Which of the runs, handles or tokens that there are."""
    number: int
    """A seq to begin after, or how many updates to take."""
    seconds: float
    """A time-out, or a pause."""
    cancelled_after: float | None


@dataclass(frozen=True)
class Life:
    length: float
    steps: list[Step]
    entering_cancelled: float | None
    closing_cancelled: float | None


@dataclass(frozen=True)
class Program:
    scripts: list[RunScript]
    resume: Resume
    latency: float
    cancel_delay: float | None
    faults: list[tuple[str, tuple[Any, ...], dict[str, Any]]]
    delays: list[float]
    refused: frozenset[int]
    stubborn: bool
    lives: list[Life]
    max_requests: int
    seed: int


MOMENTS = st.one_of(st.sampled_from([0.0, 0.01, 0.5, 1.0, 2.0]), st.floats(0, 40).map(lambda at: round(at, 2)))
DELAYS = st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.5, 3.0])
CALLS = st.integers(1, 6)
SCRIPTS = st.one_of(
    st.builds(
        RunScript.text,
        st.sampled_from(["", "Hello", "a long story about a run"]),
        seconds=st.sampled_from([0.0, 1.0, 10.0, 90.0]),
        deltas=st.integers(1, 8),
    ),
    st.sampled_from(
        [
            RunScript.failed(after="part"),
            RunScript.incomplete("part of it"),
            RunScript.asks(seconds=5),
            RunScript.endless("no end"),
            RunScript.text("draft", end=At(0, status="completed", text="another answer")),
        ]
    ),
)
ERRORS = st.sampled_from(
    [
        ServiceUnavailable("503"),
        ServiceUnavailable("429", retry_after=2.0, unsent=True),
        RunNotFound("404"),
        AuthenticationFailed("401"),
        StreamRefused("not streamed"),
    ]
)
METHODS = st.sampled_from(["start", "open", "poll", "attach", "cancel"])
TIMES = st.sampled_from([1, 1, 2, 8])


def fault(name: str, *args: st.SearchStrategy, **options: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(st.just(name), st.tuples(*args), st.fixed_dictionaries(options))


FAULTS = st.one_of(
    fault("fail", METHODS, ERRORS, call=CALLS, times=TIMES),
    fault("lose", st.sampled_from(["start", "open", "poll", "cancel"]), call=CALLS),
    fault("delay", METHODS, st.sampled_from([0.5, 20.0, inf]), call=CALLS, times=TIMES),
    fault("cut", st.integers(0, 6), st.none() | ERRORS, call=CALLS, times=TIMES),
    fault("stall", st.integers(0, 6), call=CALLS),
    fault("repeat", st.integers(1, 6), call=CALLS),
    fault("double", call=CALLS, times=TIMES),
)
KINDS = st.sampled_from(
    [
        "submit",
        "stream",
        "elsewhere",
        "get",
        "list",
        "resume",
        "resume",
        "read",
        "read",
        "result",
        "wait",
        "cancel",
        "steal",
    ]
)
STEPS = st.builds(
    Step, MOMENTS, KINDS, st.integers(0, 3), st.integers(0, 6), MOMENTS, st.one_of(st.none(), st.none(), MOMENTS)
)
LIVES = st.builds(
    Life,
    st.one_of(MOMENTS, st.just(45.0), st.just(2 * MAX_AGE)),
    st.lists(STEPS, min_size=4, max_size=12).map(lambda steps: sorted(steps, key=lambda step: step.at)),
    st.one_of(st.none(), st.none(), MOMENTS),
    st.one_of(st.none(), st.none(), MOMENTS),
)
PROGRAMS = st.builds(
    Program,
    scripts=st.lists(SCRIPTS, min_size=1, max_size=3),
    resume=st.sampled_from([Resume.CURSOR, Resume.CURSOR, Resume.LOG, Resume.SNAPSHOT, Resume.NONE]),
    latency=st.sampled_from([0.0, 0.1, 2.0]),
    cancel_delay=st.sampled_from([0.0, 3.0, None]),
    faults=st.lists(FAULTS, max_size=4),
    delays=st.lists(DELAYS, min_size=1, max_size=5),
    refused=st.one_of(st.just(frozenset()), st.frozensets(st.integers(1, 30), max_size=3)),
    stubborn=st.booleans(),
    lives=st.lists(LIVES, min_size=1, max_size=3),
    max_requests=st.sampled_from([1, 32]),
    seed=st.integers(0, 9),
)


@dataclass
class World:
    """All that outlives a runtime, and what was seen in all of their lives."""

    provider: ScriptedProvider
    agent: Agent[str]
    store: MoodyStore
    draw: Callable[[], float]
    max_requests: int
    tokens: list[str] = field(default_factory=list)
    ends: dict[str, set[tuple[RunStatus, str]]] = field(default_factory=lambda: defaultdict(set))

    @classmethod
    def of(cls, program: Program) -> World:
        provider = ScriptedProvider(
            *program.scripts, resume=program.resume, latency=program.latency, cancel_delay=program.cancel_delay
        )
        for name, args, options in program.faults:
            getattr(provider, name)(*args, **options)

        store = MoodyStore(program.delays, program.refused, program.stubborn)
        return cls(provider, Agent(provider), store, random.Random(program.seed).random, program.max_requests)

    def runtime(self) -> AgentRuntime:
        return AgentRuntime(
            self.store,
            agents=[self.agent],
            draw=self.draw,
            clock=VirtualClock(),
            poll=PollPolicy(max_age=MAX_AGE),
            stream=StreamPolicy(attempts=3),
            max_requests=self.max_requests,
        )

    def note(self, handle) -> None:
        """An end is an end: the same for everyone, in every life."""
        if handle.done() and handle.status.terminal:
            self.ends[handle.id].add((handle.status, handle.response.text))
            assert len(self.ends[handle.id]) == 1, self.ends[handle.id]


class Player:
    """Takes the steps of one life. What a step ends with is checked here."""

    def __init__(self, world: World, runtime: AgentRuntime) -> None:
        self.world, self.runtime = world, runtime
        self.handles: list[Any] = []
        self.cut_short: set[asyncio.Task[None]] = set()
        self.tasks: list[asyncio.Task[None]] = []
        self.deaf: list[asyncio.Task[None]] = []
        """Those that were cancelled, and went on."""
        self.awaited: dict[asyncio.Task[None], Any] = {}

    async def play(self, life: Life) -> None:
        begun = asyncio.get_running_loop().time()
        for step in life.steps:
            if step.at > life.length:
                break

            await asyncio.sleep(begun + step.at - asyncio.get_running_loop().time())
            self.begin(self.take(step), step.cancelled_after)

        await asyncio.sleep(begun + life.length - asyncio.get_running_loop().time())

    def begin(self, work, cancelled_after: float | None) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self.tasks.append(task)
        if cancelled_after is not None:
            asyncio.get_running_loop().call_later(cancelled_after, self.cut, task)

        return task

    def cut(self, task: asyncio.Task[None]) -> None:
        if not task.done():
            self.cut_short.add(task)
            task.cancel()
            asyncio.get_running_loop().call_later(0.001, self.expect_done, task)

    def expect_done(self, task: asyncio.Task[None]) -> None:
        if not task.done():
            self.deaf.append(task)

    async def take(self, step: Step) -> None:
        try:
            await getattr(self, step.kind)(step)
        except AgentBGError as error:
            stolen = self.world.store.stolen
            if type(error) is UsageError or (isinstance(error, Fenced) and not stolen):
                raise  # nothing here is used wrongly, and no runtime fences itself
        except asyncio.CancelledError:
            assert asyncio.current_task() in self.cut_short, "nobody cancelled this"
            raise

    # --- steps ---

    async def submit(self, step: Step, *, stream: bool = False) -> None:
        self.keep(await self.runtime.submit(self.world.agent, "x", stream=stream))

    async def stream(self, step: Step) -> None:
        await self.submit(step, stream=True)

    async def elsewhere(self, step: Step) -> None:
        """A run that no store knows: all there is of it is its token."""
        options = AgentRunOptions(allow_background_responses=True)
        agent = self.world.agent
        response = await agent.run("x", thread=agent.get_new_thread(), options=options)
        if response.continuation_token is not None:
            self.world.tokens.append(str(response.continuation_token))

    async def get(self, step: Step) -> None:
        ids = self.world.store.ids
        if ids:
            self.keep(await self.runtime.get(ids[step.which % len(ids)]))

    async def list(self, step: Step) -> None:
        for handle in await self.runtime.list():
            self.keep(handle)

    async def resume(self, step: Step) -> None:
        tokens = self.world.tokens
        if tokens:
            self.keep(await self.runtime.resume(tokens[-1 - step.which % len(tokens)], agent=self.world.agent))

    async def read(self, step: Step) -> None:
        handle = self.pick(step)
        if handle is None:
            return

        after = step.number if step.which % 2 else 0
        got = []
        async with handle.stream(after=after) as updates:
            while not step.number or len(got) < 2 * step.number:
                try:
                    async with asyncio.timeout(step.seconds or None):
                        got.append(await anext(updates))
                except StopAsyncIteration:
                    self.check_end(handle, after, got)
                    break
                except TimeoutError:
                    await asyncio.sleep(step.seconds)

                self.world.tokens += [str(u.continuation_token) for u in got[-1:] if u.continuation_token]

        assert [update.seq for update in got] == list(range(self.beginning(handle, after), after_last(got)))

    def beginning(self, handle, after: int) -> int:
        return max(after, self.world.store.first[handle.id]) + 1

    def check_end(self, handle, after: int, got) -> None:
        assert handle.done()
        if not got:
            return

        assert got[-1].type is UpdateType.END
        if self.beginning(handle, after) == 1 or any(update.type is UpdateType.RESET for update in got):
            assert ended_by_us(handle) or joined(got) == got[-1].response.text == handle.response.text

    async def result(self, step: Step) -> None:
        handle = self.pick(step)
        if handle is not None:
            self.awaited[asyncio.current_task()] = handle
            await handle.result(step.seconds or None)
            assert handle.done()

    async def wait(self, step: Step) -> None:
        handle = self.pick(step)
        if handle is not None:
            self.awaited[asyncio.current_task()] = handle
            await handle.wait(step.seconds if step.number else None)
            assert handle.done() or step.number

    async def cancel(self, step: Step) -> None:
        handle = self.pick(step)
        if handle is not None:
            await handle.cancel()

    async def steal(self, step: Step) -> None:
        ids = self.world.store.ids
        if ids and step.number == 0:
            await self.world.store.steal(ids[step.which % len(ids)])

    def keep(self, handle) -> None:
        self.handles.append(handle)
        self.world.note(handle)
        if handle.token is not None:
            self.world.tokens.append(str(handle.token))

    def pick(self, step: Step):
        return self.handles[-1 - step.which % len(self.handles)] if self.handles else None

    # --- afterwards ---

    def check_waiters(self) -> None:
        """Whoever waits for a run that is over knows it."""
        late = [handle for task, handle in self.awaited.items() if not task.done() and handle.done()]
        assert late == []

    async def check_all_over(self) -> None:
        if self.tasks:
            _, hanging = await asyncio.wait(self.tasks, timeout=BOUND)
            assert not hanging, "it waits for ever"

        assert self.deaf == []
        for task in self.tasks:
            if not task.cancelled():
                task.result()

        for handle in self.handles:
            self.world.note(handle)


def ended_by_us(handle) -> bool:
    """Without a last word of the service: a process that did not see the text has nothing to show."""
    error = handle.response.error
    return error is not None and error.code in {"deadline", "not_found"}


def after_last(updates) -> int:
    return updates[-1].seq + 1 if updates else 0


def joined(updates) -> str:
    text = ""
    for update in updates:
        text = update.text if update.type is UpdateType.RESET else text + update.text

    return text


async def cancelled_after(work, seconds: float | None) -> bool:
    """Whether `work` came to its end, however; a cancel may reach it."""
    task = asyncio.ensure_future(work)
    if seconds is not None:
        asyncio.get_running_loop().call_later(seconds, task.cancel)

    done, _ = await asyncio.wait({task}, timeout=BOUND)
    assert done, "it waits for ever"
    if task.cancelled():
        assert seconds is not None, "nobody cancelled this"
        return False

    if isinstance(task.exception(), StoreError):
        return False

    task.result()
    return True


async def live(world: World, life: Life) -> None:
    runtime = world.runtime()
    player = Player(world, runtime)
    if await cancelled_after(runtime.__aenter__(), life.entering_cancelled):
        await player.play(life)
        player.check_waiters()
        await cancelled_after(runtime.__aexit__(None, None, None), life.closing_cancelled)

    await world.store.quiet()
    left = [task for task in asyncio.all_tasks() if task not in {*player.tasks, asyncio.current_task()}]
    assert left == [], f"tasks that nobody waits for: {left}"
    await player.check_all_over()


async def last_life(world: World) -> None:
    """Nothing goes wrong any more: each run comes to its end, and it is the right one."""
    world.provider.faults.clear()
    world.store.moody = False
    async with world.runtime() as runtime:
        for handle in await runtime.list():
            await asyncio.wait_for(handle.wait(), 3 * MAX_AGE)
            world.note(handle)
            async with handle.stream() as updates:
                got = [update async for update in updates]

            seqs = list(range(world.store.first[handle.id] + 1, after_last(got)))
            assert [update.seq for update in got] == seqs == world.store.journal(handle.id)
            assert (await world.store.load(handle.id)).position.seq == got[-1].seq
            assert got[-1].type is UpdateType.END
            check_text(world, handle, got)


def check_text(world: World, handle, got) -> None:
    if handle.status.terminal and world.store.first[handle.id] == 0 and not ended_by_us(handle):
        assert joined(got) == handle.response.text, (handle.status, got)

    if handle.status is RunStatus.COMPLETED:
        story = world.provider.runs[handle._live.record.ref.id]
        assert handle.response.text == story.snapshot(len(story.steps)).text


def check_calls(world: World) -> None:
    starts = Counter(
        call.key
        for call in world.provider.calls
        if call.key is not None and call.method in ("start", "open") and not getattr(call.error, "unsent", False)
    )
    assert all(times == 1 for times in starts.values()), starts
    for methods in (("poll",), ("open", "attach")):
        of_run = defaultdict(list)
        for call in world.provider.calls:
            if call.method in methods and call.run:
                of_run[call.run].append(call)

        for calls in of_run.values():
            for one, other in pairwise(calls):
                assert one.ended_at is not None, "it is still under way"
                if methods != ("poll",) or not world.store.troubled:
                    assert one.ended_at <= other.at, "two at once"


class Complaints(logging.Handler):
    """What nobody caught, and what was logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[object] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage() + str(record.exc_info))

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self)
        self._hook, sys.unraisablehook = sys.unraisablehook, lambda what: self.found.append(str(what))
        return self

    def __exit__(self, *_: object) -> None:
        gc.collect()
        sys.unraisablehook = self._hook
        logging.getLogger().removeHandler(self)


async def lives(program: Program, complaints: Complaints) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.found.append(context))
    world = World.of(program)
    for life in program.lives:
        await live(world, life)

    await last_life(world)
    check_calls(world)
    del world
    gc.collect()
    await asyncio.sleep(0)


@given(PROGRAMS)
def test_whatever_happens_everyone_is_told_and_nothing_is_lost_or_repeated(program: Program):
    with Complaints() as complaints:
        run(lives(program, complaints))

    assert complaints.found == [], complaints.found
