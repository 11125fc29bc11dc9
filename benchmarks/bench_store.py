"""How many updates each store takes in a second from 200 writers, each of which waits for its write before the next.

Every write is a save of one record with one update, as a streaming run makes it. "Durable" means that the disk has it
when `save` returns. The last rows show what a long conversation as the run's input costs.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from agentbg.core.model import StartRequest
from agentbg.core.record import RunRecord
from agentbg.core.status import RunStatus
from agentbg.stores import MemoryStore, SQLiteStore, Store
from agentbg.testing.samples import make_record, make_updates

from .measure import ROUNDS

WRITERS = 200
UPDATES = 100
CONVERSATION = [{"role": "user", "content": "word " * 40} for _ in range(250)]
"""About 58 kB of JSON."""

STORES: dict[str, Callable[[Path], Store]] = {
    "MemoryStore": lambda _: MemoryStore(),
    "SQLiteStore, durable": SQLiteStore,
    "SQLiteStore, not durable": lambda path: SQLiteStore(path, durable=False),
}


@dataclass(frozen=True)
class Case:
    """What is written to what."""

    kind: str
    writers: int = WRITERS
    request: StartRequest | None = None
    size: str = "none"
    """Of the runs' input."""


@dataclass(frozen=True)
class Row:
    """What one case came to."""

    kind: str
    writers: int
    size: str
    rate: float
    """Updates a second."""
    grouped: float
    """Updates per commit."""


@dataclass(frozen=True)
class Results:
    """All cases."""

    rows: list[Row]


async def write(store: Store, record: RunRecord) -> None:
    for update in make_updates(1, UPDATES):
        record.position = update.position
        await store.save(record, [update])


async def measure(store: Store, records: Sequence[RunRecord]) -> tuple[float, float]:
    """Updates per second, and updates per commit."""
    await store.open()
    for record in records:
        await store.create(record)

    before = getattr(store, "commits", 0)
    started = time.perf_counter()
    await asyncio.gather(*(write(store, record) for record in records))
    seconds = time.perf_counter() - started
    updates = len(records) * UPDATES
    commits = getattr(store, "commits", updates) - before
    await store.aclose()
    return updates / seconds, updates / commits


def records(writers: int, request: StartRequest | None) -> Sequence[RunRecord]:
    return [make_record(f"run_{n}", status=RunStatus.RUNNING, request=request) for n in range(writers)]


async def one_round(case: Case) -> tuple[float, float]:
    with TemporaryDirectory() as folder:
        return await measure(STORES[case.kind](Path(folder) / "runs.db"), records(case.writers, case.request))


async def results(quick: bool) -> Results:
    long = StartRequest(input=CONVERSATION)
    cases = [Case(kind) for kind in STORES]
    cases += [Case("SQLiteStore, durable", writers=1), Case("SQLiteStore, durable", request=long, size="58 kB")]
    # Round by round, so that a slow moment of the machine meets all cases alike.
    rounds = [[await one_round(case) for case in cases] for _ in range(1 if quick else ROUNDS)]
    rows: list[Row] = []
    for case, taken in zip(cases, zip(*rounds, strict=True), strict=True):
        rate, grouped = (statistics.median(values) for values in zip(*taken, strict=True))
        rows.append(Row(case.kind, case.writers, case.size, rate, grouped))

    return Results(rows)
