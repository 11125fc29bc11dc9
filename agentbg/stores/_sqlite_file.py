"""The file of a SQLiteStore: whose it is, who owns it, and how it is opened. Synchronous.

Nothing here opens the file by other means than SQLite: when a process closes any handle of a file, POSIX drops all the
locks it holds on that file, those of its other connections included.

A store is made under another name and moved to its place when it is whole. So the main file names us from its first
moment on, and can be read without joining in (`immutable`), which leaves no trace beside a file that turns out to be
somebody else's.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from ..core.model import JSON, StartRequest
from ..errors import StoreError, StoreInUse, StoreInvalid, StoreNewer

T = TypeVar("T")
APPLICATION_ID = int.from_bytes(b"abgS")
SCHEMA_VERSION = 2
BUSY_TIMEOUT = 5.0
"""Seconds to wait for another program, such as the sqlite3 shell, that locks the file for a moment."""

_NOT_A_STORE = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR})

_ADVICE: Mapping[int | None, str] = {
    sqlite3.SQLITE_FULL: "The disk is full: make room; what was not saved is not lost while its runtime lives.",
    sqlite3.SQLITE_IOERR: "The disk failed or is full: look at it before you go on.",
    sqlite3.SQLITE_CORRUPT: "The file is damaged: restore it from a backup, or use another file.",
    sqlite3.SQLITE_NOTADB: "The file is damaged: restore it from a backup, or use another file.",
    sqlite3.SQLITE_BUSY: "Another program holds the file: end its transaction, then try again.",
    sqlite3.SQLITE_READONLY: "The file cannot be written: check the permissions of the file and its folder.",
    sqlite3.SQLITE_CANTOPEN: "Check that the file and its folder exist, and their permissions.",
    sqlite3.SQLITE_PERM: "Check the permissions of the file and its folder.",
}

_SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """
    CREATE TABLE runs (
        id TEXT PRIMARY KEY,
        status TEXT NOT NULL,
        agent TEXT NOT NULL,
        provider TEXT NOT NULL,
        endpoint TEXT NOT NULL,
        remote_id TEXT,
        created_at REAL NOT NULL,
        finished_at REAL,
        epoch INTEGER NOT NULL,
        state BLOB NOT NULL
    )
    """,
    # Apart from the runs, whose rows are rewritten with every save: a request can be a conversation of 100 kB.
    "CREATE TABLE requests (run_id TEXT PRIMARY KEY, request BLOB)",
    # Rows lie in the order of their commits: those of many runs that share a commit share their pages.
    "CREATE TABLE updates (run_id TEXT, seq INTEGER, payload BLOB NOT NULL, first INTEGER, PRIMARY KEY (run_id, seq))",
    """
    CREATE TRIGGER runs_deleted AFTER DELETE ON runs BEGIN
        DELETE FROM requests WHERE run_id = old.id;
        DELETE FROM updates WHERE run_id = old.id;
    END
    """,
    "CREATE INDEX runs_by_status ON runs (status, created_at)",
    "CREATE INDEX runs_by_age ON runs (created_at)",
    "CREATE INDEX runs_by_remote_id ON runs (remote_id) WHERE remote_id IS NOT NULL",
)
_ADDED = (
    # What the service called a run's earlier rounds: a token of one of them finds the run. Older files have none.
    "CREATE TABLE IF NOT EXISTS names (remote_id TEXT, run_id TEXT, PRIMARY KEY (remote_id, run_id)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS names_by_run ON names (run_id)",
    """
    CREATE TRIGGER IF NOT EXISTS names_deleted AFTER DELETE ON runs BEGIN
        DELETE FROM names WHERE run_id = old.id;
    END
    """,
    # Apart from the runs, as requests are: the outputs of tools can be large, and each is written once.
    """
    CREATE TABLE IF NOT EXISTS answers (run_id TEXT, round INTEGER, call INTEGER, answer BLOB NOT NULL,
        PRIMARY KEY (run_id, round, call))
    """,
    """
    CREATE TRIGGER IF NOT EXISTS answers_deleted AFTER DELETE ON runs BEGIN
        DELETE FROM answers WHERE run_id = old.id;
    END
    """,
    "CREATE TABLE IF NOT EXISTS notes (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
)
"""Part of the schema, too, and made in files that were written before: some of schema 1 have one or the other."""
_UPGRADE = (*_ADDED, "ALTER TABLE updates ADD COLUMN first INTEGER", f"PRAGMA user_version = {SCHEMA_VERSION}")
"""From schema 1, which had one update in a row."""
_STAND_INS = {
    "names": "CREATE TEMP TABLE names (remote_id, run_id)",
    "answers": "CREATE TEMP TABLE answers (run_id, round, call, answer)",
    "notes": "CREATE TEMP TABLE notes (key, value)",
}
"""For who only reads an older file."""


Columns = Mapping[str, str | float | None]
"""What runs are looked up by."""
Answers = Mapping[tuple[int, int], JSON]
"""The answers to a run's calls, by round and call."""


@dataclass(frozen=True, slots=True)
class StoreFile:
    """An open store file: the connection and, for its owner, the lock."""

    connection: sqlite3.Connection
    lock: sqlite3.Connection | None = None
    settled: dict[str, tuple[Sequence[object], StartRequest | None, Answers]] = field(default_factory=dict[str, Any])
    """What the file holds of live runs and hardly any save changes: columns, whose indexes would have to be updated,
    requests, which can be conversations of 100 kB, and the answers to calls. Must be cleared whenever a write is
    undone."""

    def or_not_at_all(self, work: Callable[[StoreFile], T]) -> T:
        """Do this inside a transaction; when it raises, what it wrote is undone, and nothing else."""
        self.connection.execute("SAVEPOINT job")
        try:
            done = work(self)
        except BaseException:
            self.settled.clear()
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK TO job")
                self.connection.execute("RELEASE job")

            raise

        self.connection.execute("RELEASE job")
        return done

    def close(self) -> None:
        """Close the connection, then release the lock."""
        if self.lock is not None:
            with suppress(sqlite3.Error):  # a courtesy, which a full disk may refuse
                self.connection.execute("DELETE FROM meta WHERE key = 'owner'")

        self.connection.close()
        if self.lock is not None:
            self.lock.close()


def open_file(path: Path, *, readonly: bool, durable: bool) -> StoreFile:
    """Open the store file at an absolute path, as its owner or for reading. Raises StoreError kinds."""
    try:
        return _open_readonly(path) if readonly else _open_owned(path, durable=durable)
    except sqlite3.Error as error:
        if _primary_code(error) in _NOT_A_STORE:
            raise StoreInvalid(f"{path} is not an agentbg store, or is damaged. It was not changed.") from error

        raise translate(error, path) from error
    except OSError as error:
        raise translate(error, path) from error


def translate(error: Exception, path: Path) -> StoreError:
    """An error of SQLite, or of the system, as a StoreError that says what to do."""
    advice = _ADVICE.get(_primary_code(error) if isinstance(error, sqlite3.Error) else None, "")
    return StoreError(f"{path}: {error}. {advice}".rstrip())


def _primary_code(error: sqlite3.Error) -> int | None:
    """SQLite's error code without its details; None for an error of the sqlite3 module itself."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _open_owned(path: Path, *, durable: bool) -> StoreFile:
    """Open the file for reading and writing as its only owner; make it when it is missing or empty.

    Raises StoreInUse while another owner lives, StoreInvalid or StoreNewer for a file that this version must not
    touch, StoreError or sqlite3.Error when it cannot be opened or written.
    """
    _check_folder(path)
    _check_identity(path)
    lock = _lock(path)
    try:
        return StoreFile(_open_writable(path, durable=durable), lock)
    except BaseException:
        lock.close()
        raise


def _open_readonly(path: Path) -> StoreFile:
    """Open the file for reading, whoever owns it. Raises as `_open_owned`, and StoreError when there is no store."""
    if _is_new(path):
        raise StoreError(f"There is no store at {path}. Check the path; a runtime makes the store when it opens it.")

    _check_identity(path)
    connection = _connect(path, "mode=ro")
    try:
        present = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for name in _STAND_INS.keys() - present:
            connection.execute(_STAND_INS[name])
    except BaseException:
        connection.close()
        raise

    return StoreFile(connection)


def _open_writable(path: Path, *, durable: bool) -> sqlite3.Connection:
    if _is_new(path):
        _make(path)

    connection = _connect(path, "mode=rw")
    try:
        _check(connection, path)
        _use_wal(connection, path, durable=durable)
        if _pragma(connection, "user_version") < SCHEMA_VERSION:
            _all_or_none(connection, _UPGRADE)

        owner = json.dumps({"pid": os.getpid(), "since": time.time()})
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('owner', ?)", [owner])
    except BaseException:
        connection.close()
        raise

    return connection


def _connect(path: Path, query: str, timeout: float = BUSY_TIMEOUT) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?{query}", uri=True, timeout=timeout, isolation_level=None)


def _make(path: Path) -> None:
    draft = _beside(path, "-new")
    # The WAL of a file that was deleted by hand would be replayed into the new one.
    for leftover in (draft, _beside(path, "-wal"), _beside(path, "-shm")):
        leftover.unlink(missing_ok=True)

    connection = _connect(draft, "mode=rwc")
    try:
        # Nobody goes on with a draft that was left half made, so it needs no journal on disk.
        connection.execute("PRAGMA journal_mode = MEMORY")
        _all_or_none(connection, (*_SCHEMA, *_ADDED))
    finally:
        connection.close()

    if path.exists():
        shutil.copymode(path, draft)

    draft.replace(path)


def _all_or_none(connection: sqlite3.Connection, statements: Iterable[str]) -> None:
    """Run these in one transaction. One that fails is undone when the connection is closed."""
    connection.execute("BEGIN")
    for statement in statements:
        connection.execute(statement)

    connection.execute("COMMIT")


def _use_wal(connection: sqlite3.Connection, path: Path, *, durable: bool) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError(f"The file system of {path} does not allow SQLite's WAL mode. Put the store on a local disk.")

    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")


def _lock(path: Path) -> sqlite3.Connection:
    """Take ownership: a transaction that never ends, on a file of its own. The system ends it with the process."""
    lock_path = _beside(path, "-lock")
    try:
        return _lock_file(lock_path)
    except sqlite3.Error as error:
        if _primary_code(error) == sqlite3.SQLITE_BUSY:
            raise StoreInUse(
                f"{path} is in use by {_owner(path)}. Close the other runtime, or use another file; "
                f"`agentbg list`, and any store opened with readonly=True, can read it meanwhile."
            ) from error

        raise StoreError(
            f"{lock_path} cannot be locked: {error}. Check the permissions of the file and its folder; "
            f"a damaged lock can be deleted while no runtime uses it."
        ) from error


def _lock_file(path: Path) -> sqlite3.Connection:
    lock = _connect(path, "mode=rwc", timeout=0)
    try:
        lock.execute("PRAGMA journal_mode = MEMORY")
        lock.execute("BEGIN EXCLUSIVE")
        # On a file that may not be written, "exclusive" passes and locks nothing; this, never committed, does not.
        lock.execute("PRAGMA user_version = 1")
    except BaseException:
        lock.close()
        raise

    return lock


def _owner(path: Path) -> str:
    """Who holds the lock, as far as the file tells."""
    try:
        connection = _connect(path, "mode=ro")
        try:
            (text,) = connection.execute("SELECT value FROM meta WHERE key = 'owner'").fetchone()
        finally:
            connection.close()

        owner = json.loads(text)
        since = datetime.fromtimestamp(owner["since"], UTC)
        return f"the runtime of process {owner['pid']} (since {since:%Y-%m-%d %H:%M:%S} UTC)"
    except (sqlite3.Error, TypeError, ValueError, KeyError):
        return "another runtime that is just starting"


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise StoreError(f"The folder {path.parent} does not exist. Make it first, or choose another path.")

    if path.exists() and not path.is_file():
        raise StoreError(f"{path} is not a file. Choose another path for the store.")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _is_new(path: Path) -> bool:
    return not path.exists() or path.stat().st_size == 0


def _check_identity(path: Path) -> None:
    """Raise StoreInvalid or StoreNewer for a file that is not ours to open. It is not changed in any way."""
    if _is_new(path):
        return

    has_wal = _beside(path, "-wal").exists()
    try:
        _look(path, "mode=ro&immutable=1")
    except sqlite3.DatabaseError as error:
        # Its owner may be moving pages from the WAL right now; then the second look settles it.
        if error.sqlite_errorcode != sqlite3.SQLITE_CORRUPT or not has_wal:
            raise

    if has_wal:
        _look(path, "mode=ro")


def _look(path: Path, query: str) -> None:
    connection = _connect(path, query)
    try:
        _check(connection, path)
    finally:
        connection.close()


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StoreInvalid or StoreNewer unless this is a store that this version knows."""
    application_id, version = (_pragma(connection, name) for name in ("application_id", "user_version"))
    if application_id != APPLICATION_ID:
        raise StoreInvalid(f"{path} belongs to another application. It was not changed. Choose another path.")

    if version > SCHEMA_VERSION:
        raise StoreNewer(
            f"{path} was written by a newer agentbg (schema {version}; this one knows {SCHEMA_VERSION}). "
            f"It was not changed. Update agentbg to use it."
        )

    connection.execute("SELECT 1 FROM meta LIMIT 0")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)
