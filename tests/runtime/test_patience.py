"""One timer for many waits, in virtual time."""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest

from agentbg.patience import Patience
from agentbg.testing import virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual_time
async def test_a_wait_that_lasts_too_long_is_a_time_out_at_its_very_moment():
    with closing(Patience(10)) as patience:
        began = now()
        with pytest.raises(TimeoutError), patience:
            await asyncio.sleep(11)

        assert now() - began == 10
        assert not asyncio.current_task().cancelling()


@virtual_time
async def test_each_wait_has_its_own_time():
    with closing(Patience(10)) as patience:
        for _ in range(5):
            with patience:
                await asyncio.sleep(9)

        await asyncio.sleep(50)  # between two waits, time does not count
        began = now()
        with pytest.raises(TimeoutError), patience:
            await asyncio.sleep(11)

        assert now() - began == 10
        with patience:
            await asyncio.sleep(9)


@virtual_time
async def test_a_cancellation_from_outside_stays_one():
    async def waits():
        with closing(Patience(10)) as patience, patience:
            await asyncio.sleep(99)

    task = asyncio.create_task(waits())
    await asyncio.sleep(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@virtual_time
async def test_of_a_time_out_and_a_cancellation_at_once_the_cancellation_counts():
    async def waits():
        with closing(Patience(10)) as patience, patience:
            await asyncio.sleep(99)

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_at(now() + 10, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


@virtual_time
async def test_what_a_wait_raises_is_its_own():
    with closing(Patience(10)) as patience:
        with pytest.raises(KeyError), patience:
            raise KeyError

        with pytest.raises(TimeoutError, match="mine"), patience:
            raise TimeoutError("mine")


@virtual_time
async def test_the_waits_may_be_of_several_tasks_and_no_timer_is_left():
    patience = Patience(10)

    async def waits(seconds: float):
        with patience:
            await asyncio.sleep(seconds)

    await asyncio.create_task(waits(9))
    with pytest.raises(TimeoutError):
        await asyncio.create_task(waits(11))

    patience.close()
    patience.close()
    assert patience._timer is None
