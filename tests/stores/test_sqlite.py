"""What a SQLiteStore adds to the contract: its file, its owner, its one thread."""

import asyncio
import json
import os
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import closing
from dataclasses import replace

import pytest

from agentbg.core.model import StartRequest
from agentbg.core.status import RunStatus
from agentbg.errors import Fenced, RunUnknown, StoreError, StoreInUse, StoreInvalid, StoreNewer, UsageError
from agentbg.stores import SQLiteStore
from agentbg.stores.codec import encode_request, encode_state, encode_update
from agentbg.testing.samples import full_record, make_record, make_updates
from agentbg.testing.stores import opened

OTHER_PROCESS = """
import asyncio, os, sys
from agentbg.stores import SQLiteStore
from agentbg.testing.samples import make_record, make_updates

def say(word):
    print(word, flush=True)

async def hold(store):
    await store.create(make_record())
    say(os.getpid())
    await asyncio.Event().wait()

async def write(store):
    async def one(run_id):
        await store.create(make_record(run_id))
        for seq in range(1, 100_000):
            update, = make_updates(seq, seq)
            await store.save(make_record(run_id, position=update.position), [update])
            say(seq)
    await asyncio.gather(*(one(f"run_{n}") for n in range(20)))

async def forget(store):
    await store.create(make_record())
    say("leaving")

async def main():
    store = SQLiteStore(sys.argv[2])
    await store.open()
    await globals()[sys.argv[1]](store)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.db"


@pytest.fixture
def other_process(path):
    """Starts another process that owns the store, and gives it once it has said its first word."""
    processes = []

    def start(what):
        command = [sys.executable, "-c", OTHER_PROCESS, what, str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        process.first = process.stdout.readline().strip()
        assert process.first
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def contents(folder):
    """All files of a folder, byte by byte."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def foreign(path, *statements):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


class TestOwner:
    async def test_another_store_on_the_file_is_refused_and_told_who_owns_it(self, path):
        async with opened(SQLiteStore(path)):
            with pytest.raises(
                StoreInUse, match=rf"process {os.getpid()} .*Close .* or use another file.*agentbg list"
            ):
                await SQLiteStore(path).open()

    async def test_another_process_is_refused_and_told_who_owns_it(self, path, other_process):
        owner = other_process("hold")
        with pytest.raises(StoreInUse, match=f"process {owner.first} "):
            await SQLiteStore(path).open()

    async def test_a_killed_owner_frees_the_store_at_once_and_loses_nothing(self, path, other_process):
        owner = other_process("hold")
        owner.kill()
        owner.wait()
        async with opened(SQLiteStore(path)) as store:
            assert await store.load("run_1") == make_record()

    async def test_a_link_to_the_file_does_not_lead_around_the_owner(self, path, tmp_path):
        (tmp_path / "link.db").symlink_to(path)
        async with opened(SQLiteStore(path)):
            with pytest.raises(StoreInUse):
                await SQLiteStore(tmp_path / "link.db").open()

    async def test_a_refused_second_owner_does_not_loosen_the_lock(self, path):
        async with opened(SQLiteStore(path)):
            for _ in range(2):
                with pytest.raises(StoreInUse):
                    await SQLiteStore(path).open()

            async with opened(SQLiteStore(path), readonly=True):
                pass

            with pytest.raises(StoreInUse):
                await SQLiteStore(path).open()

    async def test_a_damaged_lock_is_named_and_the_store_left_alone(self, path):
        path.with_name("runs.db-lock").write_bytes(b"not a lock " * 1000)
        with pytest.raises(StoreError, match=r"runs\.db-lock cannot be locked"):
            await SQLiteStore(path).open()

        assert not path.exists()

    async def test_a_cancelled_open_leaves_the_store_free(self, path):
        opening = asyncio.create_task(SQLiteStore(path).open())
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        while True:  # the other thread is still closing what it opened
            try:
                async with opened(SQLiteStore(path)):
                    return
            except StoreInUse:
                continue

    async def test_the_store_belongs_to_its_loop(self, path):
        async with opened(SQLiteStore(path)) as store:
            with pytest.raises(UsageError, match="another event loop"):
                await asyncio.to_thread(asyncio.run, store.load("run_1"))


class TestFile:
    @pytest.mark.parametrize("content", [b"x", b"not a database " * 1000, b"SQLite format 3\0" + bytes(5000)])
    @pytest.mark.parametrize("readonly", [False, True])
    async def test_a_file_that_is_no_database_is_refused_and_untouched(self, path, content, readonly):
        path.write_bytes(content)
        with pytest.raises(StoreInvalid, match=r"runs\.db"):
            await SQLiteStore(path).open(readonly=readonly)

        assert contents(path.parent) == {"runs.db": content}

    @pytest.mark.parametrize("journal", ["DELETE", "WAL"])
    @pytest.mark.parametrize("readonly", [False, True])
    async def test_the_database_of_another_application_is_refused_and_untouched(self, path, journal, readonly):
        foreign(path, f"PRAGMA journal_mode = {journal}", "CREATE TABLE meta (key, value)", "CREATE TABLE runs (id)")
        before = contents(path.parent)
        with pytest.raises(StoreInvalid, match="another application"):
            await SQLiteStore(path).open(readonly=readonly)

        assert contents(path.parent) == before

    async def test_a_database_that_another_application_has_open_is_untouched(self, path):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("PRAGMA journal_mode = WAL")
            other.execute("CREATE TABLE t (x)")
            before = contents(path.parent)
            with pytest.raises(StoreInvalid):
                await SQLiteStore(path).open()

            assert contents(path.parent) == before

    @pytest.mark.parametrize("readonly", [False, True])
    async def test_a_store_of_a_newer_version_is_refused_and_untouched(self, path, readonly):
        async with opened(SQLiteStore(path)):
            pass

        foreign(path, "PRAGMA user_version = 3")
        before = contents(path.parent)
        with pytest.raises(StoreNewer, match="Update agentbg"):
            await SQLiteStore(path).open(readonly=readonly)

        assert contents(path.parent) == before

    async def test_a_version_that_is_still_in_the_wal_counts(self, path):
        async with opened(SQLiteStore(path)):
            pass

        with closing(sqlite3.connect(path, isolation_level=None)) as newer:
            newer.execute("PRAGMA user_version = 3")
            before = path.read_bytes()
            with pytest.raises(StoreNewer):
                await SQLiteStore(path).open()

            assert path.read_bytes() == before

    async def test_a_store_without_its_tables_is_refused(self, path):
        async with opened(SQLiteStore(path)):
            pass

        foreign(path, "DROP TABLE meta")
        with pytest.raises(StoreInvalid):
            await SQLiteStore(path).open()

    async def test_a_truncated_store_is_refused_and_untouched(self, path):
        async with opened(SQLiteStore(path)):
            pass

        path.write_bytes(path.read_bytes()[:5000])
        before = path.read_bytes()
        with pytest.raises(StoreInvalid, match="damaged"):
            await SQLiteStore(path).open()

        assert path.read_bytes() == before

    async def test_a_page_that_was_overwritten_is_reported_and_does_not_stop_the_store(self, path):
        async with opened(SQLiteStore(path)) as store:
            await store.create(make_record())
            for first in range(1, 2000, 100):
                await store.save(make_record(), make_updates(first, first + 99))

        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] + os.urandom(4096) + content[len(content) // 2 + 4096 :])
        async with opened(SQLiteStore(path)) as store:
            with pytest.raises(StoreError, match="damaged"):
                await store.read("run_1", limit=10_000)

            assert (await store.load("run_1")).request == make_record().request

    async def test_a_record_that_is_not_json_is_reported(self, path):
        async with opened(SQLiteStore(path)) as store:
            await store.create(make_record())
            await store.save(make_record(), make_updates(1, 1))

        foreign(path, "UPDATE runs SET state = x'7b'", "UPDATE updates SET payload = x'5b5d'")
        async with opened(SQLiteStore(path)) as store:
            for reading in (store.load("run_1"), store.read("run_1")):
                with pytest.raises(StoreError, match="damaged"):
                    await reading

    async def test_an_empty_file_becomes_a_store_and_keeps_its_permissions(self, path):
        path.touch(mode=0o600)
        async with opened(SQLiteStore(path)) as store:
            await store.create(make_record())

        assert path.stat().st_mode & 0o777 == 0o600
        assert sorted(contents(path.parent)) == ["runs.db", "runs.db-lock"]

    async def test_what_a_deleted_store_left_behind_does_not_get_into_the_new_one(self, path, other_process):
        owner = other_process("hold")
        owner.kill()
        owner.wait()
        path.unlink()
        assert path.with_name("runs.db-wal").stat().st_size
        async with opened(SQLiteStore(path)) as store:
            assert not await store.list()

    async def test_a_half_made_store_is_made_again(self, path):
        foreign(path.with_name("runs.db-new"), "CREATE TABLE meta (key, value)")
        async with opened(SQLiteStore(path)) as store:
            await store.create(make_record())

    async def test_a_missing_folder_is_named(self, tmp_path):
        with pytest.raises(StoreError, match=r"folder .*nowhere does not exist"):
            await SQLiteStore(tmp_path / "nowhere" / "runs.db").open()

    async def test_a_folder_is_no_file(self, tmp_path):
        with pytest.raises(StoreError, match="not a file"):
            await SQLiteStore(tmp_path).open()

    @pytest.mark.parametrize("protected", ["runs.db", "runs.db-lock"])
    async def test_a_file_that_cannot_be_written_is_named(self, path, protected):
        async with opened(SQLiteStore(path)):
            pass

        path.with_name(protected).chmod(0o400)
        if os.access(path.with_name(protected), os.W_OK):
            pytest.skip("this user may write everything")

        with pytest.raises(StoreError, match="permissions"):
            await SQLiteStore(path).open()

    async def test_a_folder_that_cannot_be_written_is_named(self, path):
        path.parent.chmod(0o500)
        try:
            if os.access(path.parent, os.W_OK):
                pytest.skip("this user may write everything")

            with pytest.raises(StoreError, match="permissions"):
                await SQLiteStore(path).open()
        finally:
            path.parent.chmod(0o700)

    @pytest.mark.parametrize("path", [":memory:", ""])
    def test_a_path_that_is_no_file_is_refused(self, path):
        with pytest.raises(UsageError, match="MemoryStore"):
            SQLiteStore(path)

    async def test_a_path_may_hold_any_character(self, tmp_path):
        path = tmp_path / "what? 100% #1 & ünïcode.db"
        async with opened(SQLiteStore(path)) as store:
            await store.create(make_record())

        assert path.stat().st_size


SCHEMA_1 = """
PRAGMA application_id = 1633838931;
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE runs (
    id TEXT PRIMARY KEY, status TEXT NOT NULL, agent TEXT NOT NULL, provider TEXT NOT NULL, endpoint TEXT NOT NULL,
    remote_id TEXT, created_at REAL NOT NULL, finished_at REAL, epoch INTEGER NOT NULL, state BLOB NOT NULL
);
CREATE TABLE requests (run_id TEXT PRIMARY KEY, request BLOB);
CREATE TABLE updates (run_id TEXT, seq INTEGER, payload BLOB NOT NULL, PRIMARY KEY (run_id, seq)) WITHOUT ROWID;
CREATE TRIGGER runs_deleted AFTER DELETE ON runs BEGIN
    DELETE FROM requests WHERE run_id = old.id;
    DELETE FROM updates WHERE run_id = old.id;
END;
CREATE INDEX runs_by_status ON runs (status, created_at);
CREATE INDEX runs_by_age ON runs (created_at);
CREATE INDEX runs_by_remote_id ON runs (remote_id) WHERE remote_id IS NOT NULL;
"""


class TestUpgrade:
    """Files of schema 1 have an update in each row, and may lack tables that came later."""

    @pytest.fixture
    def old(self, path):
        record, request = encode_state(make_record()), encode_request(make_record().request)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript(SCHEMA_1)
            values = ["run_1", "queued", "researcher", "openai", "3f5a", None, 1_767_225_600.25, None, 0, record]
            connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
            connection.execute("INSERT INTO requests VALUES ('run_1', ?)", [request])
            for update in make_updates(1, 5):
                values = ["run_1", update.seq, encode_update(update)]
                connection.execute("INSERT INTO updates VALUES (?, ?, ?)", values)

        return path

    async def check(self, store):
        assert await store.read("run_1") == make_updates(1, 5)
        assert await store.load("run_1") == make_record(position=make_updates(5, 5)[0].position)
        assert await store.find("openai", "3f5a", "resp_1") is None
        assert await store.notes() == {}

    async def test_an_older_file_is_read_as_it_is(self, old):
        before = old.read_bytes()
        async with opened(SQLiteStore(old), readonly=True) as store:
            await self.check(store)

        assert old.read_bytes() == before

    async def test_an_older_file_is_upgraded_by_its_owner_and_goes_on(self, old):
        async with opened(SQLiteStore(old)) as store:
            await self.check(store)
            await store.append(make_record(), make_updates(4, 9, "new "))
            await store.note("colour", b"red")

        async with opened(SQLiteStore(old)) as store:
            assert await store.read("run_1") == [*make_updates(1, 5), *make_updates(6, 9, "new ")]
            assert await store.notes() == {"colour": b"red"}

        with closing(sqlite3.connect(old)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (2,)

    async def test_an_upgrade_that_fails_leaves_the_file_of_its_age(self, old):
        foreign(old, "ALTER TABLE updates ADD COLUMN first INTEGER")
        before = old.read_bytes()
        with pytest.raises(StoreError):
            await SQLiteStore(old).open()

        with closing(sqlite3.connect(old)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (1,)

        assert old.read_bytes() == before


class TestReadonly:
    async def test_a_store_that_is_not_there_is_not_made(self, path):
        with pytest.raises(StoreError, match="no store at"):
            await SQLiteStore(path).open(readonly=True)

        assert not contents(path.parent)

    async def test_it_reads_what_another_process_writes(self, path, other_process):
        owner = other_process("write")
        async with opened(SQLiteStore(path), readonly=True) as reader:
            last = 0
            while last < 20:  # every update is there before its writer goes on
                owner.stdout.readline()
                record, updates = await reader.load("run_0"), await reader.read("run_0")
                assert [update.seq for update in updates] == list(range(1, len(updates) + 1))
                assert last <= record.position.seq <= len(updates)
                last = record.position.seq

    async def test_it_does_not_keep_the_owner_from_writing(self, path):
        async with opened(SQLiteStore(path)) as owner:
            await owner.create(make_record())
            async with opened(SQLiteStore(path), readonly=True) as reader:
                reads = [reader.load("run_1") for _ in range(50)]
                writes = [owner.save(make_record(), make_updates(n, n)) for n in range(1, 51)]
                await asyncio.gather(*reads, *writes)

            assert len(await owner.read("run_1")) == 50

    async def test_it_outlives_the_owner_and_sees_the_next(self, path):
        async with opened(SQLiteStore(path)):
            pass

        async with opened(SQLiteStore(path), readonly=True) as reader:
            async with opened(SQLiteStore(path)) as owner:
                await owner.create(make_record())

            assert await reader.load("run_1") == make_record()


class TestGroupCommit:
    async def test_writes_of_one_turn_of_the_loop_share_a_commit(self, path):
        async with opened(SQLiteStore(path)) as store:
            await asyncio.gather(*(store.create(make_record(f"run_{n}")) for n in range(200)))
            assert store.commits == 1

    async def test_what_queues_up_during_a_commit_shares_the_next(self, path):
        async def write(store, run_id):
            await store.create(make_record(run_id))
            for seq in range(1, 11):
                await store.save(make_record(run_id), make_updates(seq, seq))

        async with opened(SQLiteStore(path)) as store:
            await asyncio.gather(*(write(store, f"run_{n}") for n in range(100)))
            assert store.commits == 11

    async def test_a_lone_write_is_committed_without_waiting_for_others(self, path):
        async with opened(SQLiteStore(path)) as store:
            for n in range(3):
                await store.create(make_record(f"run_{n}"))

            assert store.commits == 3

    async def test_reads_and_refused_writes_do_not_keep_the_others_back(self, path):
        async with opened(SQLiteStore(path)) as store:
            creating = store.create(make_record())
            outcomes = await asyncio.gather(
                creating, store.create(make_record()), store.load("run_1"), store.load("x"), return_exceptions=True
            )
            assert [type(outcome).__name__ for outcome in outcomes] == [
                "NoneType",
                "StoreError",
                "RunRecord",
                "RunUnknown",
            ]

    async def test_a_cancelled_awaiter_neither_stops_nor_spoils_its_group(self, path):
        async with opened(SQLiteStore(path)) as store:
            tasks = [asyncio.create_task(store.create(make_record(f"run_{n}"))) for n in range(10)]
            await asyncio.sleep(0)
            tasks[4].cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert [n for n, outcome in enumerate(outcomes) if outcome is not None] == [4]
            assert len(await store.list()) == 10
            assert store.commits == 1

    async def test_no_commit_when_the_disk_is_full_and_all_of_the_group_hear_of_it(self, path):
        async with opened(SQLiteStore(path)) as store:
            await store.create(make_record())
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name("runs.db-wal").stat().st_size + 4096, hard))
            try:
                saves = [store.save(make_record(polls=1), make_updates(n, n)) for n in range(1, 101)]
                outcomes = await asyncio.gather(*saves, return_exceptions=True)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

            assert {type(outcome) for outcome in outcomes} == {StoreError}
            assert len({id(outcome) for outcome in outcomes}) == 100
            assert await store.load("run_1") == make_record()
            await store.save(make_record(polls=2), make_updates(1, 3))
            assert (await store.load("run_1")).polls == 2
            assert len(await store.read("run_1")) == 3

    async def test_what_an_undone_write_had_settled_is_written_again(self, path):
        changed = {"status": RunStatus.RUNNING, "request": StartRequest([{"role": "user", "content": "other"}])}
        async with opened(SQLiteStore(path)) as store:
            await store.create(make_record())
            (beyond_sqlite,) = make_updates(1, 1)
            beyond_sqlite.seq = 2**70
            with pytest.raises(StoreError):
                await store.save(make_record(**changed), [beyond_sqlite])

            assert await store.load("run_1") == make_record()
            await store.save(make_record(**changed))

        async with opened(SQLiteStore(path)) as store:
            assert await store.load("run_1") == make_record(**changed)
            assert len(await store.list(statuses=[RunStatus.RUNNING])) == 1


async def test_nobody_looks_into_the_queue_while_the_thread_takes_the_last_writes_out_of_it(path):
    class Queue(deque):
        looks = 0

        def __iter__(self):
            Queue.looks += 1
            return super().__iter__()

    store, released = SQLiteStore(path), threading.Event()
    await store.open()
    store._worker._writes = Queue()
    under_way = asyncio.ensure_future(store._worker.write(lambda _: released.wait()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # the thread has it
    last = asyncio.create_task(store.create(make_record()))
    await asyncio.sleep(0)
    closing = asyncio.create_task(store.aclose())
    await asyncio.sleep(0)
    released.set()
    await asyncio.gather(under_way, last, closing)
    assert not Queue.looks


class TestCommitWindow:
    """A long window that nothing ended would show as a slow test, or one too many commits."""

    @pytest.fixture
    async def store(self, path):
        async with opened(SQLiteStore(path, commit_window=1.0)) as store:
            await store.create(make_record())
            assert store.commits == 1
            yield store

    def append(self, store, first, last):
        return asyncio.create_task(store.append(make_record(), make_updates(first, last)))

    async def test_the_first_updates_after_a_pause_are_committed_at_once(self, store):
        store._worker._committed_at -= 1  # the pause
        begun = time.monotonic()
        await self.append(store, 1, 1)
        assert time.monotonic() - begun < 1.0
        assert store.commits == 2

    async def test_updates_within_a_window_share_a_commit_when_it_is_over(self, path):
        async with opened(SQLiteStore(path, commit_window=0.05)) as store:
            await store.create(make_record())
            appends = [self.append(store, seq, seq) for seq in (1, 2)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # the thread is on its way
            assert not any(task.done() for task in appends)
            await asyncio.gather(*appends, self.append(store, 3, 3))
            assert store.commits == 2
            assert await store.read("run_1") == make_updates(1, 3)

    @pytest.mark.parametrize("urgent", ["create", "acquire", "save", "delete", "purge"])
    async def test_what_somebody_waits_for_takes_all_along(self, store, urgent):
        appends = [self.append(store, 1, 1), self.append(store, 2, 2)]
        await asyncio.sleep(0)
        calls = {
            "create": lambda: store.create(make_record("run_2")),
            "acquire": lambda: store.acquire("run_2"),
            "save": lambda: store.save(make_record()),
            "delete": lambda: store.delete("run_2"),
            "purge": lambda: store.purge(before=1.0),
        }
        await asyncio.gather(calls[urgent](), return_exceptions=True)
        assert [task.done() for task in appends] == [True, True]
        assert store.commits == 2

    async def test_a_read_sees_what_was_gathering(self, store):
        appending = self.append(store, 1, 2)
        await asyncio.sleep(0)
        assert await store.read("run_1") == make_updates(1, 2)
        assert appending.done()
        assert store.commits == 2

    async def test_256_updates_have_company_enough(self, store):
        appends = [self.append(store, first, first + 7) for first in range(1, 257, 8)]
        await asyncio.gather(*appends)
        assert store.commits == 2
        assert len(await store.read("run_1")) == 256

    async def test_a_crowd_is_its_own_company(self, store):
        few = self.append(store, 1, 2)
        await asyncio.sleep(0)
        await asyncio.gather(few, self.append(store, 3, 18))
        begun = time.monotonic()
        for first in range(19, 83, 16):  # a replay, which waits for each of its commits
            await self.append(store, first, first + 15)

        assert time.monotonic() - begun < 1.0
        assert store.commits == 2 + 4

    async def test_closing_does_not_wait_for_company(self, path):
        store = SQLiteStore(path, commit_window=1.0)
        await store.open()
        await store.create(make_record())
        appending = self.append(store, 1, 1)
        await asyncio.sleep(0)
        await store.aclose()
        await appending
        async with opened(store):
            assert await store.read("run_1") == make_updates(1, 1)

    async def test_a_fenced_append_does_not_undo_those_beside_it(self, store):
        await store.create(make_record("run_2"))
        await store.acquire("run_2")
        fenced = store.append(make_record("run_2"), make_updates(1, 300))
        outcomes = await asyncio.gather(self.append(store, 1, 300), fenced, store.load("run_1"), return_exceptions=True)
        assert isinstance(outcomes[1], Fenced)
        assert (len(await store.read("run_1", limit=999)), await store.read("run_2")) == (300, [])

    async def test_an_append_that_fails_half_way_has_written_nothing(self, store):
        updates = make_updates(1, 3)
        updates[2].seq = 2**70
        failing = asyncio.create_task(store.append(make_record(), updates))
        await asyncio.sleep(0)
        assert not await store.read("run_1")
        with pytest.raises(StoreError):
            await failing

    @pytest.mark.parametrize("window", [-0.1, 1.5, float("nan")])
    def test_a_window_that_is_none_is_refused(self, path, window):
        with pytest.raises(UsageError, match="commit_window"):
            SQLiteStore(path, commit_window=window)


class TestEnd:
    async def test_closing_ends_the_thread(self, path):
        before = threading.active_count()
        async with opened(SQLiteStore(path)) as store:
            await store.create(make_record())
            assert threading.active_count() == before + 1

        assert threading.active_count() == before

    async def test_a_failed_open_ends_the_thread(self, path):
        path.write_bytes(b"x")
        before = set(threading.enumerate())
        with pytest.raises(StoreInvalid):
            await SQLiteStore(path).open()

        for thread in set(threading.enumerate()) - before:
            thread.join(timeout=10)
            assert not thread.is_alive()

    async def test_a_cancelled_close_closes_all_the_same(self, path):
        store = SQLiteStore(path)
        await store.open()
        creating = asyncio.create_task(store.create(make_record()))
        await asyncio.sleep(0)
        closing = asyncio.create_task(store.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, creating, return_exceptions=True)
        while True:  # the thread is still at it
            try:
                async with opened(SQLiteStore(path)) as store:
                    assert await store.load("run_1") == make_record()
                    return
            except StoreInUse:
                continue

    def test_a_store_that_nobody_closed_does_not_keep_the_interpreter_alive(self, path, other_process):
        forgetful = other_process("forget")
        assert forgetful.wait(timeout=30) == 0

    async def test_a_killed_writer_leaves_journals_without_gaps_that_fit_their_records(self, path, other_process):
        writer = other_process("write")
        acknowledged = max(int(writer.stdout.readline()) for _ in range(2000))
        writer.kill()
        writer.wait()
        async with opened(SQLiteStore(path)) as store:
            runs = await store.list()
            assert len(runs) == 20
            for run in runs:
                seqs = [update.seq for update in await store.read(run.id, limit=1_000_000)]
                assert seqs == list(range(1, len(seqs) + 1))
                assert run.position.seq == len(seqs)

            assert max(run.position.seq for run in runs) >= acknowledged

    async def test_closing_leaves_one_whole_file(self, path):
        async with opened(SQLiteStore(path)) as store:
            await store.create(make_record())

        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert connection.execute("SELECT count(*) FROM meta").fetchone() == (0,)

        assert sorted(contents(path.parent)) == ["runs.db", "runs.db-lock"]


async def test_nothing_of_a_deleted_run_stays_in_the_file(path):
    async with opened(SQLiteStore(path)) as store:
        for run_id in ("run_1", "run_2"):
            record = replace(full_record(), id=run_id, status=RunStatus.FAILED, finished_at=1.0)
            await store.create(record)
            await store.save(record, make_updates(1, 2))

        await store.delete("run_1")
        assert await store.purge(before=2.0) == 1
        with pytest.raises(RunUnknown):
            await store.load("run_2")

    with closing(sqlite3.connect(path)) as connection:
        tables = ("requests", "updates", "answers")
        counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone() for table in tables]
        assert counts == [(0,), (0,), (0,)]


async def test_fields_of_a_later_version_are_passed_over(path):
    async with opened(SQLiteStore(path)) as store:
        await store.create(make_record())

    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        (state,) = connection.execute("SELECT state FROM runs").fetchone()
        later = json.dumps({**json.loads(state), "colour": "red"}).encode()
        connection.execute("UPDATE runs SET state = ?", [later])

    async with opened(SQLiteStore(path)) as store:
        assert await store.load("run_1") == make_record()
