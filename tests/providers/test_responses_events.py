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
