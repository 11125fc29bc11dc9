"""What a SQLiteStore does with its file: a function for each operation of a store. They run in the store's thread.

A write runs inside a transaction of many; raising undoes what it did, and no more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.model import StartRequest
from ..core.record import RunRecord
from ..core.status import RunStatus
from ..core.update import AgentRunResponseUpdate
from . import _refusals
from . import _sqlite_journal as journal
from ._sqlite_file import Answers, Columns, StoreFile
from .codec import (
    decode_answers,
    decode_record,
    encode_answer,
    encode_request,
    encode_state,
    remote_ids,
    without_answers,
)

_CREATE = """
    INSERT INTO runs (id, status, agent, provider, endpoint, remote_id, created_at, finished_at, epoch, state)
    VALUES (:id, :status, :agent, :provider, :endpoint, :remote_id, :created_at, :finished_at, :epoch, :state)
    ON CONFLICT (id) DO NOTHING
"""
_SAVE = "UPDATE runs SET epoch = :epoch, state = :state WHERE id = :id AND epoch <= :epoch"
_SAVE_COLUMNS = """
    UPDATE runs
    SET status = :status, agent = :agent, provider = :provider, endpoint = :endpoint,
        remote_id = :remote_id, created_at = :created_at, finished_at = :finished_at
    WHERE id = :id
"""
_SAVE_REQUEST = """
    INSERT INTO requests (run_id, request) VALUES (:id, :request)
    ON CONFLICT (run_id) DO UPDATE SET request = excluded.request WHERE request IS NOT excluded.request
"""
_SAVE_NAME = "INSERT INTO names (remote_id, run_id) VALUES (?, ?) ON CONFLICT DO NOTHING"
_RECORDS = """
    SELECT state, request, epoch, updates.seq, payload
    FROM runs
    LEFT JOIN requests ON requests.run_id = id
    LEFT JOIN updates ON updates.run_id = id AND seq = (SELECT max(seq) FROM updates WHERE run_id = id)
"""
_NOTE = "INSERT INTO notes (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_SAVE_ANSWER = """
    INSERT INTO answers (run_id, round, call, answer) VALUES (?, ?, ?, ?)
    ON CONFLICT (run_id, round, call) DO UPDATE SET answer = excluded.answer WHERE answer IS NOT excluded.answer
"""
_NO_ANSWERS: Answers = {}
_NOTHING: tuple[None, None, Answers] = (None, None, _NO_ANSWERS)
_NEWEST_FIRST = "ORDER BY created_at DESC, runs.rowid DESC"


@dataclass(frozen=True, slots=True)
class Row:
    """A record on its way to the file."""

    id: str
    epoch: int
    state: bytes
    columns: Columns
    earlier: Sequence[str]
    """What the service called its earlier rounds."""
    request: StartRequest | None
    answers: Answers
    terminal: bool

    @classmethod
    def of(cls, record: RunRecord) -> Row:
        """Serialise what can change; a request is frozen, and an answer given. Raises UsageError for what JSON cannot
        hold.
        """
        bare, answers = without_answers(record)
        return cls(
            id=record.id,
            epoch=record.epoch,
            state=encode_state(bare),
            columns=_columns(record),
            earlier=remote_ids(record)[:-1],
            request=record.request,
            answers=answers,
            terminal=record.status.terminal,
        )


def create(file: StoreFile, row: Row, request: bytes | None) -> None:
    """Insert a run with its request."""
    values = {"id": _text(row.id), "epoch": row.epoch, "state": row.state, **_storable(row.columns)}
    if not file.connection.execute(_CREATE, values).rowcount:
        raise _refusals.taken(row.id)

    _save_request(file, row.id, request)
    _save_names(file, row)
    _save_answers(file, row, {})
    _settle(file, row)


def acquire(file: StoreFile, run_id: str) -> RunRecord:
    """Raise the run's epoch by one."""
    file.connection.execute("UPDATE runs SET epoch = epoch + 1 WHERE id = ?", [_text(run_id)])
    return load(file, run_id)


def save(file: StoreFile, row: Row, updates: journal.Journal) -> None:
    """Update a run and append to its journal."""
    db, run_id = file.connection, _text(row.id)
    if not db.execute(_SAVE, {"id": run_id, "epoch": row.epoch, "state": row.state}).rowcount:
        raise _refusals.fenced(row.id, row.epoch, load(file, row.id).epoch)

    columns, request, answers = file.settled.get(row.id, _NOTHING)
    if columns != tuple(row.columns.values()):
        db.execute(_SAVE_COLUMNS, {"id": run_id, **_storable(row.columns)})
        _save_names(file, row)

    if columns is None or request is not row.request:
        _save_request(file, row.id, encode_request(row.request))

    _save_answers(file, row, answers)
    _settle(file, row)
    journal.add_all(db, run_id, row.epoch, journal.rows(updates))


def append(file: StoreFile, run_id: str, epoch: int, updates: journal.Journal) -> None:
    """Append to a run's journal: all, or nothing."""
    db, key, rows = file.connection, _text(run_id), journal.rows(updates)
    if len(rows) == 1 and journal.add(db, key, epoch, rows[0]):
        return

    owner = db.execute("SELECT epoch FROM runs WHERE id = ?", [key]).fetchone()
    if owner is None:
        raise _refusals.unknown(run_id)

    if epoch < owner[0]:
        raise _refusals.fenced(run_id, epoch, owner[0])

    file.or_not_at_all(lambda file: journal.add_all(file.connection, key, epoch, rows))


def load(file: StoreFile, run_id: str) -> RunRecord:
    """One record."""
    for row in _records(file, "WHERE id = ?", [_text(run_id)]):
        return row

    raise _refusals.unknown(run_id)


def list_runs(
    file: StoreFile, statuses: Collection[RunStatus] | None, agent: str | None, limit: int | None
) -> Sequence[RunRecord]:
    """Records by status and agent, the newest first."""
    conditions, values = ["TRUE"], list[Any]()
    if statuses is not None:
        conditions.append(f"status IN ({_marks(statuses)})")
        values.extend(str(status) for status in statuses)

    if agent is not None:
        conditions.append("agent = ?")
        values.append(_text(agent))

    values.append(-1 if limit is None else limit)
    return _records(file, f"WHERE {' AND '.join(conditions)} {_NEWEST_FIRST} LIMIT ?", values)


def find(file: StoreFile, provider: str, endpoint: str, remote_id: str) -> RunRecord | None:
    """The newest record with this id at this service."""
    named = "(remote_id = :name OR id IN (SELECT run_id FROM names WHERE remote_id = :name))"
    where = f"WHERE {named} AND provider = :provider AND endpoint = :endpoint"
    values = {"name": _text(remote_id), "provider": _text(provider), "endpoint": _text(endpoint)}
    found = _records(file, f"{where} {_NEWEST_FIRST} LIMIT 1", values)
    return found[0] if found else None


def read(file: StoreFile, run_id: str, after: int, limit: int) -> Sequence[AgentRunResponseUpdate]:
    """A part of a run's journal."""
    updates = journal.read(file.connection, _text(run_id), after, limit)
    if not updates:
        load(file, run_id)

    return updates


def delete(file: StoreFile, run_id: str) -> None:
    """Delete a run; a trigger deletes all that belongs to it."""
    file.settled.pop(run_id, None)
    file.connection.execute("DELETE FROM runs WHERE id = ?", [_text(run_id)])


def purge(file: StoreFile, before: float) -> int:
    """Delete the terminal runs that finished before `before`; how many they were."""
    terminal = [status.value for status in RunStatus if status.terminal]
    sql = f"DELETE FROM runs WHERE finished_at < ? AND status IN ({_marks(terminal)})"  # noqa: S608  only marks
    return file.connection.execute(sql, [before, *terminal]).rowcount


def note(file: StoreFile, key: str, value: bytes) -> None:
    """Keep a fact."""
    file.connection.execute(_NOTE, [_bytes(key), value])


def notes(file: StoreFile, prefix: str) -> Mapping[str, bytes]:
    """Facts by the beginning of their keys."""
    first = _bytes(prefix)
    after = first + b"\xff"  # which no UTF-8 has
    rows = file.connection.execute("SELECT key, value FROM notes WHERE key >= ? AND key < ?", [first, after])
    return {key.decode("utf-8", "surrogatepass"): value for key, value in rows}


def _save_request(file: StoreFile, run_id: str, request: bytes | None) -> None:
    file.connection.execute(_SAVE_REQUEST, {"id": _text(run_id), "request": request})


def _save_names(file: StoreFile, row: Row) -> None:
    file.connection.executemany(_SAVE_NAME, [(_text(name), _text(row.id)) for name in row.earlier])


def _save_answers(file: StoreFile, row: Row, known: Answers) -> None:
    for place, answer in row.answers.items():
        if known.get(place) is not answer:
            file.connection.execute(_SAVE_ANSWER, [_text(row.id), *place, encode_answer(answer)])


def _settle(file: StoreFile, row: Row) -> None:
    """Remember what need not be written again while the run goes on."""
    if row.terminal:
        file.settled.pop(row.id, None)
    else:
        file.settled[row.id] = tuple(row.columns.values()), row.request, row.answers or _NO_ANSWERS


def _columns(record: RunRecord) -> Columns:
    return {
        "status": record.status,
        "agent": record.agent,
        "provider": record.provider,
        "endpoint": record.endpoint,
        "remote_id": next(reversed(remote_ids(record)), None),
        "created_at": record.created_at,
        "finished_at": record.finished_at,
    }


def _storable(columns: Columns) -> Columns:
    return {name: _text(value) if isinstance(value, str) else value for name, value in columns.items()}


def _records(file: StoreFile, clauses: str, values: Sequence[Any] | Mapping[str, Any]) -> Sequence[RunRecord]:
    records = [decode_record(*row) for row in file.connection.execute(f"{_RECORDS} {clauses}", values).fetchall()]
    for record in records:
        if record.rounds:
            sql = "SELECT round, call, answer FROM answers WHERE run_id = ?"
            decode_answers(record, file.connection.execute(sql, [_text(record.id)]))

    return records


def _marks(values: Collection[Any]) -> str:
    return ", ".join("?" * len(values))


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _text(value: str) -> str:
    """SQLite's text is UTF-8, which has no lone surrogates; an id that has some is kept with them escaped."""
    return value.encode("utf-8", "backslashreplace").decode()
