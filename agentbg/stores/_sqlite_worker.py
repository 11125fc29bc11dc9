"""One thread that owns a store's file, and one transaction for all writes that are queued.

The queue lives in the event loop, so it needs no lock. What tasks ask for during one turn of the loop goes to the
thread at the end of that turn; what they ask for while the thread works goes to it when it comes back. No timer ever
holds a write up, and the more wait, the more share one commit.

The thread is a ThreadPoolExecutor's: the interpreter ends it at exit, even when nobody closed the store.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from ..errors import UsageError
from . import _refusals
from ._sqlite_file import StoreFile

T = TypeVar("T")
Work = Callable[[StoreFile], T]

_Outcome = tuple[Any, Exception | None]


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work[Any]
    done: asyncio.Future[Any]


class Worker:
    """Runs work on a store's file, in the order in which it was asked for.

    It belongs to the event loop in which it was made. `translate` turns errors of SQLite into the store's own.
    """

    def __init__(self, open_file: Callable[[], StoreFile], translate: Callable[[Exception], Exception]) -> None:
        self.commits = 0
        """Transactions committed so far."""
        self._open_file = open_file
        self._translate = translate
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="agentbg-store")
        self._file: StoreFile | None = None
        self._writes: list[_Job] = []
        self._reads: list[_Job] = []
        self._batches = 0
        """Batches that the thread has and has not given back."""
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

    async def read(self, work: Work[T]) -> T:
        """What `work` returns. It sees all writes that were asked for earlier, and only committed ones."""
        return await self._enqueue(self._reads, work)

    async def aclose(self) -> None:
        """Finish what was asked for, close the file, end the thread. A cancellation only stops the waiting."""
        if self._closing is None:
            self._hand_over()
            self._closing = asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)

        await asyncio.wait([self._closing])
        self._thread.shutdown(wait=True)  # its last task is done: this waits for the thread to return, not for work
        self._closing.result()

    def _enqueue(self, queue: list[_Job], work: Work[T]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        if self._file is None or self._closing is not None:
            raise _refusals.not_open()

        if loop is not self._loop:
            raise UsageError("The store was opened in another event loop. Open one store for each loop.")

        job = _Job(work, loop.create_future())
        if not self._writes and not self._reads:
            loop.call_soon(self._hand_over_if_idle)

        queue.append(job)
        return job.done

    def _hand_over_if_idle(self) -> None:
        if not self._batches:
            self._hand_over()

    def _hand_over(self) -> None:
        writes, self._writes = self._writes, []
        reads, self._reads = self._reads, []
        for run, jobs in ((self._commit, writes), (self._look, reads)):
            if jobs:
                self._batches += 1
                outcomes = self._loop.run_in_executor(self._thread, run, jobs)
                outcomes.add_done_callback(partial(self._deliver, jobs))

    def _deliver(self, jobs: Sequence[_Job], outcomes: asyncio.Future[Sequence[_Outcome]]) -> None:
        self._batches -= 1
        failure = outcomes.exception()
        results = [(None, failure)] * len(jobs) if failure else outcomes.result()
        for job, (value, error) in zip(jobs, results, strict=True):
            if job.done.done():  # its awaiter was cancelled
                continue

            if error is None:
                job.done.set_result(value)
            else:
                job.done.set_exception(self._explain(error))

        # Not at once: those who just got their answer may want to share the next commit.
        self._loop.call_soon(self._hand_over_if_idle)

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

    def _commit(self, jobs: Sequence[_Job]) -> Sequence[_Outcome]:
        file = self._opened()
        file.connection.execute("BEGIN IMMEDIATE")
        try:
            outcomes = [_run_in_savepoint(file, job.work) for job in jobs]
            file.connection.execute("COMMIT")
        except BaseException:
            file.settled.clear()
            if file.connection.in_transaction:
                file.connection.execute("ROLLBACK")

            raise

        self.commits += 1
        return outcomes

    def _look(self, jobs: Sequence[_Job]) -> Sequence[_Outcome]:
        file = self._opened()
        return [_run(file, job.work) for job in jobs]


def _run(file: StoreFile, work: Work[Any]) -> _Outcome:
    try:
        return work(file), None
    except Exception as error:  # noqa: BLE001  it goes to the one who asked
        return None, error


def _run_in_savepoint(file: StoreFile, work: Work[Any]) -> _Outcome:
    file.connection.execute("SAVEPOINT job")
    outcome = _run(file, work)
    if outcome[1] is not None:
        if not file.connection.in_transaction:  # a full disk, for one, makes SQLite undo the whole transaction
            raise outcome[1]

        file.connection.execute("ROLLBACK TO job")
        file.settled.clear()

    file.connection.execute("RELEASE job")
    return outcome
