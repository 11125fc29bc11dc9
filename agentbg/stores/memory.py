"""A store in memory."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from ..core.record import RunRecord
from ..core.status import RunStatus
from ..core.update import AgentRunResponseUpdate
from . import _refusals
from .codec import decode_record, decode_update, encode_request, encode_state, encode_update, remote_ids


@dataclass(slots=True)
class _Run:
    """One run, serialised: what a caller does to its own copy later reaches nobody else's."""

    head: RunRecord
    """What runs are looked up by, without all that could be shared with the caller."""
    remote_ids: Sequence[str]
    state: bytes
    request: bytes | None
    journal: dict[int, bytes] = field(default_factory=dict[int, bytes])
    seqs: list[int] = field(default_factory=list[int])
    """The keys of the journal, ascending."""

    @classmethod
    def of(cls, record: RunRecord) -> _Run:
        head = replace(record, request=None, ref=None, snapshot=None, metadata={}, rounds=())
        return cls(head, remote_ids(record), encode_state(record), encode_request(record.request))

    def record(self) -> RunRecord:
        last = self.seqs[-1] if self.seqs else None
        return decode_record(self.state, self.request, self.head.epoch, last, self.journal.get(last or 0))

    def append(self, seq: int, payload: bytes) -> None:
        if not self.seqs or seq > self.seqs[-1]:
            self.journal[seq] = payload
            self.seqs.append(seq)
        elif seq not in self.journal:
            self.journal[seq] = payload
            insort(self.seqs, seq)


class MemoryStore:
    """Keeps runs in memory. **Nothing survives the process**; all other rules of a store hold.

    What was stored is still there when the same object is opened again. Made for tests, notebooks, and runs that may
    be lost. Nothing in it waits, so a cancellation never finds a write half done.
    """

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._notes: dict[str, bytes] = {}
        self._open = False
        self._readonly = False

    async def open(self, *, readonly: bool = False) -> None:
        """Make ready. Raises StoreInUse when it is open already."""
        if self._open:
            raise _refusals.open_already()

        self._open, self._readonly = True, readonly

    async def aclose(self) -> None:
        """Release ownership; the runs stay in this object. It can be called twice."""
        self._open = False

    async def create(self, record: RunRecord) -> None:
        """Keep a new run. Raises StoreError when the id is taken."""
        runs = self._writable()
        if record.id in runs:
            raise _refusals.taken(record.id)

        runs[record.id] = _Run.of(record)

    async def acquire(self, run_id: str) -> RunRecord:
        """Become the run's owner: its record, with the epoch raised by one. Raises RunUnknown."""
        self._writable()
        run = self._run(run_id)
        run.head.epoch += 1
        return run.record()

    async def save(self, record: RunRecord, updates: Sequence[AgentRunResponseUpdate] = ()) -> None:
        """Keep the run's new record and its updates. Raises RunUnknown, and Fenced for an older epoch."""
        run = self._own(record)
        # All is encoded before anything is kept: a part that is not JSON must not leave half a save behind.
        payloads = [(update.seq, encode_update(update)) for update in updates]
        self._runs[record.id] = replace(_Run.of(record), journal=run.journal, seqs=run.seqs)
        for seq, payload in payloads:
            run.append(seq, payload)

    async def append(self, record: RunRecord, updates: Sequence[AgentRunResponseUpdate]) -> None:
        """Keep these updates, and their position. Raises RunUnknown, and Fenced for an older epoch."""
        run = self._own(record)
        for seq, payload in [(update.seq, encode_update(update)) for update in updates]:
            run.append(seq, payload)

    async def load(self, run_id: str) -> RunRecord:
        """The run's record as it is now. Raises RunUnknown."""
        return self._run(run_id).record()

    async def list(
        self,
        *,
        statuses: Collection[RunStatus] | None = None,
        agent: str | None = None,
        limit: int | None = None,
    ) -> Sequence[RunRecord]:
        """Records, the newest first."""
        wanted = (
            run
            for run in self._newest_first()
            if (statuses is None or run.head.status in statuses) and agent in (None, run.head.agent)
        )
        return [run.record() for run in islice(wanted, limit)]

    async def find(self, provider: str, endpoint: str, remote_id: str) -> RunRecord | None:
        """The newest run with this id at this service, or None."""
        service = (provider, endpoint)
        for run in self._newest_first():
            if remote_id in run.remote_ids and (run.head.provider, run.head.endpoint) == service:
                return run.record()

        return None

    async def read(self, run_id: str, *, after: int = 0, limit: int = 256) -> Sequence[AgentRunResponseUpdate]:
        """At most `limit` updates with a seq above `after`. Raises RunUnknown."""
        run = self._run(run_id)
        start = bisect_right(run.seqs, after)
        return [decode_update(seq, run.journal[seq]) for seq in run.seqs[start : start + limit]]

    async def delete(self, run_id: str) -> None:
        """Forget a run and its journal, if it is there."""
        self._writable().pop(run_id, None)

    async def purge(self, *, before: float) -> int:
        """Forget the terminal runs that finished before this Unix time; how many they were."""
        runs = self._writable()
        old = [run_id for run_id, run in runs.items() if _finished_before(run.head, before)]
        for run_id in old:
            del runs[run_id]

        return len(old)

    async def note(self, key: str, value: bytes) -> None:
        """Keep a small fact, in the place of the one before."""
        self._writable()
        self._notes[key] = bytes(value)

    async def notes(self, prefix: str = "") -> Mapping[str, bytes]:
        """The facts whose keys begin so."""
        self._readable()
        return {key: value for key, value in self._notes.items() if key.startswith(prefix)}

    def _readable(self) -> dict[str, _Run]:
        if not self._open:
            raise _refusals.not_open()

        return self._runs

    def _writable(self) -> dict[str, _Run]:
        runs = self._readable()
        if self._readonly:
            raise _refusals.readonly()

        return runs

    def _own(self, record: RunRecord) -> _Run:
        self._writable()
        run = self._run(record.id)
        if record.epoch < run.head.epoch:
            raise _refusals.fenced(record.id, record.epoch, run.head.epoch)

        return run

    def _run(self, run_id: str) -> _Run:
        run = self._readable().get(run_id)
        if run is None:
            raise _refusals.unknown(run_id)

        return run

    def _newest_first(self) -> Iterable[_Run]:
        youngest_last = sorted(self._readable().values(), key=lambda run: run.head.created_at)
        return reversed(youngest_last)


def _finished_before(head: RunRecord, before: float) -> bool:
    return head.status.terminal and head.finished_at is not None and head.finished_at < before
