"""What must hold for any record, any update, and any order of operations."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule

from agentbg.core.model import RunErrorInfo, RunRef, Snapshot, StartRequest, Usage
from agentbg.core.position import Position
from agentbg.core.record import RunRecord
from agentbg.core.status import RunStatus
from agentbg.core.update import AgentRunResponseUpdate, UpdateType
from agentbg.errors import AgentBGError
from agentbg.stores import MemoryStore, SQLiteStore
from agentbg.stores.codec import decode_record, decode_update, encode_request, encode_state, encode_update
from agentbg.testing.samples import make_updates

texts = st.text(st.characters())  # lone surrogates included
texts = st.one_of(texts, st.lists(st.sampled_from(["\ud83d", "\ude00", "é", "\0", "a"])).map("".join))
counts = st.integers(0, 2**62)
times = st.floats(0, 4e9)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=8)
objects = st.dictionaries(texts, values, max_size=3)
items = st.just(()) | st.lists(objects, max_size=2)
refs = st.builds(RunRef, texts, texts, st.dictionaries(texts, texts, max_size=2))
cursors = st.none() | st.integers() | texts
positions = st.builds(Position, counts, cursors, counts, st.integers(0, 2**32 - 1), counts)
requests = st.builds(
    StartRequest, st.lists(objects, max_size=2), st.none() | texts, items, st.none() | objects, st.booleans(),
    st.none() | refs, objects,
)  # fmt: skip
errors = st.none() | st.builds(RunErrorInfo, texts, texts)
usages = st.none() | st.builds(Usage, counts, counts, counts, objects)
snapshots = st.builds(
    Snapshot, st.none() | refs, st.sampled_from(RunStatus), texts, texts, items, errors, usages, st.none() | times,
    objects,
)  # fmt: skip
ids = st.sampled_from(["run_1", "run_2", "\ud83d", "ünï\0"])
agents = st.sampled_from(["a", "b", "\ude00"])
few_refs = st.builds(RunRef, st.just("p"), st.just("e"), st.dictionaries(st.just("id"), ids, max_size=1))


def records(ids=texts, agents=texts, refs=refs, created=times):
    return st.builds(
        RunRecord, ids, agents, st.just("p"), st.just("e"), st.booleans(), created, request=st.none() | requests,
        epoch=st.integers(0, 3), status=st.sampled_from(RunStatus), raw_status=texts, ref=st.none() | refs,
        position=positions, refused=st.booleans(), cancel_requested=st.booleans(), deadline_at=st.none() | times,
        updated_at=times, finished_at=st.none() | st.sampled_from([1.0, 2.0, 3.0]), polls=counts,
        snapshot=st.none() | snapshots, metadata=objects,
    )  # fmt: skip


@st.composite
def updates(draw, seqs=counts):
    seq, at = draw(seqs), draw(positions)
    place = Position(seq, at.cursor, at.chars, at.digest, at.items)
    return AgentRunResponseUpdate(
        draw(st.sampled_from(UpdateType)), seq, draw(texts), draw(st.none() | objects), position=place
    )


@given(records())
def test_any_record_comes_back_as_it_was(record):
    assert decode_record(encode_state(record), encode_request(record.request), record.epoch) == record


@given(updates())
def test_any_update_comes_back_as_it_was(update):
    assert decode_update(update.seq, encode_update(update)) == update


@given(st.integers(1, 900))
def test_deep_nesting_is_kept(depth):
    raw = []
    for _ in range(depth):
        raw = [raw]

    update = AgentRunResponseUpdate(UpdateType.PROGRESS, 1, source={"deep": raw}, position=Position(1))
    assert decode_update(1, encode_update(update)) == update


class Stores(RuleBasedStateMachine):
    """A SQLiteStore answers as a MemoryStore does, in whatever order it is asked, also after being reopened."""

    known = Bundle("known")

    @initialize()
    def open(self):
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.memory, self.sqlite = MemoryStore(), SQLiteStore(Path(self.folder.name) / "runs.db", durable=False)
        self.runner.run(self.memory.open())
        self.runner.run(self.sqlite.open())

    def teardown(self):
        self.runner.run(self.sqlite.aclose())
        self.runner.close()
        self.folder.cleanup()

    def same(self, ask):
        assert self.runner.run(outcome(ask, self.sqlite)) == self.runner.run(outcome(ask, self.memory))

    @rule(target=known, record=records(ids, agents, few_refs, st.sampled_from([1.0, 2.0])))
    def create(self, record):
        self.same(lambda store: store.create(record))
        return record

    @rule(
        target=known,
        old=known,
        new=records(ids, agents, few_refs, st.sampled_from([1.0, 2.0])),
        journal=st.lists(updates(st.integers(1, 9)), max_size=3),
    )
    def save(self, old, new, journal):
        new.id = old.id
        self.same(lambda store: store.save(new, journal))
        return new

    @rule(record=known, first=st.integers(1, 12), length=st.integers(1, 6), word=st.sampled_from("abc"))
    def append(self, record, first, length, word):
        self.same(lambda store: store.append(record, make_updates(first, first + length - 1, word)))

    @rule(record=known, polls=counts)
    def save_a_small_change(self, record, polls):
        record.polls = polls
        self.same(lambda store: store.save(record))

    @rule(record=known)
    def acquire_and_save(self, record):
        async def ask(store):
            record.epoch = (await store.acquire(record.id)).epoch
            await store.save(record)

        self.same(ask)

    @rule(run_id=ids)
    def load(self, run_id):
        self.same(lambda store: store.load(run_id))

    @rule(run_id=ids, after=st.integers(0, 18), limit=st.integers(0, 18))
    def read(self, run_id, after, limit):
        self.same(lambda store: store.read(run_id, after=after, limit=limit))

    @rule(
        statuses=st.none() | st.sets(st.sampled_from(RunStatus)),
        agent=st.none() | agents,
        limit=st.none() | st.integers(0, 3),
    )
    def list(self, statuses, agent, limit):
        self.same(lambda store: store.list(statuses=statuses, agent=agent, limit=limit))

    @rule(remote_id=ids)
    def find(self, remote_id):
        self.same(lambda store: store.find("p", "e", remote_id))

    @rule(record=consumes(known))
    def delete(self, record):
        self.same(lambda store: store.delete(record.id))

    @rule(before=st.sampled_from([1.0, 2.5, 9.0]))
    def purge(self, before):
        self.same(lambda store: store.purge(before=before))

    @rule(key=ids, value=st.binary(max_size=3))
    def note(self, key, value):
        self.same(lambda store: store.note(key, value))

    @rule(prefix=st.sampled_from(["", "run_", "\ud83d", "x"]))
    def notes(self, prefix):
        self.same(lambda store: store.notes(prefix))

    @rule()
    def reopen(self):
        self.runner.run(self.sqlite.aclose())
        self.runner.run(self.sqlite.open())


async def outcome(ask, store):
    """What a call returns, or the kind and words of what it raises."""
    try:
        return await ask(store)
    except AgentBGError as error:
        return type(error), str(error)


TestStores = Stores.TestCase
TestStores.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
