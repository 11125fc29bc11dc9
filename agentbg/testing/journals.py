# ruff: noqa: D102  the name of a test says what must hold
"""The conformance suite of stores, its part about journals: what `save` and `append` write, and `read` reads."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from ..core.position import Position
from ..errors import Fenced, RunUnknown
from ..stores.base import Store
from .samples import make_record, make_updates

NewStore = Callable[[], Store]


@asynccontextmanager
async def opened(store: Store, *, readonly: bool = False) -> AsyncGenerator[Store, None]:
    """The store, open inside the block."""
    await store.open(readonly=readonly)
    try:
        yield store
    finally:
        await store.aclose()


class JournalConformance:
    """What must hold for the journals of every store."""

    reopens = True
    """Whether facts are still there in another object over the same place."""

    # Appending.

    async def test_updates_that_are_appended_take_the_record_along(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            record, updates = make_record(), make_updates(1, 3)
            await store.create(record)
            await store.save(record, updates[:1])
            await store.append(record, updates[1:])
            assert await store.read("run_1") == updates
            for found in (await store.load("run_1"), *await store.list(), await store.acquire("run_1")):
                assert found.position == updates[-1].position

    async def test_what_is_appended_is_there_after_reopening(self, new_store: NewStore) -> None:
        self._needs_reopening()
        async with opened(new_store()) as store:
            await store.create(make_record())
            await store.append(make_record(), make_updates(1, 2))

        async with opened(new_store()) as store:
            assert (await store.load("run_1")).position == make_updates(1, 2)[-1].position

    async def test_a_saved_position_stands_unless_an_update_is_later(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            record = make_record()
            await store.create(record)
            await store.append(record, make_updates(1, 2))
            record.position = Position(seq=2, cursor=None, chars=9, digest=8, before=9, before_digest=8)
            await store.save(record)
            assert (await store.load("run_1")).position == record.position

    async def test_appending_by_an_older_epoch_or_to_an_unknown_run_is_refused(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            old = make_record()
            await store.create(old)
            new = await store.acquire("run_1")
            with pytest.raises(Fenced):
                await store.append(old, make_updates(1, 1))

            await store.append(new, make_updates(1, 1))
            with pytest.raises(RunUnknown):
                await store.append(make_record("run_2"), make_updates(1, 1))

            assert await store.read("run_1") == make_updates(1, 1)

    # Rule 4: idempotent append.

    async def test_an_update_that_is_there_stays_as_it_is(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(make_record())
            await store.save(make_record(), make_updates(1, 3))
            await store.save(make_record(), make_updates(2, 5, "other "))
            assert await store.read("run_1") == [*make_updates(1, 3), *make_updates(4, 5, "other ")]

    async def test_batches_that_overlap_are_kept_once_whatever_their_order(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            record = make_record()
            await store.create(record)
            for first, last, word in ((3, 6, "a "), (5, 9, "b "), (1, 20, "c "), (8, 8, "d "), (19, 22, "e ")):
                await store.append(record, make_updates(first, last, word))

            parts = [(1, 2, "c "), (3, 6, "a "), (7, 9, "b "), (10, 20, "c "), (21, 22, "e ")]
            kept = [update for first, last, word in parts for update in make_updates(first, last, word)]
            assert await store.read("run_1") == kept
            assert await store.read("run_1", after=4, limit=7) == kept[4:11]

    async def test_the_first_of_two_in_one_save_wins(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(make_record())
            await store.save(make_record(), [*make_updates(1, 1), *make_updates(1, 1, "other ")])
            assert await store.read("run_1") == make_updates(1, 1)

    # Rule 5: ordered reads.

    async def test_a_read_goes_on_after_a_seq_up_to_its_limit(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(make_record())
            await store.save(make_record(), make_updates(1, 300))
            assert await store.read("run_1") == make_updates(1, 256)
            assert await store.read("run_1", after=256) == make_updates(257, 300)
            assert await store.read("run_1", after=2, limit=3) == make_updates(3, 5)
            assert not await store.read("run_1", after=300)

    async def test_a_read_may_begin_and_end_within_what_was_appended_together(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(make_record())
            await store.append(make_record(), make_updates(1, 1000))
            await store.append(make_record(), make_updates(1001, 1010))
            assert await store.read("run_1", after=399, limit=2) == make_updates(400, 401)
            assert await store.read("run_1", after=990, limit=100) == make_updates(991, 1010)
            assert await store.read("run_1", limit=2000) == make_updates(1, 1010)
            assert not await store.read("run_1", limit=0)
            assert (await store.load("run_1")).position == make_updates(1010, 1010)[0].position

    async def test_a_journal_may_begin_after_the_first_update(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            await store.create(make_record(request=None, position=Position(seq=41)))
            await store.save(make_record(), make_updates(42, 43))
            assert await store.read("run_1") == make_updates(42, 43)

    async def test_the_journals_of_runs_are_apart(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            for run_id in ("run_1", "run_10"):
                await store.create(make_record(run_id))
                await store.save(make_record(run_id), make_updates(1, 1, run_id))

            assert await store.read("run_1") == make_updates(1, 1, "run_1")
            assert await store.read("run_10") == make_updates(1, 1, "run_10")

    async def test_reading_an_unknown_run_is_refused(self, new_store: NewStore) -> None:
        async with opened(new_store()) as store:
            for reading in (store.read("run_1"), store.load("run_1")):
                with pytest.raises(RunUnknown, match="run_1"):
                    await reading

    def _needs_reopening(self) -> None:
        if not self.reopens:
            pytest.skip("the facts of this store are gone with its object")
