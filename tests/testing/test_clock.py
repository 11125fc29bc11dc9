"""Virtual time: quick, exact, in order, fair to what is outside, and never silent when stuck."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time

import anyio
import pytest

from agentbg import Agent, AgentRuntime
from agentbg.clock import SystemClock
from agentbg.stores import SQLiteStore
from agentbg.testing import (
    Deadlock,
    ScriptedProvider,
    UnannouncedThread,
    VirtualClock,
    VirtualTimeLoop,
    announced,
    outside,
    run,
    virtual_time,
)

DAY = 86_400.0


def now() -> float:
    return asyncio.get_running_loop().time()


class TestStuck:
    def test_waiting_for_what_nobody_brings_is_a_deadlock_that_names_the_place(self):
        async def wait_for_ever():
            await asyncio.get_running_loop().create_future()

        with pytest.raises(Deadlock, match=r"test_clock\.py:\d+ in wait_for_ever"):
            run(wait_for_ever())

    def test_a_deadlock_is_found_after_the_last_timer_too(self):
        async def main():
            await asyncio.sleep(DAY)
            await asyncio.Event().wait()

        with pytest.raises(Deadlock):
            run(main())

    def test_the_tasks_of_a_deadlocked_test_are_cancelled(self):
        left = []

        async def main():
            try:
                await asyncio.Event().wait()
            finally:
                left.append("cleaned up")

        with pytest.raises(Deadlock):
            run(main())

        assert left == ["cleaned up"]

    def test_a_thread_call_that_never_ends_is_reported(self):
        release = threading.Event()
        loop = VirtualTimeLoop(patience=0.02)
        try:
            with pytest.raises(Deadlock, match="did not come back"):
                loop.run_until_complete(asyncio.wait_for(loop.run_in_executor(None, release.wait), DAY))
        finally:
            release.set()
            cancel_all(loop)

    def test_an_open_socket_on_which_nothing_comes_is_a_deadlock_after_a_while(self):
        loop = VirtualTimeLoop(patience=0.02)

        async def main():
            async with await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0) as server:
                await server.serve_forever()

        with pytest.raises(Deadlock):
            loop.run_until_complete(main())

        cancel_all(loop)

    def test_a_thread_that_was_not_announced_is_reported(self):
        async def main():
            future = asyncio.get_running_loop().create_future()
            threading.Thread(target=lambda: call_back(asyncio_loop, future), name="stranger").start()
            await asyncio.sleep(0)
            while not future.done():
                await asyncio.sleep(0)

        def call_back(loop, future):
            loop.call_soon_threadsafe(future.cancel)

        loop = asyncio_loop = VirtualTimeLoop()
        with pytest.raises(UnannouncedThread, match="stranger"):
            loop.run_until_complete(main())

        cancel_all(loop)


class TestTime:
    def test_a_day_passes_in_no_time(self):
        began = time.monotonic()
        assert run(asyncio.sleep(DAY, "done")) == "done"
        assert time.monotonic() - began < 1

    @virtual_time
    async def test_it_stands_still_while_anything_is_ready(self):
        for _ in range(100):
            await asyncio.sleep(0)

        assert now() == 0

    @virtual_time
    async def test_timers_fire_in_order_each_at_its_time(self):
        seen = []

        async def sleeper(seconds):
            await asyncio.sleep(seconds)
            seen.append((seconds, now()))

        await asyncio.gather(*(sleeper(seconds) for seconds in (7.5, 3 * DAY, 0.25, 2, DAY)))
        assert seen == [(s, pytest.approx(s, abs=1e-6)) for s in (0.25, 2, 7.5, DAY, 3 * DAY)]

    @virtual_time
    async def test_a_timeout_and_a_sleep_race_as_they_would_in_real_time(self):
        async with asyncio.timeout(60):
            await asyncio.sleep(59.999)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.sleep(60.001)

        assert now() == pytest.approx(119.999)

    @virtual_time
    async def test_cancelled_timers_do_not_attract_time(self):
        handle = asyncio.get_running_loop().call_later(5, lambda: None)
        asyncio.get_running_loop().call_later(9, lambda: None)
        handle.cancel()
        await asyncio.sleep(10)
        assert now() == 10

    @virtual_time
    async def test_timers_still_fire_when_a_nanosecond_is_lost_in_rounding(self):
        await asyncio.sleep(1000 * DAY)
        for _ in range(1000):
            await asyncio.sleep(0.1)

        asyncio.get_running_loop().call_at(now(), (fired := asyncio.Event()).set)
        await fired.wait()
        assert now() == pytest.approx(1000 * DAY + 100, abs=1e-3)

    @virtual_time
    async def test_anyio_runs_on_it(self):
        with anyio.move_on_after(30) as scope:
            await anyio.sleep(DAY)

        assert scope.cancelled_caught
        assert anyio.current_time() == 30

    def test_time_begins_where_it_is_told(self):
        async def main():
            await asyncio.sleep(1)
            return now()

        assert run(main(), start=1e9) == pytest.approx(1e9 + 1, abs=1e-3)

    def test_two_loops_have_two_times(self):
        assert run(asyncio.sleep(DAY)) is None
        assert run(read_now()) == 0


class TestOutside:
    @virtual_time
    async def test_a_thread_call_is_not_overtaken(self):
        async def slow():
            await asyncio.to_thread(work)
            return now()

        async with asyncio.timeout(0.001):
            assert await slow() == 0

    @virtual_time
    async def test_timers_go_on_after_the_thread_call(self):
        sleeper = asyncio.create_task(asyncio.sleep(DAY))
        await asyncio.to_thread(lambda: None)
        assert not sleeper.done()
        await sleeper
        assert now() == DAY

    @virtual_time
    async def test_a_cancelled_thread_call_does_not_hold_time(self):
        release = threading.Event()
        call = asyncio.create_task(asyncio.to_thread(release.wait))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.sleep(DAY)
        release.set()
        assert now() == DAY

    @virtual_time
    async def test_an_announced_thread_of_ones_own_is_not_overtaken(self):
        async with asyncio.timeout(0.001):
            with outside():
                await Worker().work()

        assert now() == 0

    @virtual_time
    async def test_an_announced_object_behaves_as_itself(self):
        worker = announced(Worker())
        async with asyncio.timeout(0.001):
            assert await worker.work() == "worked"

        assert worker.name == "worker"
        assert worker.plain() == "plain"

    def test_announcing_is_harmless_in_real_time(self):
        asyncio.run(announced(Worker()).work())

    @virtual_time
    async def test_a_server_and_its_client_in_one_loop_talk_as_ever(self):
        async def echo(reader, writer):
            writer.write(await reader.readline())
            await asyncio.sleep(DAY)
            writer.write(b"a day later\n")
            writer.close()

        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            assert await asyncio.wait_for(reader.readline(), 1) == b"hello\n"
            assert now() < 1
            assert await reader.readline() == b"a day later\n"
            assert now() >= DAY
            writer.close()
            await writer.wait_closed()

    @virtual_time
    async def test_a_run_of_a_day_is_kept_in_a_sqlite_store(self, tmp_path):
        provider = ScriptedProvider.text("Done", seconds=DAY / 2)
        store = announced(SQLiteStore(tmp_path / "runs.db"))
        async with AgentRuntime(store, clock=VirtualClock()) as runtime:
            handle = await runtime.submit(Agent(provider), "Take your time")
            response = await handle.result()

        assert response.text == "Done"
        assert DAY / 2 <= handle.elapsed < DAY / 2 + 20


@pytest.fixture
def seven() -> int:
    return 7


class TestDecorator:
    @virtual_time
    async def test_fixtures_reach_the_test(self, seven):
        assert seven == 7

    @pytest.mark.parametrize("seconds", [1, DAY])
    @virtual_time
    async def test_parameters_reach_the_test(self, seconds):
        await asyncio.sleep(seconds)
        assert now() == seconds

    @virtual_time(start=5.0)
    async def test_the_start_can_be_set(self):
        assert now() == 5

    def test_the_result_is_an_ordinary_function(self):
        assert not inspect.iscoroutinefunction(virtual_time(read_now))
        assert virtual_time(read_now)() == 0

    def test_what_the_test_raises_comes_out(self):
        @virtual_time
        async def failing():
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            failing()


class TestClocks:
    @virtual_time
    async def test_the_virtual_wall_moves_with_the_loop(self):
        clock = VirtualClock(start=1000)
        await asyncio.sleep(DAY)
        assert (clock.now(), clock.wall()) == (DAY, 1000 + DAY)

    async def test_the_system_clock_is_the_loops_and_the_walls(self):
        clock = SystemClock()
        assert clock.now() == pytest.approx(now(), abs=1)
        assert clock.wall() == pytest.approx(time.time(), abs=1)


class Worker:
    """Has a thread of its own that answers late, as a database's might."""

    name = "worker"

    def plain(self):
        return "plain"

    async def work(self):
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        threading.Thread(target=lambda: loop.call_soon_threadsafe(future.set_result, work())).start()
        return await future


def work() -> str:
    """Takes a while in a thread, without sleeping."""
    return "worked" if sum(range(500_000)) else ""


async def read_now() -> float:
    return now()


def cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()

    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
