"""The object so far: on any stream, from any place, it only grows, and ends as the value."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, JsonValue

from agentbg import Agent, AgentRunOptions, AgentRuntime, UpdateType, UsageError, resume_stream, tool
from agentbg.output import Output
from agentbg.providers import Cap, Resume
from agentbg.stores import MemoryStore
from agentbg.testing import At, RunScript, ScriptedProvider, VirtualClock, message, virtual_time
from agentbg.testing.provider import ALL_CAPS
from agentbg.testing.script import function_call


class Report(BaseModel):
    title: str
    pages: list[int] = []


REPORT = {"title": "Tides at Den Helder", "pages": [3, 14, 159]}
SCRIPT = RunScript.json(REPORT, seconds=30, deltas=20)
BACKGROUND = AgentRunOptions(allow_background_responses=True)


def agent_of(*scripts, output_type=Report, tools=(), **service) -> Agent:
    provider = ScriptedProvider(*scripts or (SCRIPT,), **service)
    return Agent(provider, output_type=output_type, tools=tools, clock=VirtualClock())


def runtime(store=None) -> AgentRuntime:
    return AgentRuntime(store, draw=lambda: 0.5, clock=VirtualClock())


def grown(before, after) -> bool:
    """Whether `after` is `before` with more in it."""
    if isinstance(before, dict):
        return isinstance(after, dict) and all(name in after and grown(before[name], after[name]) for name in before)

    if isinstance(before, list):
        return isinstance(after, list) and len(before) <= len(after) and all(map(grown, before, after))

    return after.startswith(before) if isinstance(before, str) and isinstance(after, str) else before == after


def check(updates, value=REPORT) -> None:
    """Partials grow from nothing to the value; a RESET, and the text of another round, begin anew."""
    so_far, before = None, 0
    for update in updates:
        if update.type is UpdateType.RESET or update.position.before != before:
            so_far, before = None, update.position.before

        assert so_far is None or grown(so_far, update.partial), (so_far, update)
        so_far = update.partial

    assert updates[-1].type is UpdateType.END
    assert updates[-1].partial == value


async def read(stream):
    async with stream as updates:
        return [update async for update in updates]


@st.composite
def told(draw):
    """A value, and the answer that tells it: in pieces of any length, at once or not, with a false start or without."""
    value = draw(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), nested, max_leaves=8))
    text = json.dumps({"value": value}, ensure_ascii=draw(st.booleans()))
    cuts = sorted(draw(st.sets(st.integers(1, len(text) - 1), max_size=12)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    begun = [At(0, status="running"), At(0, item=message(), index=0)]
    if draw(st.booleans()):
        begun += [At(0, text='{"value": "no'), At(0, item=message(), index=0)]

    shown = [At(number, text=piece) for number, piece in enumerate(pieces, 1)]
    last = draw(st.sampled_from([len(shown), len(shown), len(shown) // 2]))  # the END brings what is missing
    end = At(len(pieces) + 1, status="completed", text=text)
    return value, RunScript([*begun, *shown[:last], end])


def nested(values):
    return st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values, max_size=3)


@settings(deadline=None, max_examples=150)
@given(told(), st.integers(1, 12), st.sampled_from([Resume.CURSOR, Resume.LOG, Resume.SNAPSHOT]), st.integers(0, 9))
def test_on_any_stream_of_any_value_partials_grow_and_the_last_is_the_value(answer, cut, resume, after):
    value, script = answer

    @virtual_time
    async def story():
        agent = agent_of(script, output_type=JsonValue, resume=resume)
        agent.provider.cut(cut, times=2)
        async with runtime() as running:
            handle = await running.submit(agent, "x", stream=True)
            live, stored = await asyncio.gather(*(read(handle.stream(partial=True)) for _ in range(2)))
            late = await read(handle.stream(after=after, partial=True))

        check(live, value)
        check(stored, value)
        assert [(u.seq, u.partial) for u in late] == [(u.seq, u.partial) for u in live[after:]]

        thread = agent.get_new_thread()
        check(await read(agent.run_streaming("x", thread, BACKGROUND, partial=True)), value)

    story()


@virtual_time
async def test_the_object_grows_by_what_has_come():
    script = RunScript(
        [
            At(0, status="running"),
            At(1, text='{"value": '),
            At(2, text='["Den He'),
            At(3, text='lder", "Te'),
            At(4, text='xel"]}'),
            At(5, status="completed"),
        ]
    )
    updates = await read(agent_of(script, output_type=list[str]).run_streaming("x", partial=True))
    assert [update.partial for update in updates if update.text] == [
        None,
        ["Den He"],
        ["Den Helder", "Te"],
        ["Den Helder", "Texel"],
    ]
    assert "".join(update.text for update in updates) == '{"value": ["Den Helder", "Texel"]}', "which stays as it was"


@virtual_time
async def test_only_who_asks_gets_partials_and_looking_late_shows_what_was_then():
    agent = agent_of()
    async with runtime() as running:
        handle = await running.submit(agent, "x", stream=True)
        asked, unasked = await asyncio.gather(read(handle.stream(partial=True)), read(handle.stream()))

    assert {update.partial for update in unasked} == {None}
    assert all(update.read_partial is None for update in unasked)
    check(asked)
    halfway = next(update.partial for update in asked if update.partial and "pages" not in update.partial)
    assert REPORT["title"].startswith(halfway["title"])


@pytest.mark.parametrize("text", ["Sorry, I cannot.", "", '\ud800{"title"', "]", '{"title" 1', '"\\q"', "[" * 999])
def test_what_is_no_json_is_nothing_and_never_an_error(text: str):
    @virtual_time
    async def story():
        updates = await read(agent_of(RunScript.text(text)).run_streaming("x", partial=True))
        assert updates[-1].partial is None
        assert all(update.partial in (None, {}) for update in updates), "an object without members has begun"

    story()


@given(st.text(st.characters() | st.sampled_from(r'{}[]",:\u1e-')), st.booleans())
def test_any_text_is_data_or_nothing(text, whole):
    data = Output(Report).partial(text, whole)
    assert data is None or isinstance(data, dict)
    Output(JsonValue).partial(text, whole)


@virtual_time
async def test_text_of_earlier_rounds_is_no_part_of_the_value():
    @tool
    async def look() -> str:
        return "the sea"

    call = function_call("look", {})
    first = RunScript.text('[1, 2] Let me "see. ').then(At(10, item=call), At(10, status="input_required"))
    for caps in (ALL_CAPS, ALL_CAPS & ~Cap.RESPOND):
        agent = agent_of([first, SCRIPT], tools=[look], caps=caps)
        async with runtime() as running:
            handle = await running.submit(agent, "x", stream=True)
            updates = await read(handle.stream(partial=True))
            assert handle.response.value == Report(**REPORT)
            check(updates)
            check(await read(handle.stream(after=12, partial=True)))

        thread = agent.get_new_thread()
        check(seen := await read(agent.run_streaming("x", thread, BACKGROUND, partial=True)))

        # A token of the first round brings no text; the second round is whole.
        token = next(update for update in seen if update.text).continuation_token
        resumed = await read(resume_stream(agent, token, thread=thread, partial=True))
        check(resumed)
        assert any(update.partial for update in resumed[:-1])


@virtual_time
async def test_a_token_brings_no_text_so_that_partials_come_at_the_end_or_after_a_reset():
    agent = agent_of()
    updates = await read(agent.run_streaming("x", agent.get_new_thread(), BACKGROUND, partial=True))
    for update in updates[:-1]:
        resumed = await read(resume_stream(agent, update.continuation_token, partial=True))
        check(resumed)
        had = update.position.chars
        assert all((each.partial is None) == bool(had) for each in resumed[:-1] if each.position.chars > 4)

    begun, whole = SCRIPT.steps[:12], [At(20, text=step.text) for step in SCRIPT.steps if step.text]
    agent = agent_of(RunScript([*begun, At(20, item=message(), index=0), *whole, At(30, status="completed")]))
    updates = await read(agent.run_streaming("x", agent.get_new_thread(), BACKGROUND))
    resumed = await read(resume_stream(agent, updates[8].continuation_token, partial=True))
    check(resumed)
    reset = next(place for place, update in enumerate(resumed) if update.type is UpdateType.RESET)
    assert all(update.partial is None for update in resumed[:reset])
    assert any(update.partial for update in resumed[reset:-1])


@virtual_time
async def test_a_run_taken_up_by_its_token_has_its_partials_from_what_its_journal_has():
    agent = agent_of()
    async with runtime() as running:
        handle = await running.submit(agent, "x", stream=True)
        async with handle.stream() as stream:
            seen = [await anext(stream) for _ in range(9)]

    async with runtime(store := MemoryStore()) as running:
        handle = await running.resume(str(seen[-1].continuation_token), agent=agent)
        updates = await read(handle.stream(partial=True))
        check(updates)
        assert all(update.partial is None for update in updates[:-1])

    async with AgentRuntime(store, agents=[agent], clock=VirtualClock()) as running:
        check(await read((await running.get(handle.id)).stream(partial=True)))


@virtual_time
async def test_a_time_out_around_one_update_keeps_the_partials_and_reads_nothing_twice():
    reads = []

    class Counting(MemoryStore):
        async def read(self, run_id, *, after=0, limit=256):
            reads.append(after)
            await asyncio.sleep(1)
            return await super().read(run_id, after=after, limit=limit)

    agent = agent_of(RunScript.json(list(range(900)), seconds=600, deltas=600), output_type=list[int])
    async with runtime(Counting()) as running:
        handle = await running.submit(agent, "x", stream=True)
        await asyncio.sleep(500)
        updates, outs = [], 0
        async with handle.stream(after=300, partial=True) as stream:
            while not updates or updates[-1].type is not UpdateType.END:
                try:
                    updates.append(await asyncio.wait_for(anext(stream), 1.5 if reads else 0.5))
                except TimeoutError:
                    outs += 1

    assert outs > 0
    assert [update.seq for update in updates] == list(range(301, 301 + len(updates)))
    assert reads == sorted(reads)
    assert reads.count(0) == 2, "the first was cut off"
    check(updates, list(range(900)))


@virtual_time
async def test_partials_of_a_text_are_refused_before_anything_is_sent():
    agent = agent_of(RunScript.text("Hello"), output_type=None)
    with pytest.raises(UsageError, match="output_type"):
        agent.run_streaming("x", partial=True)

    store = MemoryStore()
    async with runtime(store) as running:
        handle = await running.submit(agent, "x")
        with pytest.raises(UsageError, match="output_type"):
            handle.stream(partial=True)

        run = await running.submit(agent_of(), "x")
        await run

    async with AgentRuntime(store, clock=VirtualClock()) as running:
        with pytest.raises(UsageError, match="agents="):
            (await running.get(run.id)).stream(partial=True)

    assert agent.provider.count("open") == 0
