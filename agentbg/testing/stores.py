# ruff: noqa: D102  the name of a test says what must hold
"""The conformance suite of stores. Run it on your own store, too; it needs pytest and pytest-asyncio:

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def new_store(self, tmp_path):
            return lambda: MyStore(tmp_path / "runs")

`new_store` returns a function. Each of its calls gives a store, not opened yet, over the same facts. A store whose
facts are gone with the object sets `reopens = False`, and its function returns the same object each time.

What the tests store comes from `agentbg.testing.samples`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from ..core.model import RunRef
from ..core.position import Position, digest
from ..core.requests import InputRequest, RequestKind
from ..core.rounds import Call, CallState, Round
from ..core.status import RunStatus
from ..core.update import AgentRunResponseUpdate, UpdateType
from ..errors import Fenced, RunUnknown, StoreError, StoreInUse, UsageError
from ..stores.base import Store
from .journals import JournalConformance, NewStore, opened
from .samples import NASTY, full_record, make_record, make_updates


class StoreConformance(JournalConformance):
    """What must hold for every store, by the rules of `agentbg.stores.base`."""

    # Rule 1: an intent comes first.

    async def test_a_created_run_is_there(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(make_record())
            assert await store.load("run_1") == make_record()

    async def test_a_created_run_is_there_after_reopening(self, new_store: NewStore) -> None:
        self._needs_reopening()
        async with opened(new_store()) as store:
            await store.create(make_record())

        async with opened(new_store()) as store:
            assert await store.load("run_1") == make_record()

    async def test_a_taken_id_is_refused_and_the_first_run_kept(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(make_record())
            with pytest.raises(StoreError):
                await store.create(make_record(agent="other"))

            assert (await store.load("run_1")).agent == "researcher"

    async def test_every_field_comes_back(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(full_record())
            assert await store.load("run_1") == full_record()

    async def test_metadata_that_is_not_json_is_refused_and_nothing_is_kept(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            with pytest.raises(UsageError, match="JSON"):
                await store.create(make_record(metadata={"when": object()}))

            assert not await store.list()

    # Rule 2: one transaction.

    async def test_a_save_brings_record_and_updates(self, new_store: NewStore) -> None:
        updates = make_updates(1, 3)
        async with opened(new_store()) as store:
            await store.create(make_record())
            await store.save(make_record(status=RunStatus.RUNNING, position=updates[-1].position), updates)
            assert (await store.load("run_1")).position == updates[-1].position
            assert await store.read("run_1") == updates

    async def test_a_save_is_there_after_reopening(self, new_store: NewStore) -> None:
        self._needs_reopening()
        async with opened(new_store()) as store:
            await store.create(make_record())
            await store.save(make_record(status=RunStatus.RUNNING), make_updates(1, 3))

        async with opened(new_store()) as store:
            assert (await store.load("run_1")).status is RunStatus.RUNNING
            assert await store.read("run_1") == make_updates(1, 3)

    async def test_an_update_keeps_its_text_cursor_and_raw_event(self, new_store: NewStore) -> None:
        update = AgentRunResponseUpdate(
            type=UpdateType.RESET,
            seq=1,
            text=NASTY,
            source={"text": NASTY, "huge": 10**40},
            position=Position(1, NASTY, len(NASTY), digest(NASTY), 4),
        )
        async with opened(new_store()) as store:
            await store.create(make_record())
            await store.save(make_record(), [update])
            assert await store.read("run_1") == [update]

    async def test_a_save_that_is_half_bad_writes_nothing(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(make_record())
            bad = make_record(status=RunStatus.RUNNING, metadata={"when": object()})
            with pytest.raises(UsageError):
                await store.save(bad, make_updates(1, 3))

            assert await store.load("run_1") == make_record()
            assert not await store.read("run_1")

    async def test_every_part_of_a_record_can_change(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(make_record())
            await store.save(full_record())
            assert await store.load("run_1") == full_record()
            await store.save(make_record(epoch=3, request=None))
            assert await store.load("run_1") == make_record(epoch=3, request=None)

    async def test_the_answers_to_calls_come_back_each_to_its_call(self, new_store: NewStore) -> None:
        calls = [Call(InputRequest(f"call_{n}", RequestKind.CALL, "look"), CallState.READY) for n in range(3)]
        record = make_record(rounds=[Round(None, calls=calls[:1]), Round(None, calls=calls[1:])])
        async with opened(new_store()) as store:
            await store.create(record)
            for number, call in enumerate(calls):
                call.state, call.answer = CallState.ANSWERED, {"output": f"{number} {NASTY}"}
                await store.save(record)
                assert await store.load("run_1") == record

            assert await store.list() == [record]
            if self.reopens:
                await store.aclose()
                await store.open()

            assert await store.acquire("run_1") == replace(record, epoch=1)

    async def test_a_round_that_was_not_taken_leaves_no_answer_behind(self, new_store: NewStore) -> None:
        asked = InputRequest("call_1", RequestKind.CALL, "look")
        answered = Round(None, calls=[Call(asked, CallState.ANSWERED, {"output": "seen"})])
        open_again = Round(None, calls=[Call(asked, CallState.READY)])
        other = Round(None, calls=[Call(asked, CallState.ANSWERED, {"output": "other"})])
        async with opened(new_store()) as store:
            await store.create(make_record(rounds=[answered]))
            for rounds in ((), [open_again], [other], [open_again, answered], [answered]):
                await store.save(make_record(rounds=rounds))
                assert await store.load("run_1") == make_record(rounds=rounds)

    async def test_a_save_of_an_unknown_run_is_refused(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            with pytest.raises(RunUnknown):
                await store.save(make_record(), make_updates(1, 1))

            await store.create(make_record())
            assert not await store.read("run_1")

    # Rule 3: fenced.

    async def test_each_acquire_raises_the_epoch_by_one(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(make_record(epoch=4))
            assert (await store.acquire("run_1")).epoch == 5
            assert await store.acquire("run_1") == make_record(epoch=6)
            assert await store.load("run_1") == make_record(epoch=6)

    async def test_an_older_epoch_writes_nothing(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(make_record())
            await store.acquire("run_1")
            with pytest.raises(Fenced):
                await store.save(make_record(status=RunStatus.FAILED), make_updates(1, 1))

            assert await store.load("run_1") == make_record(epoch=1)
            assert not await store.read("run_1")

    async def test_the_new_owner_writes_on(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(make_record())
            await store.save(await store.acquire("run_1"), make_updates(1, 1))
            assert await store.read("run_1") == make_updates(1, 1)

    async def test_a_fenced_write_does_not_undo_the_writes_beside_it(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            for run_id in ("run_1", "run_2", "run_3"):
                await store.create(make_record(run_id))

            await store.acquire("run_2")
            saves = [store.save(make_record(f"run_{n}"), make_updates(1, n)) for n in (1, 2, 3)]
            outcomes = await asyncio.gather(*saves, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [type(None), Fenced, type(None)]
            assert [len(await store.read(f"run_{n}")) for n in (1, 2, 3)] == [1, 0, 3]

    async def test_acquiring_an_unknown_run_is_refused(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            with pytest.raises(RunUnknown):
                await store.acquire("run_1")

    # Rule 6: one owner.

    async def test_a_second_owner_is_refused_until_the_first_has_closed(self, new_store: NewStore) -> None:
        async with opened(new_store()):
            with pytest.raises(StoreInUse):
                await new_store().open()

        async with opened(new_store()) as store:
            await store.create(make_record())

    async def test_opening_an_open_store_is_refused_and_leaves_it_open(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            with pytest.raises(StoreInUse):
                await store.open()

            await store.create(make_record())

    async def test_a_store_can_be_closed_twice_and_opened_again(self, new_store: NewStore) -> None:
        store = new_store()
        await store.aclose()
        async with opened(store):
            await store.create(make_record())

        await store.aclose()
        async with opened(store):
            assert await store.load("run_1") == make_record()

    async def test_a_store_that_is_not_open_refuses_everything(self, new_store: NewStore) -> None:
        store = new_store()
        reads = [store.load("run_1"), store.list(), store.find("", "", ""), store.read("run_1"), store.notes()]
        for call in [*_writes(store), *reads]:
            with pytest.raises(StoreError, match="not open"):
                await call

    async def test_a_readonly_store_reads_and_refuses_every_write(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            record = make_record(position=make_updates(1, 2)[-1].position)
            await store.create(record)
            await store.save(record, make_updates(1, 2))

        async with opened(new_store(), readonly=True) as store:
            for write in _writes(store):
                with pytest.raises(StoreError, match="read-only"):
                    await write

            assert await store.list() == [record]
            assert await store.read("run_1") == make_updates(1, 2)
            assert not await store.notes()

    async def test_a_reader_beside_the_owner_sees_what_is_committed(self, new_store: NewStore) -> None:
        self._needs_reopening()
        async with opened(new_store()) as owner, opened(new_store(), readonly=True) as reader:
            await owner.create(make_record())
            assert await reader.load("run_1") == make_record()
            await owner.save(make_record(), make_updates(1, 2))
            assert await reader.read("run_1") == make_updates(1, 2)

    async def test_closing_finishes_what_was_accepted(self, new_store: NewStore) -> None:
        store = new_store()
        await store.open()
        writing = asyncio.gather(*(store.create(make_record(f"run_{n}")) for n in range(50)))
        await asyncio.sleep(0)
        await store.aclose()
        await writing
        async with opened(store):
            assert len(await store.list()) == 50

    # Rule 7: no aliasing.

    async def test_what_was_stored_is_not_the_callers(self, new_store: NewStore) -> None:
        updates = make_updates(1, 1)
        record = make_record(metadata={"tags": ["a"]}, position=updates[0].position)
        async with opened(new_store()) as store:
            await store.create(record)
            await store.save(record, updates)
            record.metadata["tags"].append("b")
            record.status = RunStatus.FAILED
            updates[0].text = "changed"
            kept = make_record(metadata={"tags": ["a"]}, position=make_updates(1, 1)[0].position)
            assert await store.load("run_1") == kept
            assert await store.read("run_1") == make_updates(1, 1)

    async def test_what_is_read_is_the_callers_own(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(make_record(metadata={"tags": ["a"]}))
            await store.append(make_record(), make_updates(1, 1))
            mine, (update,) = await store.load("run_1"), await store.read("run_1")
            mine.metadata["tags"].append("b")
            update.text = "changed"
            assert (await store.load("run_1")).metadata == {"tags": ["a"]}
            assert await store.read("run_1") == make_updates(1, 1)

    async def test_a_record_that_changes_while_it_is_written_is_stored_as_it_was(self, new_store: NewStore) -> None:
        record = make_record()
        async with opened(new_store()) as store:
            await store.create(record)
            saving = asyncio.create_task(store.save(record))
            await asyncio.sleep(0)
            record.polls = 99
            await saving
            assert (await store.load("run_1")).polls == 0

    # Looking up and forgetting.

    async def test_the_list_is_by_age_and_the_later_of_two_of_one_moment_comes_first(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            for run_id, created_at in (("b", 2.0), ("c", 3.0), ("a", 1.0), ("b2", 2.0)):
                await store.create(make_record(run_id, created_at=created_at))

            assert [record.id for record in await store.list()] == ["c", "b2", "b", "a"]
            assert [record.id for record in await store.list(limit=2)] == ["c", "b2"]

    async def test_the_list_is_by_status_and_agent(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(make_record("a", agent="x", status=RunStatus.RUNNING))
            await store.create(make_record("b", agent="y", status=RunStatus.RUNNING))
            await store.create(make_record("c", agent="x", status=RunStatus.FAILED))
            live = {RunStatus.RUNNING, RunStatus.QUEUED}
            assert [record.id for record in await store.list(statuses=live)] == ["b", "a"]
            assert [record.id for record in await store.list(agent="x")] == ["c", "a"]
            assert [record.id for record in await store.list(statuses=live, agent="x")] == ["a"]
            assert not await store.list(statuses=())

    async def test_the_list_follows_a_run_as_it_changes(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(make_record())
            for status in (RunStatus.RUNNING, RunStatus.QUEUED, RunStatus.COMPLETED):
                await store.save(make_record(status=status))
                assert [record.status for record in await store.list(statuses=[status])] == [status]

            assert not await store.list(statuses=[RunStatus.RUNNING, RunStatus.QUEUED])

    async def test_a_run_is_found_by_its_id_at_the_service(self, new_store: NewStore) -> None:
        ref = RunRef("openai", "3f5a", {"response": "resp_1", "conversation": "conv_1"})
        async with opened(new_store()) as store:
            await store.create(make_record("intent"))
            await store.create(make_record("old", ref=ref, created_at=1.0))
            await store.create(make_record("new"))
            assert (await _found(store, "openai", "3f5a", "resp_1")) == "old"
            await store.save(make_record("new", ref=ref))
            assert (await _found(store, "openai", "3f5a", "resp_1")) == "new"
            for other in (("azure", "3f5a", "resp_1"), ("openai", "0000", "resp_1"), ("openai", "3f5a", "conv_1")):
                assert await _found(store, *other) is None

    async def test_a_run_is_found_by_the_ids_of_its_earlier_rounds(self, new_store: NewStore) -> None:
        first, second = (RunRef("openai", "3f5a", {"response": name}) for name in ("resp_1", "resp_2"))
        async with opened(new_store()) as store:
            await store.create(make_record(ref=first))
            await store.save(make_record(rounds=[Round(first, sent=True)]))
            assert await _found(store, "openai", "3f5a", "resp_1") == "run_1"
            await store.save(make_record(ref=second, rounds=[Round(first, sent=True)]))
            assert await _found(store, "openai", "3f5a", "resp_1") == "run_1"
            assert await _found(store, "openai", "3f5a", "resp_2") == "run_1"
            await store.delete("run_1")
            assert await _found(store, "openai", "3f5a", "resp_1") is None

    async def test_a_deleted_run_is_gone_with_its_journal(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(make_record())
            await store.save(make_record(), make_updates(1, 2))
            await store.delete("run_1")
            await store.delete("run_1")
            with pytest.raises(RunUnknown):
                await store.read("run_1")

            await store.create(make_record())
            assert not await store.read("run_1")

    async def test_purge_forgets_only_ended_runs_that_are_old(self, new_store: NewStore) -> None:
        ended = {"status": RunStatus.COMPLETED}
        async with opened(new_store()) as store:
            await store.create(make_record("old", finished_at=99.0, **ended))
            await store.create(make_record("young", finished_at=100.0, **ended))
            await store.create(make_record("undated", **ended))
            await store.create(make_record("waiting", status=RunStatus.INPUT_REQUIRED, finished_at=1.0))
            await store.create(make_record("running", status=RunStatus.RUNNING))
            assert await store.purge(before=100.0) == 1
            assert {record.id for record in await store.list()} == {"young", "undated", "waiting", "running"}

    # Notes.

    async def test_the_last_note_of_a_key_stands(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.note("colour", b"red")
            await store.note("colour", b"\0\xff blue")
            await store.note("empty", b"")
            assert await store.notes() == {"colour": b"\0\xff blue", "empty": b""}

    async def test_notes_are_found_by_the_beginning_of_their_keys(self, new_store: NewStore) -> None:
        keys = ("", "a", "a/", "a/1", f"a/{NASTY}", "a0", "b", "\U0010ffff")
        async with opened(new_store()) as store:
            for key in keys:
                await store.note(key, key.encode("utf-8", "surrogatepass"))

            for prefix in ("", "a", "a/", f"a/{NASTY}", "c"):
                found = {key for key in keys if key.startswith(prefix)}
                assert (await store.notes(prefix)).keys() == found

            assert (await store.notes("a/1")) == {"a/1": b"a/1"}

    async def test_notes_outlive_the_store_and_its_runs(self, new_store: NewStore) -> None:
        self._needs_reopening()
        async with opened(new_store()) as store:
            await store.create(make_record(status=RunStatus.COMPLETED, finished_at=1.0))
            await store.note("colour", b"red")
            await store.purge(before=2.0)

        async with opened(new_store(), readonly=True) as store:
            assert await store.notes() == {"colour": b"red"}

    # Cancellation.

    async def test_a_cancelled_write_happens_whole_or_not_at_all(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(make_record())
            saving = asyncio.create_task(store.save(make_record(polls=1), make_updates(1, 3)))
            await asyncio.sleep(0)
            saving.cancel()
            await asyncio.gather(saving, return_exceptions=True)
            written = (await store.load("run_1")).polls, len(await store.read("run_1"))
            assert written in ((0, 0), (1, 3))

    async def test_a_cancelled_call_leaves_the_store_usable(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            calls = [asyncio.create_task(store.create(make_record(f"run_{n}"))) for n in range(10)]
            await asyncio.sleep(0)
            for call in calls[::2]:
                call.cancel()

            await asyncio.gather(*calls, return_exceptions=True)
            await store.create(make_record("after"))
            assert {record.id for record in await store.list()} >= {"after", *(f"run_{n}" for n in range(1, 10, 2))}


def _writes(store: Store) -> Sequence[Any]:
    return [
        store.create(make_record("run_2")),
        store.acquire("run_1"),
        store.save(make_record()),
        store.append(make_record(), make_updates(1, 1)),
        store.delete("run_1"),
        store.purge(before=1.0),
        store.note("key", b"value"),
    ]


async def _found(store: Store, provider: str, endpoint: str, remote_id: str) -> str | None:
    record = await store.find(provider, endpoint, remote_id)
    return record.id if record else None
