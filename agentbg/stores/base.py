"""The contract of a store: the durable facts about runs.

1. **An intent comes first.** `create` writes the record before the start is sent. Once it returns, the record is
   durable: it survives the death of the process (a store that cannot, says so in its docstring).
2. **One transaction.** `save` commits the record and its updates together, or neither; `append` commits updates alone,
   and with them the position of the last, which from then on is the record's. Once they return, all is durable.
3. **Fenced.** Every `save` and `append` carries the record's epoch. `acquire` raises the epoch by one; from then on an
   older one raises `Fenced` and writes nothing. The engine that hands runs to owners may err; this rule may not.
4. **Idempotent append.** Saving an update whose (run, seq) is in the journal already changes nothing: the first wins.
5. **Ordered reads.** `read` gives all updates by ascending seq, and only committed ones. Seqs follow each other, but an
   owner may leave some out.
6. **One owner.** `open` takes the whole store for one runtime, or raises `StoreInUse`; `aclose`, or the death of the
   process, releases it. A store opened with `readonly=True` takes nothing and refuses every write.
7. **No aliasing.** What goes in is copied or serialised before the call first waits; what comes out is the caller's.

Beside the runs a store keeps **notes**: small facts of a runtime's own, a few bytes under a key. They belong to no run,
are never purged, and the last one of a key stands. Rule 6 holds for them, too.

Errors: `RunUnknown` for an id that is not there; `StoreError` kinds for the rest. Cancelling a call never corrupts
anything: the write either happens whole or not at all. Times are Unix times in seconds.

The updates that come out of `read` have `response` and `issuer` unset; the runtime fills them in.
`agentbg.testing.stores` holds the conformance suite that every store passes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

from ..core.record import RunRecord
from ..core.status import RunStatus
from ..core.update import AgentRunResponseUpdate


@runtime_checkable
class Store(Protocol):
    """Keeps runs and the journals of their updates."""

    async def open(self, *, readonly: bool = False) -> None:
        """Make ready, and take ownership unless `readonly`. Opening an open store raises `StoreInUse`."""
        ...

    async def aclose(self) -> None:
        """Finish what was accepted, release ownership. It can be called twice."""
        ...

    async def create(self, record: RunRecord) -> None:
        """Write a new run. Raises `StoreError` when the id is taken."""
        ...

    async def acquire(self, run_id: str) -> RunRecord:
        """Become the run's owner: its record, with the epoch raised by one and stored."""
        ...

    async def save(self, record: RunRecord, updates: Sequence[AgentRunResponseUpdate] = ()) -> None:
        """Commit the run's new record and the updates that belong to it (rules 2 to 4)."""
        ...

    async def append(self, record: RunRecord, updates: Sequence[AgentRunResponseUpdate]) -> None:
        """Commit these updates, of a record of which nothing else has changed but its position. The hot path."""
        ...

    async def load(self, run_id: str) -> RunRecord:
        """The run's record as it is now."""
        ...

    async def list(
        self,
        *,
        statuses: Collection[RunStatus] | None = None,
        agent: str | None = None,
        limit: int | None = None,
    ) -> Sequence[RunRecord]:
        """Records, the newest first."""
        ...

    async def find(self, provider: str, endpoint: str, remote_id: str) -> RunRecord | None:
        """The newest run that has, or had, this id at this service (`RunRef.id`): its rounds' count, too. Or None."""
        ...

    async def read(self, run_id: str, *, after: int = 0, limit: int = 256) -> Sequence[AgentRunResponseUpdate]:
        """At most `limit` updates with a seq above `after`."""
        ...

    async def delete(self, run_id: str) -> None:
        """Forget a run and its journal. Deleting what is not there is no error."""
        ...

    async def purge(self, *, before: float) -> int:
        """Forget the terminal runs that finished before this Unix time; how many they were."""
        ...

    async def note(self, key: str, value: bytes) -> None:
        """Keep a small fact, in the place of what was noted under this key before. Durable once it returns."""
        ...

    async def notes(self, prefix: str = "") -> Mapping[str, bytes]:
        """The facts whose keys begin so."""
        ...
