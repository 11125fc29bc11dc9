"""Runtimes, handles and streams through random lives: anything may happen at any moment, in virtual time.

A program is a service with its faults, a store with its moods, and some runtimes on that store, one after the other,
each with steps that are taken, and cancelled, at random moments. The last runtime has a calm service, a calm store, and
a user who answers all that is asked.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from hypothesis import given

from agentbg import (
    Agent,
    AgentBGError,
    AgentRunOptions,
    AgentRuntime,
    Answer,
    Fenced,
    PollPolicy,
    RequestBudget,
    RequestKind,
    RunContext,
    ServiceUnavailable,
    StoreError,
    StreamPolicy,
    UpdateType,
    UsageError,
    tool,
)
from agentbg.core.model import SUBMIT_UNKNOWN
from agentbg.core.status import RunStatus
from agentbg.providers.base import Cap
from agentbg.stores import MemoryStore, SQLiteStore
from agentbg.testing import ScriptedProvider, VirtualClock, announced, run

from .moody_store import MoodyStore
from .programs import MAX_AGE, PROGRAMS, Life, Program, Step

BOUND = 400.0
"""Virtual seconds after which whoever waits for something that has ended must know."""


class Tools:
    """The agent's functions, and how often each was called."""

    def __init__(self) -> None:
        self.made: Counter[tuple[str, str]] = Counter()
        """How often each call was made that is not to be made twice."""
        self.allowed: set[tuple[str, str]] = set()
        self.all = [
            tool(self.look, idempotent=True),
            tool(self.book),
            tool(self.refund, requires_approval=True),
            tool(self.hang, timeout=20),
            tool(self.fail, name="break"),
            tool(self.end, on_error="fail"),
        ]

    async def look(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "seen"

    async def book(self, seconds: float, context: RunContext) -> str:
        self.note(context)
        await asyncio.sleep(seconds)
        return "booked"

    async def refund(self, seconds: float, context: RunContext) -> str:
        self.note(context)
        assert (context.run_id, context.call_id) in self.allowed, "nobody allowed it"
        await asyncio.sleep(seconds)
        return "refunded"

    async def hang(self, seconds: float, context: RunContext) -> str:
        self.note(context)
        await asyncio.get_running_loop().create_future()
        return "never"

    async def fail(self, seconds: float, context: RunContext) -> str:
        self.note(context)
        await asyncio.sleep(seconds)
        raise ValueError("it broke")

    async def end(self, seconds: float, context: RunContext) -> str:
        self.note(context)
        await asyncio.sleep(seconds)
        raise ValueError("it is over")

    def note(self, context: RunContext) -> None:
        self.made[context.run_id, context.call_id] += 1


@dataclass
class World:
    """All that outlives a runtime, and what was seen in all of their lives."""

    provider: ScriptedProvider
    tools: Tools
    agent: Agent[str]
    store: MoodyStore
    draw: Callable[[], float]
    in_flight: int
    modes: Iterator[dict[str, Any]]
    tokens: list[str] = field(default_factory=list)
    ends: dict[str, set[tuple[RunStatus, str]]] = field(default_factory=lambda: defaultdict(set))
    resent: Counter[str] = field(default_factory=Counter)
    """How often a user had the answers to a run of the service sent again, by its id and by their key."""

    @classmethod
    def of(cls, program: Program, folder: Path) -> World:
        provider = ScriptedProvider(
            *program.scripts,
            caps=program.caps,
            resume=program.resume,
            latency=program.latency,
            cancel_delay=program.cancel_delay,
        )
        for name, args, options in program.faults:
            getattr(provider, name)(*args, **options)

        inner = (
            announced(SQLiteStore(folder / "runs.db", durable=False, commit_window=0))
            if program.on_disk
            else MemoryStore()
        )
        store = MoodyStore(inner, program.delays, program.refused, program.stubborn)
        tools = Tools()
        agent = Agent(provider, tools=tools.all, max_rounds=3)
        modes = cycle(program.modes)
        return cls(provider, tools, agent, store, random.Random(program.seed).random, program.in_flight, modes)

    def runtime(self) -> AgentRuntime:
        return AgentRuntime(
            self.store,
            agents=[self.agent],
            draw=self.draw,
            clock=VirtualClock(),
            poll=PollPolicy(max_age=MAX_AGE),
            stream=StreamPolicy(attempts=3),
            budget=RequestBudget(in_flight=self.in_flight),
            **next(self.modes),
        )

    def note(self, handle) -> None:
        """An end is an end: the same for everyone, in every life."""
        if handle.done() and handle.status.terminal:
            self.ends[handle.id].add((handle.status, handle.response.text))
            assert len(self.ends[handle.id]) == 1, self.ends[handle.id]

    async def answer(self, handle, number: int = 0) -> None:
        """What a user says: with 0 yes to everything, else something else, or to a part of it, or nonsense."""
        response = handle.response
        unsure = response.error is not None and response.error.code == SUBMIT_UNKNOWN
        if unsure and handle.status is RunStatus.INPUT_REQUIRED:
            self.resent.update([response.response_id, f"{handle.id}.{len(handle._live.record.rounds)}"])

        requests = response.requests[:1] if number == 1 else response.requests
        answers = [self.decide(handle, request, number) for request in requests]
        await handle.respond(*answers, *([Answer("nobody_asked", output="x")] if number == 6 else []))

    def decide(self, handle, request, number: int) -> Answer:
        if request.kind is RequestKind.CALL:
            return request.reject("no") if number == 3 else request.answer("an answer")

        if number in (2, 3):
            return request.reject("too expensive")

        self.tools.allowed.add((handle.id, request.id))
        return request.approve()


class Player:
    """Takes the steps of one life. What a step ends with is checked here."""

    def __init__(self, world: World, runtime: AgentRuntime) -> None:
        self.world, self.runtime = world, runtime
        self.handles: list[Any] = []
        self.cut_short: set[asyncio.Task[None]] = set()
        self.tasks: list[asyncio.Task[None]] = []
        self.deaf: list[asyncio.Task[None]] = []
        """Those that were cancelled, and went on."""
        self.alone: list[asyncio.Task[None]] = []
        """Those that need no runtime."""
        self.awaited: dict[asyncio.Task[None], Any] = {}
        self.soon: dict[asyncio.Task[None], float] = {}
        """Those that need not wait for a run, by when they began."""

    async def play(self, life: Life) -> None:
        begun = now()
        length = life.steps[-1].at if life.length is None else life.length
        for step in life.steps:
            if step.at > length:
                break

            await asyncio.sleep(begun + step.at - now())
            task = self.begin(self.take(step), step.cancelled_after)
            if step.kind in ("respond", "cancel") and step.number % 2 == 0:
                self.soon[task] = now()

            if step.kind == "elsewhere":
                self.alone.append(task)

        await asyncio.sleep(begun + length - now())

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
            wrong = type(error) is UsageError and step.kind not in ("respond", "talk")  # two may answer at once
            if wrong or (isinstance(error, Fenced) and not self.world.store.stolen):
                raise  # nothing here is used wrongly, and no runtime fences itself
        except asyncio.CancelledError:
            assert asyncio.current_task() in self.cut_short, "nobody cancelled this"
            raise

    # --- steps ---

    async def submit(self, step: Step, *, stream: bool = False) -> None:
        deadline = 20.0 if step.number == 6 else None
        then = "cancel" if step.which % 2 else "detach"
        agent = self.world.agent
        self.keep(await self.runtime.submit(agent, "x", stream=stream, deadline=deadline, on_deadline=then))

    async def speak(self, step: Step) -> None:
        """Somebody says that a run has changed."""
        names = [*self.world.store.ids, *self.world.provider.runs]
        if names:
            self.runtime.notify(names[step.which % len(names)])

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

        check_seqs(handle, self.beginning(handle, after) - 1, got)

    def beginning(self, handle, after: int) -> int:
        return max(after, self.world.store.first[handle.id]) + 1

    def check_end(self, handle, after: int, got) -> None:
        assert handle.done()
        if not got:
            return

        assert got[-1].type is (UpdateType.END if handle.status.terminal else UpdateType.WAITING)
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

    async def respond(self, step: Step) -> None:
        handle = self.pick(step)
        if handle is not None:
            if step.number % 2:
                await handle.wait()

            await self.world.answer(handle, step.number)
            assert step.number != 6, "nobody asked"

    async def talk(self, step: Step) -> None:
        """A user who stays, and answers whenever he is asked."""
        handle = self.pick(step)
        while handle is not None and not (await handle.wait()).terminal:
            await asyncio.sleep(step.seconds if step.number % 2 else 0)
            await self.world.answer(handle, step.number % 4)

    async def cancel(self, step: Step) -> None:
        handle = self.pick(step)
        if handle is not None:
            if step.number % 2:
                await handle.wait()

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
        """Whoever waits for a run that is over knows it, and who asks for something gets an answer."""
        late = [handle for task, handle in self.awaited.items() if not task.done() and handle.done()]
        assert late == []
        slow = [task for task, begun in self.soon.items() if not task.done() and now() - begun > 2 * BOUND]
        assert slow == []

    def check_handles(self) -> None:
        """What a handle shows of a run that rests is what the store has."""
        for handle in self.handles:
            kept = self.world.store.kept.get(handle.id)
            if kept is not None and handle.done() and handle._live.lost is None:
                assert kept == (handle.status, handle._live.record.position.seq)

    def check_runs(self) -> None:
        """Only runs that go on, or wait for their user, are at hand."""
        at_hand = self.runtime._driver.runs.values()
        assert [live.record for live in at_hand if live.settled and live.record.status.terminal] == []

    async def hang_up(self) -> None:
        """End what no runtime drives."""
        for task in self.alone:
            self.cut(task)

        if self.alone:
            await asyncio.wait(self.alone)

    async def check_all_over(self) -> None:
        if self.tasks:
            _, hanging = await asyncio.wait(self.tasks, timeout=BOUND)
            assert not hanging, f"it waits for ever: {hanging}"

        assert self.deaf == []
        for task in self.tasks:
            if not task.cancelled():
                task.result()

        for handle in self.handles:
            self.world.note(handle)


def now() -> float:
    return asyncio.get_running_loop().time()


def ended_by_us(handle) -> bool:
    """Without a last word of the service: a process that did not see the text has nothing to show."""
    error = handle.response.error
    return error is not None and error.code in {"deadline", "not_found"}


def check_seqs(handle, after: int, updates) -> None:
    """One after the other; where something cannot be had, a RESET makes good for it."""
    kept = (handle._live.record.journal, handle._live.record.flush) == ("full", "commit")
    for update in updates:
        follows = update.seq == after + 1
        assert follows or (not kept and update.seq > after and update.type is UpdateType.RESET), (update, after)
        after = update.seq


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
        player.check_handles()
        await cancelled_after(runtime.__aexit__(None, None, None), life.closing_cancelled)
        player.check_runs()
        await player.hang_up()

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
            await asyncio.wait_for(to_its_end(world, handle), 20 * MAX_AGE)
            world.note(handle)
            async with handle.stream() as updates:
                got = [update async for update in updates]

            check_seqs(handle, world.store.first[handle.id], got)
            journal = await world.store.journal(handle.id)
            if handle._live.record.journal == "off":
                assert {update.type for update in journal} <= {UpdateType.WAITING, UpdateType.END}
            else:
                assert [update.seq for update in got] == [update.seq for update in journal]

            stored = await world.store.load(handle.id)
            assert stored.position.seq == got[-1].seq
            assert stored.status is handle.status
            assert got[-1].type is UpdateType.END
            check_text(world, handle, got)

        assert runtime._driver.runs == {}
        assert len(runtime._driver._alarm.queue) == 0


async def to_its_end(world: World, handle) -> None:
    while not (await handle.wait()).terminal:
        assert handle.status is RunStatus.INPUT_REQUIRED
        await world.answer(handle)


def check_text(world: World, handle, got) -> None:
    if world.store.first[handle.id] == 0 and not ended_by_us(handle):
        assert joined(got) == handle.response.text, (handle.status, got)

    if handle.status is RunStatus.COMPLETED:
        record = handle._live.record
        stories = [world.provider.runs[ref.id] for ref in (*(closed.ref for closed in record.rounds), record.ref)]
        assert handle.response.text == "".join(story.snapshot(len(story.steps)).text for story in stories)


def check_calls(world: World) -> None:
    assert [call for call, times in world.tools.made.items() if times > 1] == []
    sent = [call for call in world.provider.calls if not surely_refused(call.error)]
    answers = Counter(call.answered if call.method == "respond" else call.key for call in sent)
    for asked, times in answers.items():
        idempotent = Cap.IDEMPOTENT_START in world.provider.caps and asked not in world.provider.runs
        assert idempotent or asked is None or times <= 1 + world.resent[asked], asked

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


def surely_refused(error: Exception | None) -> bool:
    return error is not None and (not isinstance(error, ServiceUnavailable) or error.unsent)


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
        sys.unraisablehook = self._hook
        logging.getLogger().removeHandler(self)


async def lives(program: Program, complaints: Complaints) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.found.append(context))
    with TemporaryDirectory() as folder:
        world = World.of(program, Path(folder))
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
