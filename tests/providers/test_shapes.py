"""Deltas that are read by their shape say what they would say as JSON, to the letter, or are not read so."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbg.core.model import EventKind, RunRef, StreamEvent
from agentbg.core.sse import read_data
from agentbg.providers._shapes import Shapes
from agentbg.providers.responses_wire import read_event

DELTA = {
    "type": "response.output_text.delta",
    "sequence_number": 4,
    "item_id": "msg_0a1b",
    "output_index": 0,
    "content_index": 0,
    "delta": "Hello",
    "logprobs": [],
    "obfuscation": "x8Jq",
}


def block(event, spaces: bool = True, head: bytes = b"event: delta\ndata: ") -> bytes:
    return head + json.dumps(event, ensure_ascii=False, separators=None if spaces else (",", ":")).encode(
        "utf-8", "surrogatepass"
    )


def as_json(text: bytes) -> StreamEvent:
    return read_event(json.loads(read_data(text)), lambda run_id: RunRef("openai", "here", {"response": run_id}))


def taught(*blocks: bytes) -> Shapes:
    shapes = Shapes()
    for each in blocks:
        shapes.learn(each, read_data(each), as_json(each))

    return shapes


def read(shapes: Shapes, *blocks: bytes) -> StreamEvent | None:
    events = shapes.read(b"".join(each + b"\n\n" for each in blocks))
    assert events is None or len(events) == len(blocks)
    return events[-1] if events else None


def same(quick: StreamEvent, slow: StreamEvent) -> bool:
    return quick.raw == slow.raw and replace(quick, source=slow.source) == slow


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = st.one_of(st.integers(-3, 10**20), texts, st.booleans(), st.none(), st.just([]), st.just({}), st.floats(0, 9))


@st.composite
def deltas(draw):
    """Any event that looks like a delta, its fields in any order, some of them odd, and others that nobody knows."""
    fields = {
        "type": draw(st.sampled_from(["response.output_text.delta", "response.reasoning_text.delta", "error", "x"])),
        "sequence_number": draw(st.integers(0, 10**19) | scalars),
        "output_index": draw(st.integers(0, 20_000) | scalars),
        "delta": draw(texts | scalars),
        **draw(st.dictionaries(st.sampled_from(["item_id", "obfuscation", "logprobs", "de\\lta", '"', "x"]), scalars)),
    }
    return dict(draw(st.permutations(sorted(fields.items(), key=lambda field: field[0]))))


@given(st.lists(deltas(), min_size=1, max_size=6), st.booleans())
def test_any_delta_is_read_as_json_reads_it(events, spaces):
    blocks = [block(event, spaces) for event in events]
    shapes = taught(*blocks)
    for each in blocks:
        quick = read(shapes, each)
        assert quick is None or same(quick, as_json(each))


@given(texts, st.integers(0, 10**17), st.integers(0, 9999), st.booleans())
def test_the_like_of_what_was_seen_is_known_by_its_shape(text, number, index, spaces):
    shapes = taught(block(DELTA, spaces))
    like = block({**DELTA, "sequence_number": number, "output_index": index, "delta": text, "item_id": "m"}, spaces)
    quick = read(shapes, like)
    assert quick is not None
    assert same(quick, as_json(like))


@given(st.integers(0, 300), st.binary(max_size=3), st.integers(0, 3))
def test_mangled_bytes_are_left_to_json(place, inserted, taken):
    whole = block({**DELTA, "delta": "Grüße"})
    mangled = whole[:place] + inserted + whole[place + taken :]
    quick = read(taught(block(DELTA)), mangled)
    assert quick is None or same(quick, as_json(mangled))


@given(st.lists(st.tuples(texts, st.integers(0, 10**17)), min_size=1, max_size=5))
def test_those_that_come_together_are_read_together(deltas):
    likes = [block({**DELTA, "delta": text, "sequence_number": number}) for text, number in deltas]
    events = taught(block(DELTA)).read(b"".join(like + b"\n\n" for like in likes))
    assert events is not None
    assert all(same(*pair) for pair in zip(events, map(as_json, likes), strict=True))


def test_one_that_is_odd_leaves_all_that_came_with_it_to_json():
    odd = block({**DELTA, "delta": "\ud83d"}).replace(b"\xed\xa0\xbd", b"\\ud83d")
    for blocks in (
        [odd, block(DELTA)],
        [block(DELTA), odd],
        [block(DELTA), odd, block(DELTA)],
        [block(DELTA), b": ping"],
    ):
        assert taught(block(DELTA)).read(b"".join(each + b"\n\n" for each in blocks)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"logprobs": [{"token": "a", "logprob": -0.1}]},
        {"sequence_number": "4"},
        {"sequence_number": 4.0},
        {"sequence_number": True},
        {"output_index": None},
        {"output_index": -1},
        {"type": "response.reasoning_text.delta"},
        {"more": "of it"},
    ],
)
def test_what_has_another_shape_is_left_to_json(change):
    assert read(taught(block(DELTA)), block({**DELTA, **change})) is None


@pytest.mark.parametrize("number", [b"04", b"4e3", b"-4", b"4.0", b"\xd9\xa4", b"9" * 19])
def test_a_number_is_one_as_json_writes_it_and_no_larger_than_any_is(number):
    odd = block(DELTA).replace(b'"sequence_number": 4', b'"sequence_number": ' + number)
    assert read(taught(block(DELTA)), odd) is None


def test_another_kind_of_delta_is_progress_and_has_no_text():
    arguments = {**DELTA, "type": "response.function_call_arguments.delta"}
    event = read(taught(block(arguments)), block({**arguments, "delta": "{", "sequence_number": 9}))
    assert event is not None
    assert (event.kind, event.text, event.cursor) == (EventKind.PROGRESS, "", 9)


def test_a_service_of_ever_new_shapes_is_not_learned_for_ever():
    shapes = taught(*[block({**DELTA, f"field_{n}": 1}) for n in range(100)])
    assert len(shapes._known) == 8
    assert read(shapes, block({**DELTA, "field_99": 1})) is None


@pytest.mark.parametrize(
    "written", [b"\\ud83d", b"\\ud83d\\ude00", b"\\uDEAD", b"\\x", b"\\u12", b"\\", b"\t", b"\\u00e"]
)
def test_half_characters_and_what_is_no_escape_are_left_to_json(written):
    odd = block(DELTA).replace(b"Hello", b"Hel" + written + b"lo")
    assert read(taught(block(DELTA)), odd) is None


@given(st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0xFFFF), max_size=12))
def test_a_text_that_is_escaped_throughout_is_read(text):
    escaped = "".join(f"\\u{ord(each):04x}" for each in text)
    like = block(DELTA).replace(b"Hello", escaped.encode())
    quick = read(taught(block(DELTA)), like)
    assert quick is not None
    assert quick.text == text
    assert same(quick, as_json(like))


def test_what_cannot_be_learned_costs_no_chance():
    odd = [
        block(DELTA).replace(b"Hello", b"\\ud83e\\udd8a"),  # one character, in two halves
        block({"type": "response.output_text.done", "sequence_number": 9, "output_index": 0, "text": "all"}),
        block({"type": "response.audio.delta", "sequence_number": 9, "delta": "UklGRg"}),
    ]
    assert read(taught(*odd * 100, block(DELTA)), block(DELTA)) is not None


def test_what_fails_is_not_tried_for_ever():
    shapes = taught(*[block({**DELTA, "sequence_number": "4"})] * 8, block(DELTA))
    assert read(shapes, block(DELTA)) is None
