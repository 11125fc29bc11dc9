"""Deltas read by their shape: most events of a stream are the same but for a few numbers and texts.

The first delta of a kind is read as JSON, and a pattern is made of it: every byte as it is, but for the numbers and
texts it holds. What matches is the same JSON with others in their place, so nothing is guessed, whatever the order of
fields and the spacing. Whatever does not match is read as JSON: a text with escapes, one more field, anything odd.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ..core.model import EventKind, StreamEvent

_SCALAR = re.compile(rb'"(\w+)"[ \t]*:[ \t]*(?:(\d+)|"([^"\\]*)")(?=[ \t]*[,}])')
_NUMBER = rb"(?:0|[1-9]\d{0,17})"
_TEXT = rb'[^"\\\x00-\x1f]*'
_PLAIN = rb"[ !#-\[\]-~]*"
_READ = {b"sequence_number": _NUMBER, b"output_index": _NUMBER, b"delta": _TEXT}
_CHANCES = 8
"""Patterns that are made, each in a fraction of a millisecond. A service whose deltas have more shapes has none."""

Match = Callable[[bytes], "re.Match[bytes] | None"]


class Shapes:
    """The shapes of one service's deltas."""

    def __init__(self) -> None:
        self._known: list[tuple[Match, EventKind, int]] = []

    def read(self, block: bytes) -> StreamEvent | None:
        """The event of a block of an event stream; None for one that has none of the known shapes."""
        for match, kind, start in self._known:
            if found := match(block):
                number, index, delta = found.group("sequence_number", "output_index", "delta")
                try:
                    text = delta.decode()
                except UnicodeDecodeError:
                    return None

                text = text if kind is EventKind.TEXT else ""
                return StreamEvent(kind, block[start:], text, int(number), int(index))

        return None

    def learn(self, block: bytes, data: bytes, event: StreamEvent) -> None:
        """This block was read as JSON. Its like need not be, if it is a delta in one line, and no object holds more."""
        if len(self._known) >= _CHANCES or event.kind not in (EventKind.TEXT, EventKind.PROGRESS):
            return

        delta = event.raw.get("delta")
        if not isinstance(event.cursor, int) or event.index is None or not isinstance(delta, str):
            return

        if data.count(b"{") != 1 or not block.endswith(data):
            return

        start = len(block) - len(data)
        pattern, read = _pattern(block, start)
        expected = {b"sequence_number": b"%d" % event.cursor, b"output_index": b"%d" % event.index}
        if read == {**expected, b"delta": delta.encode()}:
            self._known.append((re.compile(pattern).fullmatch, event.kind, start))


def _pattern(block: bytes, start: int) -> tuple[bytes, dict[bytes, bytes]]:
    """The pattern of a block whose JSON starts there, and what it reads in this one."""
    pieces, read, at = [re.escape(block[:start])], dict[bytes, bytes](), start
    for found in _SCALAR.finditer(block, start):
        name, number, text = found.groups()
        if name == b"type":
            continue

        begin, end = found.span(2 if text is None else 3)
        inside = _NUMBER if text is None else _PLAIN
        if name in _READ and name not in read:
            inside = b"(?P<%b>%b)" % (name, _READ[name])
            read[name] = number if text is None else text

        pieces += [re.escape(block[at:begin]), inside]
        at = end

    return b"".join([*pieces, re.escape(block[at:])]), read
