"""A store in memory."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from operator import attrgetter

from ..core.model import NOTHING, StartRequest
from ..core.position import Position
from ..core.record import RunRecord
from ..core.status import RunStatus
from ..core.update import AgentRunResponseUpdate, UpdateType
from . import _refusals
from .codec import decode_record, decode_update, encode_request, encode_state, encode_update, remote_ids

_fields_of = attrgetter(*(field.name for field in fields(RunRecord)))


_Kept = bytes | tuple[UpdateType, str, str, Position]
"""An update, serialised; or type, text, source and position of one whose parts never change."""


@dataclass(slots=True)
class _Journal:
    """The updates of a run."""

    kept: dict[int, _Kept] = field(default_factory=dict[int, _Kept])
    seqs: list[int] = field(default_factory=list[int])
    """Its keys, ascending."""

    def add(self, seq: int, kept: _Kept) -> None:
        if not self.seqs or seq > self.seqs[-1]:
            self.kept[seq] = kept
            self.seqs.append(seq)
        elif seq not in self.kept:
            self.kept[seq] = kept
            insort(self.seqs, seq)

    def read(self, after: int, limit: int) -> list[AgentRunResponseUpdate]:
        start = bisect_right(self.seqs, after)
        return [_update(seq, self.kept[seq]) for seq in self.seqs[start : start + limit]]


@dataclass(slots=True)
class _Run:
    """One run: what a caller does to its own copy later reaches nobody else's."""

    head: RunRecord
    """A copy, without all that could be shared with the caller."""
    state: bytes | None
    """The record, serialised; None where `head` says all of it."""
    request: bytes | None
    asked: StartRequest | None
    """What `request` was written from, while the run goes on: it is not written again with every save."""
    earlier_ids: Sequence[str] = ()
    """What the service called the run's closed rounds."""
    journal: _Journal | None = None

    @classmethod
    def of(cls, record: RunRecord, before: _Run | None = None) -> _Run:
        head = RunRecord(*_fields_of(record))
        head.request, head.snapshot, head.rounds, head.metadata = None, None, (), NOTHING
        whole = record.snapshot is None and not record.rounds and not record.metadata
        same = before is not None and before.asked is not None and before.asked is record.request
        return cls(
            head,
            None if whole else encode_state(record),
            before.request if before and same else encode_request(record.request),
            record.request if record.status.live else None,
            remote_ids(record) if record.rounds else (),
            before.journal if before else None,
        )

    def record(self) -> RunRecord:
        state = encode_state(self.head) if self.state is None else self.state
        record = decode_record(state, self.request, self.head.epoch)
        if self.journal is not None and self.journal.seqs[-1] > record.position.seq:
            record.position = self.journal.read(self.journal.seqs[-1] - 1, 1)[0].position

        return record

    def bears(self, remote_id: str) -> bool:
        """True when this is, or was, its id at its service."""
        return (self.head.ref is not None and self.head.ref.id == remote_id) or remote_id in self.earlier_ids

    def append(self, updates: Sequence[tuple[int, _Kept]]) -> None:
        if updates and self.journal is None:
            self.journal = _Journal()

        for seq, kept in updates:
            assert self.journal is not None, "made above"
            self.journal.add(seq, kept)


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
        journal = [(update.seq, _kept(update)) for update in updates]
        self._runs[record.id] = run = _Run.of(record, run)
        run.append(journal)

    async def append(self, record: RunRecord, updates: Sequence[AgentRunResponseUpdate]) -> None:
        """Keep these updates, and their position. Raises RunUnknown, and Fenced for an older epoch."""
        run = self._own(record)
        run.append([(update.seq, _kept(update)) for update in updates])

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
            if run.bears(remote_id) and (run.head.provider, run.head.endpoint) == service:
                return run.record()

        return None

    async def read(self, run_id: str, *, after: int = 0, limit: int = 256) -> Sequence[AgentRunResponseUpdate]:
        """At most `limit` updates with a seq above `after`. Raises RunUnknown."""
        journal = self._run(run_id).journal
        return [] if journal is None else journal.read(after, limit)

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


def _kept(update: AgentRunResponseUpdate) -> _Kept:
    if isinstance(update.source, str):
        return update.type, update.text, update.source, update.position

    return encode_update(update)


def _update(seq: int, kept: _Kept) -> AgentRunResponseUpdate:
    if isinstance(kept, bytes):
        return decode_update(seq, kept)

    type_, text, source, position = kept
    return AgentRunResponseUpdate(type_, seq, text, source, None, position)
