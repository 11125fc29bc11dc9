"""A body as events: whatever the chunks, and whatever is broken in them."""

import pytest

from agentbg.core.model import RunRef
from agentbg.errors import ServiceUnavailable
from agentbg.providers._shapes import Shapes
from agentbg.providers.responses_events import EventReader


def make_reader() -> EventReader:
    return EventReader(Shapes(), lambda run_id: RunRef("openai", "here", {"response": run_id}))


def delta(text: str) -> bytes:
    return b'data: {"type": "response.output_text.delta", "delta": "%b"}\n\n' % text.encode()


def numbered(number: int, text: bytes = b"a", kind: bytes = b"response.output_text.delta") -> bytes:
    return b'data: {"type": "%b", "sequence_number": %d, "output_index": 0, "delta": "%b"}\n\n' % (kind, number, text)


def test_a_chunk_that_completes_no_event_is_a_sign_of_life():
    reader = make_reader()
    pieces = (b'data: {"type": "response.outp', b'ut_text.delta", "delta": "Hi"', b"}\n", b"\n")
    assert [[event.text for event in reader.feed(piece)] for piece in pieces] == [[], [], [], ["Hi"]]
    reader.check()


@pytest.mark.parametrize("broken", [b"data: {\n\n", b"data: [1]\n\n", b"data: " + b"[" * 100_000 + b"\n\n"])
def test_what_came_before_something_broken_counts(broken):
    reader = make_reader()
    assert [event.text for event in reader.feed(delta("a") + delta("b") + broken + delta("c"))] == ["a", "b"]
    with pytest.raises((ServiceUnavailable, RecursionError)):
        reader.check()


def test_half_a_character_is_one_that_nobody_can_read_however_it_is_written():
    reader = make_reader()
    halves = (numbered(1, b"\\ud83d"), numbered(2, b"\xed\xa0\xbd"), numbered(3, b"b"))
    events = [event for half in halves for event in reader.feed(half)]
    assert [event.text for event in events] == ["\ufffd", "\ufffd", "b"]
    reader.check()


def test_each_kind_of_delta_is_read_by_its_shape_whatever_comes_with_it():
    shapes = Shapes()
    reader = EventReader(shapes, lambda run_id: RunRef("openai", "here", {"response": run_id}))
    kinds = (b"response.output_text.delta", b"response.reasoning_text.delta", b"response.refusal.delta")
    reader.feed(b"".join(numbered(number, kind=kinds[0]) for number in range(100)) + delta("odd"))
    mixed = b"".join(numbered(number, kind=kinds[number % 3]) for number in range(100, 200))
    reader.feed(mixed)
    events = reader.feed(mixed + delta("odd"))
    assert [type(event.source) for event in events] == [str] * 100 + [dict]
    assert [event.cursor for event in events] == [*range(100, 200), None]
    assert all(shapes.read(numbered(1, kind=kind)) for kind in kinds)
