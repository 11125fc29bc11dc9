"""Waiting and working are apart, and nothing is left behind: no task, no connection, no warning."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentbg import (
    AgentRunResponseUpdate,
    AgentRuntime,
    RunStatus,
    RuntimeClosed,
    RunTimeout,
    RunUnknown,
    StoreError,
    UpdateType,
    UsageError,
)
from agentbg.core.record import RunRecord
from agentbg.journal import JournalMode
from agentbg.reader import RECENT
from agentbg.stores import MemoryStore, SQLiteStore
from agentbg.testing.server import CutAfterEvent, DropStart, ResponsesServer, Script, SlowBody, Stall, Status

from .helpers import POLL, STREAM, agent_of, background, bounded, check, joined, python

LONG = Script.story(20).lasting(running=60)
SHORT = Script.story(20).lasting(running=0.1)

both = pytest.mark.parametrize("streamed", [False, True])


def runtime_of(store: MemoryStore | SQLiteStore | None = None, **settings: object) -> AgentRuntime:
    return AgentRuntime(store, poll=POLL, stream=STREAM, **settings)


async def settle() -> None:
    """Let what was let go of be collected and closed."""
    gc.collect()
    for _ in range(20):
        await asyncio.sleep(0.005)


def connections(server: ResponsesServer) -> int:
    """How many clients are connected, by the server's own count."""
    return len(server._listener._connections)


# --- waiting ---


@both
async def test_a_time_out_of_a_result_leaves_the_run_alive(streamed: bool) -> None:
    async with ResponsesServer(script=SHORT) as server, agent_of(server) as agent, runtime_of() as runtime, bounded():
        handle = await runtime.submit(agent, "a story", stream=streamed)
        with pytest.raises(RunTimeout, match="It goes on") as timeout:
            await handle.result(timeout=0.01)

        assert timeout.value.token is not None
        assert await handle.wait(timeout=0) in (RunStatus.QUEUED, RunStatus.RUNNING)
        assert (await handle).text == server.run().text
        assert server.count("cancel") == 0


@both
async def test_a_cancelled_waiter_leaves_the_run_and_the_other_waiters_alone(streamed: bool) -> None:
    async with ResponsesServer(script=SHORT) as server, agent_of(server) as agent, runtime_of() as runtime, bounded():
        handle = await runtime.submit(agent, "a story", stream=streamed)
        waiters = [asyncio.create_task(handle.result()) for _ in range(3)]
        streams = [asyncio.create_task(drain(handle.stream())) for _ in range(3)]
        await asyncio.sleep(0.02)
        for victim in (waiters[0], streams[0]):
            victim.cancel()
            with pytest.raises(asyncio.CancelledError):
                await victim

        assert [(await waiter).text for waiter in waiters[1:]] == [server.run().text] * 2
        for stream in streams[1:]:
            check(await stream, server.run().text)

        assert server.count("cancel") == 0
        assert server.count("create") == 1


async def drain(stream):
    return [update async for update in stream]


async def test_closing_a_stream_disturbs_no_other_consumer() -> None:
    script = Script.story(20).lasting(delay=0.003)
    async with ResponsesServer(script=script) as server, agent_of(server) as agent, runtime_of() as runtime, bounded():
        handle = await runtime.submit(agent, "a story", stream=True)
        other = asyncio.create_task(drain(handle.stream()))
        async with handle.stream() as updates:
            async for update in updates:
                if update.seq == 7:
                    break

        rest = await drain(handle.stream(after=7))
        whole = await other
        check(whole, server.run().text)
        assert whole[7:] == rest
        assert server.count("stream") == 1, "all look at one connection"


async def test_a_closed_stream_is_at_its_end() -> None:
    async with ResponsesServer(script=SHORT) as server, agent_of(server) as agent, runtime_of() as runtime, bounded():
        handle = await runtime.submit(agent, "a story", stream=True)
        async with handle.stream() as updates:
            await anext(updates)

        await updates.aclose()
        assert await drain(updates) == []


async def test_a_stream_is_one_tasks_and_says_so_to_another() -> None:
    async with ResponsesServer(script=LONG) as server, agent_of(server) as agent, runtime_of() as runtime, bounded():
        handle = await runtime.submit(agent, "a story")
        for stream in (
            handle.stream(),
            agent.run_streaming("a story", agent.get_new_thread(), background()),
        ):
            waiting = asyncio.create_task(drain(stream))
            await asyncio.sleep(0.03)
            with pytest.raises(UsageError, match="open a second stream"):
                await anext(stream)

            with pytest.raises(UsageError, match="Cancel that task"):
                await stream.aclose()

            waiting.cancel()
            await asyncio.wait({waiting})
            await stream.aclose()


# --- leaks ---


@pytest.mark.parametrize("at", [1, 5, 12])
async def test_a_bare_break_leaves_no_connection_and_no_task(at: int) -> None:
    script = Script.story(20).lasting(delay=0.003)
    async with ResponsesServer(script=script) as server, agent_of(server) as agent, bounded():
        before = asyncio.all_tasks()
        async for update in agent.run_streaming("a story", agent.get_new_thread(), background()):
            if update.seq == at:
                break

        await settle()
        assert connections(server) == 0
        assert asyncio.all_tasks() - before == set()


@pytest.mark.parametrize("way", ["break", "return", "raise", "cancel"])
async def test_however_a_loop_over_a_stream_is_left_nothing_stays_open(way: str) -> None:
    script = Script.story(20).lasting(delay=0.01)

    async def consume() -> None:
        async with agent.run_streaming("a story", agent.get_new_thread(), background()) as updates:
            async for update in updates:
                if update.seq < 5:
                    continue

                match way:
                    case "break":
                        break
                    case "return":
                        return
                    case "raise":
                        raise KeyError
                    case _:
                        await asyncio.sleep(60)

    async with ResponsesServer(script=script) as server, agent_of(server) as agent, bounded():
        before = asyncio.all_tasks()
        task = asyncio.create_task(consume())
        while not server.runs or server.run().seen() < 8:
            await asyncio.sleep(0.005)

        if way == "cancel":
            task.cancel()

        await asyncio.wait({task})
        await settle()
        assert connections(server) == 0
        assert asyncio.all_tasks() - before == set()


LEAVE = """
import asyncio, gc, logging, sys
from agentbg import Agent, AgentRunOptions, AgentRuntime
from agentbg.providers import OpenAIResponses

async def main(url, how):
    global stream
    agent = Agent(OpenAIResponses("test", base_url=url, api_key="any"))
    if how == "agent":
        updates = agent.run_streaming("go", agent.get_new_thread(), AgentRunOptions(allow_background_responses=True))
        async for update in updates:
            if update.seq == 5:
                break
        return

    if how == "agent-held":
        global held
        held = agent.run_streaming("go", agent.get_new_thread(), AgentRunOptions(allow_background_responses=True))
        for _ in range(5):
            await anext(held)
        return

    if how == "agent-waiting":
        begun = asyncio.Event()
        async def wait():
            async for update in stream:
                begun.set()

        global task
        stream = agent.run_streaming("go", agent.get_new_thread(), AgentRunOptions(allow_background_responses=True))
        task = asyncio.create_task(wait())
        await begun.wait()
        return

    if how == "error":
        async with AgentRuntime() as runtime:
            handle = await runtime.submit(agent, "go", stream=True)
            stream = handle.stream()
            await anext(stream)
            try:
                raise KeyError
            except KeyError:
                return

    runtime = AgentRuntime()
    await runtime.__aenter__()
    handle = await runtime.submit(agent, "go", stream=how == "stream")

    stream = handle.stream()
    await anext(stream)
    if how == "waiting":
        global waiter
        waiter = asyncio.create_task(handle.result())
        await asyncio.sleep(0.05)

logging.basicConfig(level=logging.WARNING)
url, *hows = sys.argv[1:]
for how in hows:
    asyncio.run(main(url, how), debug=True)
    gc.collect()
"""


@pytest.mark.parametrize("hows", [("agent", "agent-waiting", "error", "stream"), ("agent-held",), ("poll", "waiting")])
async def test_loops_that_end_with_streams_open_close_them_and_leave_the_runs_alive(hows: tuple[str, ...]) -> None:
    async with ResponsesServer(script=LONG) as server:
        options = ["-W", "error"]
        if "poll" in hows:  # an agent that is not closed keeps a connection, as its SDK's client does
            options += ["-W", "ignore::ResourceWarning"]

        _, said = await python(LEAVE, server.base_url, *hows, options=options)
        said = "".join(line for line in said.splitlines(True) if "Executing <" not in line)  # slow, not wrong
        if hows == ("agent-held",):  # asyncio closes nested generators all at once, and says that they are being closed
            assert "Warning" not in said
        else:
            assert said == ""

        assert connections(server) == 0
        assert [run.status for run in server.runs.values()] == ["in_progress"] * len(hows)


# --- the runtime itself ---


async def test_a_runtime_may_be_entered_in_one_task_and_left_in_another() -> None:
    async with ResponsesServer(script=SHORT) as server, agent_of(server) as agent, bounded():
        runtime = runtime_of()
        await asyncio.create_task(runtime.__aenter__())
        handle = await asyncio.create_task(runtime.submit(agent, "a story", stream=True))
        assert (await asyncio.create_task(handle.result())).text == server.run().text
        await asyncio.create_task(runtime.__aexit__(None, None, None))
        assert connections(server) <= 1


@both
async def test_a_cancelled_submit_leaves_a_run_that_is_in_the_store(streamed: bool, tmp_path: Path) -> None:
    slow = SlowBody(0.2, on="create") if not streamed else Stall(0)
    script = Script.story(5)
    async with (
        ResponsesServer(script=script, faults=[] if streamed else [slow]) as server,
        agent_of(server) as agent,
        runtime_of(SQLiteStore(tmp_path / "runs")) as runtime,
        bounded(),
    ):
        submitting = asyncio.create_task(runtime.submit(agent, "a story", stream=streamed))
        while not server.requests:
            await asyncio.sleep(0)

        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting

        (handle,) = await runtime.list()
        assert (await handle.result()).text == server.run().text
        assert server.count("create") == 1


async def test_a_submit_that_is_cancelled_before_it_was_sent_is_sent_or_is_not_in_the_store() -> None:
    async with ResponsesServer(script=SHORT) as server, agent_of(server) as agent, runtime_of() as runtime, bounded():
        submitting = asyncio.create_task(runtime.submit(agent, "a story"))
        await asyncio.sleep(0)
        submitting.cancel()
        await asyncio.wait({submitting})
        await asyncio.sleep(0.1)
        assert len(await runtime.list()) == len(server.runs)


@both
async def test_a_runtime_that_is_closed_tells_those_who_wait(streamed: bool) -> None:
    async with ResponsesServer(script=LONG) as server, agent_of(server) as agent, bounded():
        async with runtime_of() as runtime:
            handle = await runtime.submit(agent, "a story", stream=streamed)
            waiters = [asyncio.create_task(handle.result()) for _ in range(3)]
            waiters += [asyncio.create_task(drain(handle.stream())) for _ in range(3)]
            done: list[object] = []
            handle.add_done_callback(done.append)
            await asyncio.sleep(0.02)

        for waiter in waiters:
            with pytest.raises(RuntimeClosed, match="goes on at the service"):
                await waiter

        with pytest.raises(RuntimeClosed):
            await handle.result()

        assert done == [handle]
        assert server.run().status == "in_progress"
        assert server.count("cancel") == 0


async def test_an_exception_inside_a_runtime_comes_out_alone_and_cancels_nothing() -> None:
    async with ResponsesServer(script=LONG) as server, agent_of(server) as agent, bounded():
        before = asyncio.all_tasks()

        async def stumble() -> None:
            async with runtime_of() as runtime:
                handle = await runtime.submit(agent, "a story", stream=True)
                await anext(handle.stream())
                raise KeyError

        with pytest.raises(KeyError):
            await stumble()

        assert server.run().status == "in_progress"
        await settle()
        assert asyncio.all_tasks() - before <= server._listener._connections


async def test_a_runtime_whose_closing_is_cancelled_is_closed_all_the_same(tmp_path: Path) -> None:
    slow = SlowBody(5.0, on="create")
    store = SQLiteStore(tmp_path / "runs")
    async with ResponsesServer(script=SHORT, faults=[slow]) as server, agent_of(server) as agent, bounded():
        before = asyncio.all_tasks()
        runtime = await runtime_of(store).__aenter__()
        submitting = asyncio.create_task(runtime.submit(agent, "a story"))
        while not server.requests:
            await asyncio.sleep(0)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(runtime.__aexit__(None, None, None), 0.02)

        with pytest.raises(RuntimeClosed):
            await submitting

        await settle()
        assert asyncio.all_tasks() - before <= server._listener._connections
        async with runtime_of(store, agents=[agent]) as again:
            assert [handle.status for handle in await again.list()] == [RunStatus.FAILED]


# --- consumers ---


async def test_consumers_join_early_late_in_the_middle_and_after_the_end(tmp_path: Path) -> None:
    script = Script.story(40).lasting(delay=0.002)
    async with ResponsesServer(script=script, faults=[CutAfterEvent(20)]) as server, agent_of(server) as agent:
        store = SQLiteStore(tmp_path / "runs")
        async with runtime_of(store) as runtime, bounded():
            handle = await runtime.submit(agent, "a story", stream=True)
            early = [asyncio.create_task(drain(handle.stream(after=after))) for after in (0, 3, 30, 10_000)]
            await asyncio.sleep(0.03)
            late = asyncio.create_task(drain(handle.stream()))
            whole = await late
            check(whole, server.run().text)
            assert [await consumer for consumer in early] == [whole, whole[3:], whole[30:], []]
            assert await drain(handle.stream(after=len(whole) - 1)) == whole[-1:]
            assert await drain(handle.stream(after=len(whole))) == []
            assert [update.continuation_token for update in await drain(handle.stream())][:-1] == [
                update.continuation_token for update in whole[:-1]
            ]

        async with runtime_of(store) as runtime, bounded():
            handle = await runtime.get(handle.id)
            stored = await drain(handle.stream())
            assert joined(stored) == server.run().text
            assert [update.seq for update in stored] == [update.seq for update in whole]
            assert [update.seq for update in await drain(handle.stream(after=17))] == list(range(18, len(whole) + 1))
            assert stored[-1].response is not None
            assert stored[-1].response.text == server.run().text


async def test_many_consumers_of_one_run_cost_one_connection() -> None:
    script = Script.story(40).lasting(delay=0.001)
    async with ResponsesServer(script=script) as server, agent_of(server) as agent, runtime_of() as runtime, bounded():
        handle = await runtime.submit(agent, "a story", stream=True)
        consumers = [asyncio.create_task(drain(handle.stream())) for _ in range(100)]
        for consumer in consumers:
            check(await consumer, server.run().text)

        assert server.count("POST") + server.count("GET") == 1


@pytest.mark.parametrize("file", [False, True])
async def test_a_consumer_that_falls_far_behind_still_gets_everything(file: bool, tmp_path: Path) -> None:
    script = Script.story(3 * RECENT)
    store = SQLiteStore(tmp_path / "runs") if file else MemoryStore()
    async with ResponsesServer(script=script) as server, agent_of(server) as agent, runtime_of(store) as runtime:
        async with bounded():
            handle = await runtime.submit(agent, "a story", stream=True)
            seen = []
            async for update in handle.stream():
                seen.append(update)
                if update.seq in (2, 300):
                    await handle.wait()

        check(seen, server.run().text)
        assert len(seen) == 3 * RECENT + 9


async def test_a_run_taken_up_by_its_token_is_streamed_from_there_wherever_one_asks() -> None:
    script = Script.story(40).lasting(delay=0.002)
    async with ResponsesServer(script=script) as server, agent_of(server) as agent, bounded():
        held = []
        async with agent.run_streaming("a story", agent.get_new_thread(), background()) as updates:
            async for update in updates:
                held.append(update)
                if update.seq == 20:
                    break

        async with runtime_of() as runtime:
            handle = await runtime.resume(str(update.continuation_token), agent=agent)
            all_there_is, rest = await asyncio.gather(drain(handle.stream()), drain(handle.stream(after=20)))
            assert all_there_is == rest
            check(rest, server.run().text, after=20, before=joined(held))
            assert await drain(handle.stream()) == rest
            assert (await handle.result()).text == server.run().text


@both
async def test_a_run_may_be_cancelled_while_its_start_is_on_its_way(streamed: bool) -> None:
    fault = Status(429, 0.1, on="create")
    async with (
        ResponsesServer(script=LONG, faults=[fault]) as server,
        agent_of(server) as agent,
        bounded(),
        runtime_of() as runtime,
    ):
        submitting = asyncio.create_task(runtime.submit(agent, "a story", stream=streamed))
        while not server.requests:
            await asyncio.sleep(0)

        (handle,) = await runtime.list()
        await handle.cancel()
        await submitting
        assert await handle.wait() is RunStatus.CANCELLED
        assert server.run().status == "cancelled"


async def test_a_run_whose_start_is_lost_while_it_is_cancelled_ends() -> None:
    faults = [Status(429, 0.05, on="create"), DropStart("before")]
    async with (
        ResponsesServer(script=LONG, faults=faults) as server,
        agent_of(server) as agent,
        bounded(),
        runtime_of() as runtime,
    ):
        submitting = asyncio.create_task(runtime.submit(agent, "a story"))
        while not server.requests:
            await asyncio.sleep(0)

        (handle,) = await runtime.list()
        await handle.cancel()
        await asyncio.wait({submitting})
        assert submitting.exception() is not None
        assert handle.done()


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_thread_hears_the_question_before_the_answer(streamed: bool) -> None:
    async with (
        ResponsesServer(script=Script.story(3)) as server,
        agent_of(server) as agent,
        bounded(),
        runtime_of() as runtime,
    ):
        thread = agent.get_new_thread()
        handle = await runtime.submit(agent, "a story", thread=thread, stream=streamed)
        await handle.result()
        assert [message.role for message in thread.messages] == ["user", "assistant"]
        handle = await runtime.submit(agent, "another", thread=thread, stream=streamed)
        await handle.result()
        assert [message.role for message in thread.messages] == ["user", "assistant"] * 2
        assert server.run().request["previous_response_id"] == server.run(0).id


async def test_as_completed_gives_each_handle_once_in_the_order_of_their_ends() -> None:
    scripts = [Script.text(str(i)).lasting(running=0.1 * (3 - i)) for i in range(3)]
    async with ResponsesServer(script=scripts) as server, agent_of(server) as agent, runtime_of() as runtime:
        handles = [await runtime.submit(agent, "go") for _ in range(3)]
        async with bounded():
            done = [handle async for handle in runtime.as_completed(handles)]

        assert done == handles[::-1]


async def test_two_takers_of_one_stored_run_share_it(tmp_path: Path) -> None:
    async with ResponsesServer(script=SHORT) as server, agent_of(server) as agent, bounded():
        async with runtime_of(SQLiteStore(tmp_path / "runs")) as runtime:
            handle = await runtime.submit(agent, "a story")
            token = handle.token

        async with runtime_of(SQLiteStore(tmp_path / "runs")) as runtime:
            first, second = await asyncio.gather(
                runtime.resume(str(token), agent=agent), runtime.resume(str(token), agent=agent)
            )
            assert first.id == second.id == handle.id
            assert (await first.result()).text == (await second.result()).text == server.run().text

        async with runtime_of() as runtime:
            first, second = await asyncio.gather(
                runtime.resume(str(token), agent=agent), runtime.resume(str(token), agent=agent)
            )
            assert first.id == second.id


async def test_the_end_of_a_stream_is_its_last_update() -> None:
    async with (
        ResponsesServer(script=Script.story(3)) as server,
        agent_of(server) as agent,
        runtime_of() as runtime,
        bounded(),
    ):
        handle = await runtime.submit(agent, "a story")
        updates = await drain(handle.stream())
        assert updates[-1].type is UpdateType.END
        with pytest.raises(RunUnknown):
            await runtime.get("run_of_nobody")


class FullDisk(MemoryStore):
    """Refuses all saves once it is full."""

    full = False

    async def save(self, record: RunRecord, updates: Sequence[AgentRunResponseUpdate] = ()) -> None:
        if self.full:
            raise StoreError("The disk is full.")

        await super().save(record, updates)


@both
async def test_a_store_that_fails_is_told_to_all_who_hold_the_run_and_the_run_goes_on(streamed: bool) -> None:
    store = FullDisk()
    script = Script.story(20).lasting(delay=0.01)
    async with (
        ResponsesServer(script=script) as server,
        agent_of(server) as agent,
        runtime_of(store) as runtime,
        bounded(5),
    ):
        handle = await runtime.submit(agent, "a story", stream=streamed)
        waiters = [asyncio.create_task(handle.result()), asyncio.create_task(drain(handle.stream()))]
        await asyncio.sleep(0.03)
        store.full = True
        for waiter in waiters:
            with pytest.raises(StoreError, match="disk is full"):
                await waiter

        for call in (handle.result, handle.wait, handle.cancel, lambda: drain(handle.stream())):
            with pytest.raises(StoreError, match="disk is full"):
                await call()

        store.full = False
        again = await runtime.get(handle.id)
        assert (await again.result()).text == server.run().text
        check(await drain(again.stream()), server.run().text)
        assert server.count("create") == 1


@pytest.mark.parametrize("journal", ["full", "checkpoint", "off"])
async def test_a_failed_run_whose_service_hides_its_text_shows_what_another_owner_had_delivered(journal: JournalMode):
    script = Script.failed("server_error", "It broke.", after="one two three four five six").lasting(delay=0.05)
    store = MemoryStore()
    async with ResponsesServer(script=script) as server, agent_of(server) as agent:
        async with AgentRuntime(store, poll=POLL, stream=STREAM, agents=[agent], journal=journal) as first:
            handle = await first.submit(agent, "x", stream=True)
            async for update in handle.stream():
                if update.text:
                    break

        async with AgentRuntime(store, poll=POLL, stream=STREAM, agents=[agent], journal=journal) as second:
            taken_up = await second.get(handle.id)
            updates = [update async for update in taken_up.stream()]

        assert taken_up.status is RunStatus.FAILED
        assert joined(updates) == taken_up.response.text == "one two three four five six"
