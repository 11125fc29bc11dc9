"""What is written of a run, when, and what can be read of it again.

A run's journal is kept in one of three ways: `Journal` writes each update before any consumer sees it, `Behind` writes
a moment later, `Unkept` never. In the last two, consumers may know updates that no store does when the process dies.
The next owner makes good for them, whatever they were: `lost` is the most there can have been, its own updates have
seqs beyond, and the first of these is a RESET with the text so far. So a seq never stands for two places, and joining
the text since the last RESET is right for a consumer of any owner.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from .clock import Clock
from .core.messages import Commit
from .core.position import Position, digest
from .core.record import RunRecord
from .core.rounds import said as text_of
from .core.run import Run
from .core.update import AgentRunResponseUpdate, UpdateType
from .errors import UsageError
from .stores.base import Store

logger = logging.getLogger("agentbg")

JournalMode = Literal["full", "checkpoint", "off"]
Flush = Literal["commit", "pipelined"]

AHEAD = 256
"""Updates that consumers may know and the store does not: then the run's stream waits for the store."""
UNKEPT_AHEAD = 100_000
"""The same without a journal: then the record is saved."""
PIPELINED = 0.1
"""Seconds after which a pipelined update is written, with those that have come since: a few per run, in one row."""
CHECKPOINT = 1.0
"""Seconds between two checkpoints: what a crash makes the service send again."""


@dataclass(frozen=True, slots=True)
class Lost:
    """What this process has not of what an earlier owner told."""

    updates: int
    """At most so many were told and not stored."""
    text: str | None
    """The text of the run as the store has it, up to the record's position; None where it has not all of it."""


class Journal:
    """The journal of one run, for its owner and for who only reads it. Each update is in the store before it is seen.

    Raises what its store raises. A cancelled write happens whole or not at all.
    """

    __slots__ = ("_at", "_clock", "_record", "_store")

    def __init__(self, store: Store, clock: Clock, record: RunRecord) -> None:
        self._store, self._clock, self._record = store, clock, record
        self._at: Position | None = record.position
        """Where the record was with the last commit; None while one is not finished."""

    @property
    def run_id(self) -> str:
        """Whose journal it is."""
        return self._record.id

    async def commit(self, commit: Commit) -> float | None:
        """Take a commit: consumers may see its updates now. After how many seconds to call `flush`, if at all.

        What is whole is in the store by then, with all that came before.
        """
        record, self._at = self._record, None
        record.updated_at = self._clock.wall()
        if commit.settled:
            record.finished_at = record.updated_at if record.status.terminal else None

        flush_in = await self._commit(commit)
        self._at = record.position
        return flush_in

    async def read(self, after: int) -> Sequence[AgentRunResponseUpdate]:
        """Some of the updates with a seq above `after` that were committed; none when there are no more."""
        return await self._store.read(self._record.id, after=after)

    async def flush(self) -> None:
        """Write what is not written yet."""

    async def close(self) -> None:
        """Leave nothing unwritten: this owner is about to close."""

    async def lost(self) -> Lost | None:
        """What is to be known of the owner before; None where it had told no text."""
        at = self._record.position
        return Lost(0, await self.text()) if at.chars > at.before else None

    async def text(self) -> str | None:
        """The run's text as the store has it, up to the record's position; None where it has not all of it."""
        parts: list[str] = []
        after = 0
        while batch := await self._store.read(self._record.id, after=after):
            for update in batch:
                _tell(parts, update)

            after = batch[-1].seq

        at, text = self._record.position, "".join(parts)
        return text if (len(text), digest(text)) == (at.chars, at.digest) else None

    async def _commit(self, commit: Commit) -> float | None:
        await (self._store.save if commit.whole else self._store.append)(self._record, commit.updates)
        return None


class Behind(Journal):
    """Updates are seen at once, and in the store, in order, `seconds` later; `AHEAD` of them at most are not.

    With `raw=False` the service's events are not kept.
    """

    __slots__ = ("_awaited", "_raw", "_seconds", "_unwritten", "_writing")

    def __init__(self, store: Store, clock: Clock, record: RunRecord, seconds: float, *, raw: bool) -> None:
        super().__init__(store, clock, record)
        self._seconds, self._raw = seconds, raw
        self._unwritten: list[AgentRunResponseUpdate] = []
        self._writing = asyncio.Lock()
        self._awaited = False  # somebody is to call `flush`

    async def _commit(self, commit: Commit) -> float | None:
        if commit.whole:
            async with self._writing:
                await self._store.save(self._record, [*self._unwritten, *self._kept(commit.updates)])
                self._unwritten.clear()
        else:
            self._unwritten += self._kept(commit.updates)
            if len(self._unwritten) > AHEAD:
                await self.flush()

        if self._awaited or not self._unwritten:
            return None

        self._awaited = True
        return self._seconds

    async def flush(self) -> None:
        """Write what is not written yet."""
        self._awaited = False
        async with self._writing:
            batch = list(self._unwritten)
            if batch:
                await self._store.append(self._record, batch)
                del self._unwritten[: len(batch)]

    async def read(self, after: int) -> Sequence[AgentRunResponseUpdate]:
        """From the store; then what is not written yet."""
        here = list(self._unwritten)  # whatever comes before these is in the store
        stored = await super().read(after)
        if not here or (stored and stored[-1].seq + 1 < here[0].seq):
            return stored

        seen = stored[-1].seq if stored else after
        return [*stored, *(update for update in here if update.seq > seen)]

    async def close(self) -> None:
        """Leave nothing unwritten, and a word in the record that says so."""
        if self._record.position is not self._at:  # it is ahead of what was told: a commit failed, or was not made
            await self.flush()
        else:
            self._record.drained = self._record.epoch
            await self._commit(Commit())

    async def lost(self) -> Lost | None:
        """What is not written at any time, unless the last owner closed, or there was none."""
        record = self._record
        first_owner, all_written = record.epoch <= 1, record.drained == record.epoch - 1
        return await super().lost() if first_owner or all_written else Lost(AHEAD, await self.text())

    def _kept(self, updates: Sequence[AgentRunResponseUpdate]) -> Sequence[AgentRunResponseUpdate]:
        return updates if self._raw else [replace(update, source=None) for update in updates]


class Unkept(Journal):
    """No update is in the store but the one that a run rests with, its END or what says that it waits.

    Who asks for more than the latest update gets the text so far, as a RESET.
    """

    __slots__ = ("_last", "_run", "_said", "_saved", "_taken_up_at")

    def __init__(self, store: Store, clock: Clock, run: Run) -> None:
        super().__init__(store, clock, run.record)
        self._run = run
        self._said = [text_of(run.record.rounds)]
        self._last: AgentRunResponseUpdate | None = None
        self._taken_up_at = run.record.position
        self._saved = self._taken_up_at.seq

    async def _commit(self, commit: Commit) -> float | None:
        seq = self._record.position.seq
        if commit.whole or seq - self._saved >= UNKEPT_AHEAD:
            await self._store.save(self._record, [replace(commit.updates[-1], source=None)] if commit.settled else ())
            self._saved = seq

        for update in commit.updates:
            _tell(self._said, update)
            self._last = update

        return None

    async def read(self, after: int) -> Sequence[AgentRunResponseUpdate]:
        """The latest update, and what makes good for those before it."""
        if self._last is not None:
            return told(self._last, "".join(self._said), after)

        said, at = "".join(self._said), self._taken_up_at
        stored = await super().read(at.seq - 1)
        if stored:  # the run rested when this process got it
            last = stored[-1]
            return told(last, self._run.response.text if last.type is UpdateType.END else said, after)

        if (len(said), digest(said)) != (at.chars, at.digest):  # it was in the midst of a round, which begins anew
            return ()

        return told(AgentRunResponseUpdate(UpdateType.RESET, at.seq, said, position=at), said, after)

    async def lost(self) -> Lost | None:
        """All that came since the record was saved; its text, only if there was none yet."""
        return Lost(UNKEPT_AHEAD, "" if self._record.position.chars == 0 else None)


async def close_all(journals: Iterable[Journal]) -> None:
    """Have what was told stored. What a store refuses, the next owner makes good for, as after a crash."""
    closing = [(journal, journal.close()) for journal in journals if type(journal) is not Journal]
    outcomes = await asyncio.gather(*(close for _, close in closing), return_exceptions=True)
    for (journal, _), outcome in zip(closing, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            logger.warning("run %s: its last updates are not stored: %s", journal.run_id, outcome)


def told(last: AgentRunResponseUpdate, text: str, after: int) -> Sequence[AgentRunResponseUpdate]:
    """What follows `after` of a run of which there is only the last update, and the text that has come with it."""
    if after >= last.seq:
        return ()

    if after == last.seq - 1:
        return [last]

    if last.type not in (UpdateType.END, UpdateType.WAITING):
        return [AgentRunResponseUpdate(UpdateType.RESET, last.seq, text, position=last.position)]

    before = text.removesuffix(last.text)
    at = replace(last.position, seq=last.seq - 1, chars=len(before), digest=digest(before))
    return [AgentRunResponseUpdate(UpdateType.RESET, at.seq, before, position=at), last]


def _tell(parts: list[str], update: AgentRunResponseUpdate) -> None:
    """Put an update's text where it belongs."""
    if update.type is UpdateType.RESET:
        parts.clear()

    parts.append(update.text)


def check_choice(name: str, chosen: object, choices: object) -> None:
    """Raise UsageError for a word that is none of these."""
    words = get_args(choices)
    if chosen not in words:
        raise UsageError(f"{name} is one of {', '.join(map(repr, words))}; not {chosen!r}.")


def open_journal(store: Store, clock: Clock, run: Run) -> Journal:
    """The journal of this run, kept as its record says."""
    record = run.record
    match record.journal, record.flush:
        case "off", _:
            return Unkept(store, clock, run)
        case "checkpoint", _:
            return Behind(store, clock, record, CHECKPOINT, raw=False)
        case _, "pipelined":
            return Behind(store, clock, record, PIPELINED, raw=True)
        case _:
            return Journal(store, clock, record)
