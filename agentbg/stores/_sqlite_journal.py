"""The journals in a SQLiteStore's file: rows of updates that came together. Synchronous, in the store's thread.

A row holds a JSON array of updates whose seqs follow each other, from `first` to `seq`; no update is in two rows. A row
of an older file holds one update by itself, and has no `first`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from ..core.update import AgentRunResponseUpdate
from .codec import decode_updates

PER_ROW = 256
"""Updates in a row at most: who reads some of them reads them all."""

Journal = Sequence[tuple[int, bytes]]
"""Encoded updates, each with its seq."""

_ADD = """
    INSERT INTO updates (run_id, first, seq, payload)
    SELECT id, ?, ?, ? FROM runs
    WHERE id = ? AND epoch <= ? AND NOT EXISTS (SELECT 1 FROM updates WHERE run_id = id AND seq >= ?)
"""
"""For a row that follows all others of its run, and a run that has no later owner."""
_INSERT = """
    INSERT INTO updates (run_id, first, seq, payload)
    SELECT :run_id, :seq, :seq, :payload
    WHERE NOT (SELECT count(*) FROM (
        SELECT coalesce(first, seq) AS first FROM updates WHERE run_id = :run_id AND seq >= :seq ORDER BY seq LIMIT 1
    ) WHERE first <= :seq)
"""
"""For an update that no row has: the one row that could have it is the next that ends at or after it."""
_READ = "SELECT seq, payload FROM updates WHERE run_id = ? AND seq > ? ORDER BY seq"


def add(db: sqlite3.Connection, run_id: str, epoch: int, row: Journal) -> bool:
    """Add a row that is whole, new, and the last of its journal; False, with nothing done, when it is not."""
    first, last = row[0][0], row[-1][0]
    payload = b"[%b]" % b",".join([payload for _, payload in row])
    return db.execute(_ADD, [first, last, payload, run_id, epoch, first]).rowcount == 1


def add_all(db: sqlite3.Connection, run_id: str, epoch: int, rows: Sequence[Journal]) -> None:
    """Add what is not there yet, of a run that the caller owns."""
    for row in rows:
        if not add(db, run_id, epoch, row):
            for seq, payload in row:
                db.execute(_INSERT, {"run_id": run_id, "seq": seq, "payload": b"[%b]" % payload})


def read(db: sqlite3.Connection, run_id: str, after: int, limit: int) -> Sequence[AgentRunResponseUpdate]:
    """At most `limit` updates with a seq above `after`."""
    found: list[AgentRunResponseUpdate] = []
    if limit > 0:
        for seq, payload in db.execute(_READ, [run_id, after]):
            found += [update for update in decode_updates(seq, payload) if update.seq > after]
            if len(found) >= limit:
                break

    return found[:limit]


def rows(updates: Journal) -> Sequence[Journal]:
    """Updates as they go into rows."""
    return list(_rows(updates))


def _rows(updates: Journal) -> Iterator[Journal]:
    begin = 0
    for end in range(1, len(updates) + 1):
        if end == len(updates) or updates[end][0] != updates[end - 1][0] + 1 or end - begin == PER_ROW:
            yield updates[begin:end]
            begin = end
