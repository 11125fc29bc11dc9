"""How many updates each store takes in a second from 200 writers, each of which waits for its write before the next.

    python -m benchmarks.bench_store [--quick]

Every write is a save of one record with one update, as a streaming run makes it. "Durable" means that the disk has it
when `save` returns. The last rows show what a long conversation as the run's input costs.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agentbg.core.model import StartRequest
from agentbg.core.record import RunRecord
from agentbg.core.status import RunStatus
from agentbg.stores import MemoryStore, SQLiteStore, Store
from agentbg.testing.samples import make_record, make_updates

WRITERS = 200
UPDATES = 100
ROUNDS = 5
CONVERSATION = [{"role": "user", "content": "word " * 40} for _ in range(250)]
"""About 58 kB of JSON."""

STORES: dict[str, Callable[[Path], Store]] = {
    "MemoryStore": lambda _: MemoryStore(),
    "SQLiteStore, durable": SQLiteStore,
    "SQLiteStore, not durable": lambda path: SQLiteStore(path, durable=False),
}


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


def one_round(kind: str, writers: int, request: StartRequest | None) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        store = STORES[kind](Path(folder) / "runs.db")
        return asyncio.run(measure(store, records(writers, request)))


def main() -> None:
    rounds_wanted = 1 if "--quick" in sys.argv[1:] else ROUNDS
    long = StartRequest(input=CONVERSATION)
    cases = [(kind, WRITERS, None, "none") for kind in STORES]
    cases += [("SQLiteStore, durable", 1, None, "none"), ("SQLiteStore, durable", WRITERS, long, "58 kB")]
    # Round by round, so that a slow moment of the machine meets all cases alike.
    rounds = [[one_round(kind, writers, request) for kind, writers, request, _ in cases] for _ in range(rounds_wanted)]
    print(f"| {'store':<24} | writers | input | updates/s | updates per commit |")
    print(f"|{'-' * 26}|--------:|------:|----------:|-------------------:|")
    for (kind, writers, _, size), results in zip(cases, zip(*rounds, strict=True), strict=True):
        rate, grouped = (statistics.median(values) for values in zip(*results, strict=True))
        print(f"| {kind:<24} | {writers:>7} | {size:>5} | {rate:>9,.0f} | {grouped:>18,.0f} |")


if __name__ == "__main__":
    main()
