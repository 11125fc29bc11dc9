"""Bytes to server-sent events, across any cut.

The rules are those of the HTML standard, section 9.2.6 (event stream interpretation), as far as a client of JSON
events needs them: data lines are joined by newlines, comments and unknown fields are passed over, an event that the
stream's end cuts off is dropped. openai-python's decoder makes an object per line; this one costs a few microseconds
per event, and tells a comment, which is a sign of life, from nothing.
"""

from __future__ import annotations

import re

# An event ends with an empty line, in any of the three line endings.
_BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINES = re.compile(rb"\r\n|\n|\r")
MAX_EVENT_BYTES = 64 * 1024 * 1024
"""Above any event seen (a final snapshot with an image is a few MB); a stream without boundaries is no SSE."""


class EventDecoder:
    """Feed it chunks of bytes; get back the data of the events that they complete."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each event completed by `chunk`; b"" for a block without data, such as a comment.

        Raises ValueError when a single event exceeds MAX_EVENT_BYTES.
        """
        blocks = _BOUNDARY.split(self._rest + chunk)
        self._rest = blocks.pop()
        if len(self._rest) > MAX_EVENT_BYTES:
            raise ValueError(f"an event is larger than {MAX_EVENT_BYTES} bytes")

        return [_data(block) for block in blocks if block]


def _data(block: bytes) -> bytes:
    lines = [line[5:].removeprefix(b" ") for line in _LINES.split(block) if line.startswith(b"data:")]
    return b"\n".join(lines)
