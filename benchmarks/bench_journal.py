"""What it costs to keep a stream's updates: CPU per update, and how long a consumer waits for each, in every mode.

Live: 50 runs, 50 updates a second each, one at a time. Replay: one run, 5,000 updates, 200 at a time. Only the journal
is at work: the CPU is that of both threads, less that of the same updates with no journal at all; the delay is from an
update's being there to consumers' being told, for those that were not held up by the one before.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agentbg.clock import SystemClock
from agentbg.core.messages import Commit
from agentbg.core.run import Run
from agentbg.core.schedule import PollPolicy, StreamPolicy
from agentbg.core.status import RunStatus
from agentbg.core.update import AgentRunResponseUpdate
from agentbg.journal import Journal, open_journal
from agentbg.stores import MemoryStore, SQLiteStore, Store
from agentbg.testing.samples import make_record, make_updates

from .measure import ROUNDS

RUNS, RATE, SECONDS = 50, 50.0, 1.0
REPLAYED, TOGETHER = 5_000, 200
EVENT = (
    b'{"type":"response.output_text.delta","item_id":"msg_0123456789abcdef0123456789abcdef","output_index":0,'
    b'"content_index":0,"delta":"word ","logprobs":[],"sequence_number":4711,"obfuscation":"Zx81kQpLm0"}'
)
MODES = [("full", "commit"), ("full", "pipelined"), ("checkpoint", "commit"), ("off", "commit")]
STORES: dict[str, Callable[[Path], Store]] = {
    "SQLiteStore": SQLiteStore,
    "SQLiteStore, commit_window=0": lambda path: SQLiteStore(path, commit_window=0),
    "MemoryStore": lambda _: MemoryStore(),
}


@dataclass(frozen=True)
class Cost:
    cpu: float
    """Microseconds per update."""
    delays: Sequence[float]
    """Milliseconds, in order."""

    def delay(self, part: float) -> float:
        return self.delays[min(int(len(self.delays) * part), len(self.delays) - 1)]


@dataclass(frozen=True)
class Row:
    """What one way of keeping a journal costs: microseconds of CPU per update, and milliseconds of delay."""

    store: str
    journal: str
    live: float
    p50: float
    p99: float
    replay: float


@dataclass(frozen=True)
class Results:
    """All ways."""

    rows: list[Row]


class Owner:
    """One run's journal, driven as a runtime drives it. Without a journal, nothing is kept."""

    def __init__(self, number: int, count: int, kept: Journal | None, record_of: Run) -> None:
        self.kept, self._run = kept, record_of
        self.updates = [replace(update, source=EVENT) for update in make_updates(1, count)]
        self.begun = asyncio.get_running_loop().time() + 0.05 + number / RUNS / RATE
        self.delays: list[float] = []
        self.flushes: set[asyncio.Task[None]] = set()

    async def commit(self, updates: Sequence[AgentRunResponseUpdate]) -> None:
        self._run.record.position = updates[-1].position
        if self.kept is not None:
            flush_in = await self.kept.commit(Commit(updates, whole=False))
            if flush_in is not None:
                asyncio.get_running_loop().call_later(flush_in, self._flush)

    async def live(self) -> None:
        loop = asyncio.get_running_loop()
        for number, update in enumerate(self.updates):
            due = self.begun + number / RATE
            if (early := due - loop.time()) > 0:
                await asyncio.sleep(early)
                due = loop.time()

            await self.commit([update])
            if early > 0:
                self.delays.append((loop.time() - due) * 1000)

    async def replay(self) -> None:
        for first in range(0, len(self.updates), TOGETHER):
            begun = time.perf_counter()
            await self.commit(self.updates[first : first + TOGETHER])
            self.delays.append((time.perf_counter() - begun) * 1000)

    def _flush(self) -> None:
        assert self.kept is not None
        task = asyncio.ensure_future(self.kept.flush())
        self.flushes.add(task)
        task.add_done_callback(self.flushes.discard)


async def measure(store: Store, mode: tuple[str, str] | None, *, live: bool) -> Cost:
    await store.open()
    owners: list[Owner] = []
    for number in range(RUNS if live else 1):
        record = make_record(f"run_{number}", status=RunStatus.RUNNING, journal="full", flush="commit")
        record.journal, record.flush = mode or ("full", "commit")
        await store.create(record)
        run = Run(record, poll=PollPolicy(), stream=StreamPolicy(), draw=lambda: 0.5, now=0.0)
        kept = open_journal(store, SystemClock(), run) if mode else None
        owners.append(Owner(number, int(RATE * SECONDS) if live else REPLAYED, kept, run))

    begun = time.process_time()
    await asyncio.gather(*(owner.live() if live else owner.replay() for owner in owners))
    await asyncio.gather(*(owner.kept.flush() for owner in owners if owner.kept))
    cpu = time.process_time() - begun
    await store.aclose()
    delays = sorted(delay for owner in owners for delay in owner.delays) or [float("nan")]
    return Cost(cpu * 1e6 / sum(len(owner.updates) for owner in owners), delays)


def one(kind: str, mode: tuple[str, str] | None, *, live: bool) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(measure(STORES[kind](Path(folder) / "runs.db"), mode, live=live))


def cases() -> list[tuple[str, tuple[str, str]]]:
    every = [("SQLiteStore", mode) for mode in MODES]
    return [*every, ("SQLiteStore, commit_window=0", MODES[0]), ("MemoryStore", MODES[0])]


def measured(rounds: int) -> dict[tuple[str, tuple[str, str], bool], tuple[float, float, float]]:
    """By store, mode, and whether it is live: CPU in µs per update; the delay's median and 99th percentile in ms."""
    # Round by round, so that a slow moment of the machine meets all cases alike.
    found: dict[tuple[str, tuple[str, str], bool], list[tuple[float, float, float]]] = {}
    for _ in range(rounds):
        for live in (True, False):
            nothing = one("MemoryStore", None, live=live).cpu
            for kind, mode in cases():
                cost = one(kind, mode, live=live)
                result = (cost.cpu - nothing, cost.delay(0.5), cost.delay(0.99))
                found.setdefault((kind, mode, live), []).append(result)

    median = statistics.median
    return {case: tuple(map(median, zip(*results, strict=True))) for case, results in found.items()}  # type: ignore[misc]


def results(quick: bool) -> Results:
    found = measured(1 if quick else ROUNDS)
    rows: list[Row] = []
    for kind, mode in cases():
        (cpu, p50, p99), (replayed, _, _) = (found[kind, mode, live] for live in (True, False))
        rows.append(Row(kind, "full, pipelined" if mode == MODES[1] else mode[0], cpu, p50, p99, replayed))

    return Results(rows)
