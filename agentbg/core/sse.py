"""Bytes to server-sent events, across any cut.

The rules are those of the HTML standard, section 9.2.6 (event stream interpretation), as far as a client of JSON
events needs them: data lines are joined by newlines, comments and unknown fields are passed over, an event that the
stream's end cuts off is dropped. openai-python's decoder makes an object per line; this one costs a few microseconds
per event, and tells a comment, which is a sign of life, from nothing.
"""

from __future__ import annotations

import re

# An event ends with an empty line: two line endings, of any of the three kinds. `?+` never takes \r\n for two, and
# the pairs are spelled out because `re` finds the first byte of an alternation seven times as fast as of a repetition.
_BOUNDARY = re.compile(rb"\r\n?+\r\n?+|\r\n?+\n|\n\r\n?+|\n\n")
_LINES = re.compile(rb"\r\n?|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_EVENT_BYTES = 64 * 1024 * 1024
"""Above any event seen (a final snapshot with an image is a few MB); a stream without boundaries is no SSE."""


class EventDecoder:
    """Feed it chunks of bytes; get back the data of the events that they complete."""

    def __init__(self) -> None:
        self._held: list[bytes] = []  # the chunks of an event that is not whole yet
        self._size = 0
        self._edge = b""  # their last bytes: a boundary may be cut in two

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each event completed by `chunk`; b"" for a block without data, such as a comment.

        Raises ValueError when a single event exceeds MAX_EVENT_BYTES.
        """
        edge = self._edge + chunk
        self._held.append(chunk)
        blocks: list[bytes] = []
        if _BOUNDARY.search(edge):  # looked for in what is new only: a large event comes in many chunks
            blocks = _BOUNDARY.split(b"".join(self._held))
            edge = blocks.pop()
            self._held, self._size = [edge], 0

        self._edge = edge[-3:]
        self._size += len(self._held[-1])
        if self._size > MAX_EVENT_BYTES:
            raise ValueError(f"an event is larger than {MAX_EVENT_BYTES} bytes")

        return [_data(block) for block in blocks if block]


def _data(block: bytes) -> bytes:
    lines = _LINES.split(block.removeprefix(_BYTE_ORDER_MARK))
    return b"\n".join([line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")])
