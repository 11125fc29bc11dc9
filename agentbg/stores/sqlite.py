"""A store in one SQLite file."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from ..core.record import RunRecord
from ..core.status import RunStatus
from ..core.update import AgentRunResponseUpdate
from ..errors import UsageError
from . import _refusals
from . import _sqlite_work as work
from ._sqlite_file import open_file, translate
from ._sqlite_worker import Worker
from .codec import encode_request, encode_update

COMMIT_WINDOW = 0.025
"""Seconds. At 40 commits a second their own cost is a hundredth of a core, and nobody sees the difference in a text."""
LONGEST_WINDOW = 1.0
CROWD = 16
"""So many updates at once are their own company: they are of a replay, and wait for nobody."""


class SQLiteStore:
    """Keeps runs in one SQLite file, which is made when it is missing.

    One runtime at a time owns the file; any number of others read it (`open(readonly=True)`), in this process and in
    others. Beside it lie SQLite's `-wal` and `-shm`, and `-lock`, which the owner holds locked as long as it lives: the
    death of its process, however sudden, sets the store free. Keep the file on a local disk.

    Writes that come together are committed together. With `durable=True` each waits until the disk has it, and survives
    a loss of power. With `durable=False` it survives the death of the process only, and costs less.

    The updates of streams gather for up to `commit_window` seconds after a commit, or until there are 256, so that many
    streams share one. The first after a pause is committed at once, and so is everything that anybody waits for: a
    start, a status, an answer, an end, with all that has gathered. What a stream shows so comes up to a window later.
    With 0 nothing waits: an update is there half a millisecond after it came, and costs several times the CPU.

    A `StartRequest` is frozen, and a call is answered once: each is written once for each object, and what changes
    inside it later is not seen.

    Raises UsageError for a path that names no file, or a window that is none. All other errors come from `open` and the
    operations: `StoreError` and its kinds.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, durable: bool = True, commit_window: float = COMMIT_WINDOW
    ) -> None:
        if os.fspath(path) in ("", ":memory:"):
            raise UsageError(
                "SQLiteStore needs the path of a file. Use MemoryStore for runs that nothing must survive."
            )

        if not 0 <= commit_window <= LONGEST_WINDOW:
            raise UsageError(
                f"commit_window is how many seconds a stream's updates may wait for others: 0 to {LONGEST_WINDOW:g}, "
                f"not {commit_window}."
            )

        # SQLite puts its own files beside the real one, too; a symbolic link must not lead around the lock.
        self._path = Path(os.path.realpath(path))
        self._durable = durable
        self._window = commit_window
        self._readonly = False
        self._worker: Worker | None = None

    @property
    def path(self) -> Path:
        """The file, as an absolute path."""
        return self._path

    @property
    def commits(self) -> int:
        """Transactions committed since `open`: fewer than writes, when writes came together."""
        return self._worker.commits if self._worker else 0

    async def open(self, *, readonly: bool = False) -> None:
        """Open the file; become its owner unless `readonly`.

        Raises StoreInUse while another runtime owns it; StoreInvalid for a file that is no store and StoreNewer for
        that of a newer agentbg, which are both left untouched; StoreError when it cannot be opened, or when it is
        missing and `readonly`. After an error or a cancellation, nothing stays open.
        """
        if self._worker is not None:
            raise _refusals.open_already()

        opening = partial(open_file, self._path, readonly=readonly, durable=self._durable)
        worker = Worker(opening, partial(translate, path=self._path), self._window)
        self._worker, self._readonly = worker, readonly
        try:
            await worker.open()
        except BaseException:
            self._worker = None
            raise

    async def aclose(self) -> None:
        """Finish what was accepted, release ownership. It can be called twice; cancelling only stops the waiting."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.aclose()

    async def create(self, record: RunRecord) -> None:
        """Write a new run. Raises StoreError when the id is taken."""
        row, request = work.Row.of(record), encode_request(record.request)
        await self._writer().write(lambda file: work.create(file, row, request))

    async def acquire(self, run_id: str) -> RunRecord:
        """Become the run's owner: its record, with the epoch raised by one and stored. Raises RunUnknown."""
        return await self._writer().write(lambda file: work.acquire(file, run_id))

    async def save(self, record: RunRecord, updates: Sequence[AgentRunResponseUpdate] = ()) -> None:
        """Commit the run's new record and its updates. Raises RunUnknown, and Fenced for an older epoch."""
        row = work.Row.of(record)
        journal = [(update.seq, encode_update(update)) for update in updates]
        await self._writer().write(lambda file: work.save(file, row, journal))

    async def append(self, record: RunRecord, updates: Sequence[AgentRunResponseUpdate]) -> None:
        """Commit these updates, and their position. Raises RunUnknown, and Fenced for an older epoch."""
        run_id, epoch = record.id, record.epoch
        journal = [(update.seq, encode_update(update)) for update in updates]
        writer = self._writer()
        if len(journal) >= CROWD:
            await writer.write(lambda file: work.append(file, run_id, epoch, journal))
        else:
            await writer.write_in_time(lambda file: work.append(file, run_id, epoch, journal), len(journal) or 1)

    async def load(self, run_id: str) -> RunRecord:
        """The run's record as it is now. Raises RunUnknown."""
        return await self._reader().read(lambda file: work.load(file, run_id))

    async def list(
        self,
        *,
        statuses: Collection[RunStatus] | None = None,
        agent: str | None = None,
        limit: int | None = None,
    ) -> Sequence[RunRecord]:
        """Records, the newest first."""
        wanted = None if statuses is None else tuple(statuses)
        return await self._reader().read(lambda file: work.list_runs(file, wanted, agent, limit))

    async def find(self, provider: str, endpoint: str, remote_id: str) -> RunRecord | None:
        """The newest run with this id at this service, or None."""
        return await self._reader().read(lambda file: work.find(file, provider, endpoint, remote_id))

    async def read(self, run_id: str, *, after: int = 0, limit: int = 256) -> Sequence[AgentRunResponseUpdate]:
        """At most `limit` updates with a seq above `after`. Raises RunUnknown."""
        return await self._reader().read(lambda file: work.read(file, run_id, after, limit))

    async def delete(self, run_id: str) -> None:
        """Forget a run and its journal, if it is there."""
        await self._writer().write(lambda file: work.delete(file, run_id))

    async def purge(self, *, before: float) -> int:
        """Forget the terminal runs that finished before this Unix time; how many they were."""
        return await self._writer().write(lambda file: work.purge(file, before))

    async def note(self, key: str, value: bytes) -> None:
        """Commit a small fact, in the place of the one before."""
        kept = bytes(value)
        await self._writer().write_in_time(lambda file: work.note(file, key, kept), 1)

    async def notes(self, prefix: str = "") -> Mapping[str, bytes]:
        """The facts whose keys begin so."""
        return await self._reader().read(lambda file: work.notes(file, prefix))

    def _reader(self) -> Worker:
        if self._worker is None:
            raise _refusals.not_open()

        return self._worker

    def _writer(self) -> Worker:
        worker = self._reader()
        if self._readonly:
            raise _refusals.readonly()

        return worker
