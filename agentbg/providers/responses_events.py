"""The bytes of a Responses stream as events, those that arrived together, together."""

from __future__ import annotations

import json
from typing import Any, cast

import pydantic_core

from ..core.model import JSON, EventKind, StreamEvent
from ..core.sse import EventDecoder, read_blocks, read_data
from ..errors import ServiceUnavailable
from ._shapes import Shapes
from .responses_wire import MakeRef, read_event


class EventReader:
    """Reads one connection's body. `shapes` are those of the service's deltas."""

    def __init__(self, shapes: Shapes, make_ref: MakeRef) -> None:
        self._decoder = EventDecoder()
        self._shapes, self._make_ref = shapes, make_ref
        self._broken: Exception | None = None

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """The events that a chunk completes. What is broken in it is kept for `check`: what came before it counts."""
        events: list[StreamEvent] = []
        try:
            whole = self._decoder.feed(chunk)
            if alike := self._shapes.read(whole):
                return alike

            for block in read_blocks(whole):
                events += self._shapes.read(block + b"\n\n") or [self._event(block)]
        except Exception as error:  # noqa: BLE001  `check` raises it
            self._broken = error

        return events

    def check(self) -> None:
        """Raise what is wrong with the last chunk."""
        if self._broken is not None:
            raise self._broken

    def _event(self, block: bytes) -> StreamEvent:
        data = read_data(block)
        if not data or data == b"[DONE]":
            return StreamEvent(EventKind.KEEPALIVE, {"type": "comment"})

        event = read_event(json_object(data), self._make_ref)
        self._shapes.learn(block, data, event)
        return event


def json_object(content: bytes) -> JSON:
    """A JSON object. Raises ServiceUnavailable for anything else."""
    try:
        value = _read_json(content)
    except ValueError as error:
        raise ServiceUnavailable(f"The service answered something that is no JSON: {start_of(content, 60)}") from error

    if not isinstance(value, dict):
        raise ServiceUnavailable(f"The service answered JSON that is no object: {str(value)[:60]!r}")

    return cast("JSON", value)


def start_of(content: bytes, size: int = 200) -> str:
    """What a body begins with, for an error message."""
    return repr(content[:size].decode("utf-8", "replace"))


def _read_json(content: bytes) -> Any:
    """Half characters, as of a text that was cut by UTF-16 units, become U+FFFD: nobody could send or print them."""
    try:
        return pydantic_core.from_json(content)
    except ValueError:
        written = json.dumps(json.loads(content), ensure_ascii=False)
        return pydantic_core.from_json(written.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
