"""One thread that owns a store's file, and one transaction for all writes that are queued.

What tasks ask for during one turn of the loop goes to the thread at the end of that turn; what they ask for while the
thread works goes to it when it comes back. So the more wait, the more share one commit.

A write that has time waits for company, too: the thread, sent for it, sleeps until a window after the last commit is
over, and takes all that is queued by then. The first write after a pause finds the window over; a write that has no
time, a read, and a full queue end it. However many share a commit, it costs one call to the thread, and one back.

The queue of writes is filled by the loop and emptied by the thread: a deque bears that. The loop looks at what is in it
only while the thread does not. The rest belongs to the loop.

The thread is a ThreadPoolExecutor's: the interpreter ends it at exit, even when nobody closed the store.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, TypeVar

from ..errors import UsageError
from . import _refusals
from ._sqlite_file import StoreFile

T = TypeVar("T")
Work = Callable[[StoreFile], T]

FULL = 256
"""Updates that have company enough."""


@dataclass(slots=True)
class _Job:
    work: Work[Any]
    done: asyncio.Future[Any]
    weight: int = 0
    """How many updates it brings that have time. 0 for what has none."""


_Outcome = tuple[Any, BaseException | None]
_Results = tuple[Sequence[_Job], Sequence[_Outcome]]


class Worker:
    """Runs work on a store's file, in the order in which it was asked for.

    It belongs to the event loop in which it was made. `translate` turns errors of SQLite into the store's own;
    `window` is in seconds.
    """

    def __init__(
        self, open_file: Callable[[], StoreFile], translate: Callable[[Exception], Exception], window: float
    ) -> None:
        self.commits = 0
        """Transactions committed so far."""
        self._open_file = open_file
        self._translate = translate
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="agentbg-store")
        self._file: StoreFile | None = None
        self._window = window
        self._committed_at = -inf
        self._enough = threading.Event()
        """Set to end a window."""
        self._writes: deque[_Job] = deque()
        self._reads: list[_Job] = []
        self._pressing = False
        """Something is queued that has no time."""
        self._gathered = 0
        """Updates that are queued and have time."""
        self._turn_ends = False
        """Somebody has asked for something during this turn of the loop."""
        self._errands = 0
        """What the thread was sent for and has not come back from."""
        self._closing: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Open the file. When that fails or is cancelled, nothing stays open."""
        try:
            await self._loop.run_in_executor(self._thread, self._open)
        except BaseException:
            self._thread.submit(self._close)
            self._thread.shutdown(wait=False)
            raise

    async def write(self, work: Work[T]) -> T:
        """What `work` returns, once its writes are committed. When it raises, they are undone, and no others.

        Cancelling does not stop it: the write happens all the same.
        """
        return await self._enqueue(self._writes, work)

    async def write_in_time(self, work: Work[T], weight: int) -> T:
        """As `write`, for `weight` updates that may wait for company. When `work` raises, it must have undone all."""
        self._gathered += weight
        return await self._enqueue(self._writes, work, weight)

    async def read(self, work: Work[T]) -> T:
        """What `work` returns. It sees all writes that were asked for earlier, and only committed ones."""
        return await self._enqueue(self._reads, work)

    async def aclose(self) -> None:
        """Finish what was asked for, close the file, end the thread. A cancellation only stops the waiting."""
        if self._closing is None:
            self._pressing = True
            self._hand_over()
            self._closing = asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)

        await asyncio.wait([self._closing])
        self._thread.shutdown(wait=True)  # its last task is done: this waits for the thread to return, not for work
        self._closing.result()

    def _enqueue(self, queue: list[_Job] | deque[_Job], work: Work[T], weight: int = 0) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        if self._file is None or self._closing is not None:
            raise _refusals.not_open()

        if loop is not self._loop:
            raise UsageError("The store was opened in another event loop. Open one store for each loop.")

        job = _Job(work, loop.create_future(), weight)
        queue.append(job)
        self._pressing = self._pressing or not weight
        if not self._turn_ends:
            self._turn_ends = True
            loop.call_soon(self._end_turn)

        return job.done

    def _end_turn(self) -> None:
        self._turn_ends = False
        if not self._errands:
            self._hand_over()
        elif self._pressing or self._gathered >= FULL:
            self._enough.set()

    def _hand_over(self) -> None:
        if self._pressing or self._gathered >= FULL:
            self._enough.set()

        if self._writes:
            self._send(self._commit)

        if self._reads:
            reads, self._reads = self._reads, []
            self._send(partial(self._look, reads))

    def _send(self, errand: Callable[[], _Results]) -> None:
        self._errands += 1
        self._loop.run_in_executor(self._thread, errand).add_done_callback(self._deliver)

    def _deliver(self, results: asyncio.Future[_Results]) -> None:
        self._errands -= 1
        for job, (value, error) in zip(*results.result(), strict=True):
            if job.done.done():  # its awaiter was cancelled
                continue

            if error is None:
                job.done.set_result(value)
            else:
                job.done.set_exception(self._explain(error))

        if self._closing is not None:  # the thread takes the last writes out of the queue, and no more come
            return

        self._gathered = sum(job.weight for job in self._writes)
        self._pressing = bool(self._reads) or any(not job.weight for job in self._writes)
        if not self._turn_ends:
            # Not at once: those who just got their answer may want to share the next commit.
            self._turn_ends = True
            self._loop.call_soon(self._end_turn)

    def _explain(self, error: BaseException) -> BaseException:
        if not isinstance(error, (sqlite3.Error, OverflowError)):
            return error

        explained = self._translate(error)
        explained.__cause__ = error
        return explained

    # What follows runs in the thread.

    def _open(self) -> None:
        self._file = self._open_file()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _opened(self) -> StoreFile:
        assert self._file is not None, "work goes to the thread only between its open and its close"
        return self._file

    def _commit(self) -> _Results:
        self._wait_for_company()
        jobs: list[_Job] = []
        while self._writes:
            jobs.append(self._writes.popleft())

        try:
            return jobs, self._commit_all(self._opened(), jobs)
        except Exception as error:  # noqa: BLE001  it goes to all who asked
            return jobs, [(None, error)] * len(jobs)

    def _wait_for_company(self) -> None:
        left = self._committed_at + self._window - time.monotonic()
        if left > 0:
            self._enough.wait(left)

        self._enough.clear()

    def _commit_all(self, file: StoreFile, jobs: Sequence[_Job]) -> Sequence[_Outcome]:
        db = file.connection
        db.execute("BEGIN IMMEDIATE")
        try:
            outcomes = [_write(file, job) for job in jobs]
            db.execute("COMMIT")
        except BaseException:
            file.settled.clear()
            if db.in_transaction:
                db.execute("ROLLBACK")

            raise

        self._committed_at = time.monotonic()
        self.commits += 1
        return outcomes

    def _look(self, jobs: Sequence[_Job]) -> _Results:
        file = self._opened()
        return jobs, [_run(file, job.work) for job in jobs]


def _write(file: StoreFile, job: _Job) -> _Outcome:
    outcome = _run(file, job.work if job.weight else lambda file: file.or_not_at_all(job.work))
    if outcome[1] is not None and not file.connection.in_transaction:
        raise outcome[1]  # a full disk, for one, makes SQLite undo the whole transaction

    return outcome


def _run(file: StoreFile, work: Work[Any]) -> _Outcome:
    try:
        return work(file), None
    except Exception as error:  # noqa: BLE001  it goes to the one who asked
        return None, error
