"""Deltas read by their shape: most events of a stream are the same but for a few numbers and texts.

The first delta of a kind is read as JSON, and a pattern is made of it: every character as it is, but for the numbers
and texts it holds. What matches is the same JSON with others in their place, so nothing is guessed, whatever the order
of fields and the spacing. Whatever does not match is read as JSON: half a character, one more field, anything odd.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from pydantic_core import from_json

from ..core.model import EventKind, StreamEvent

_PLAIN = r'[^"\\\x00-\x1f]*'
_ESCAPE = r'\\(?:["\\/bfnrt]|u(?:[0-9a-cA-CefEF][0-9a-fA-F]|[dD][0-7])[0-9a-fA-F]{2})'  # but no half of a character
_TEXT = f"{_PLAIN}(?:{_ESCAPE}{_PLAIN})*"
_NUMBER = r"(?:0|[1-9][0-9]{0,17})"
_SCALAR = re.compile(rf'"(\w+)"[ \t]*:[ \t]*(?:(\d+)|"({_TEXT})")(?=[ \t]*[,}}])', re.ASCII)
_HELD = {"sequence_number": _NUMBER, "output_index": "(?:0|[1-9][0-9]{0,3})", "delta": _TEXT}
_END = "\n\n"
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_NAMES = tuple([f'"{name}"'.encode() for name in _HELD])
_CHANCES = 8
"""Patterns that are tried, each in a fraction of a millisecond. A service whose deltas have more shapes has none."""


@dataclass(frozen=True, slots=True)
class _Shape:
    kind: EventKind
    head: str
    """What comes before the JSON."""
    pattern: re.Pattern[str]
    number: int
    index: int
    delta: int
    """The places of these in what is found; the whole JSON is at 0."""

    def read(self, text: str) -> list[StreamEvent] | None:
        """The events of a text that holds nothing but events of this shape."""
        found = self.pattern.findall(text)
        # What is found does not overlap: all that is as long as the text is the text.
        if sum([len(each[0]) for each in found]) + len(found) * (len(self.head) + len(_END)) != len(text):
            return None

        kind, number, index, delta = self.kind, self.number, self.index, self.delta
        if kind is EventKind.TEXT:
            return [
                StreamEvent(kind, each[0], _said(each[delta]), int(each[number]), int(each[index])) for each in found
            ]

        return [StreamEvent(kind, each[0], "", int(each[number]), int(each[index])) for each in found]


def _said(text: str) -> str:
    return from_json(f'"{text}"') if "\\" in text else text


class Shapes:
    """The shapes of one service's deltas."""

    def __init__(self) -> None:
        self._known: list[_Shape] = []
        self._chances = _CHANCES

    def read(self, text: bytes) -> list[StreamEvent] | None:
        """The events of a part of an event stream; None if not all of them have one and the same known shape."""
        try:
            decoded = text.decode()
        except UnicodeDecodeError:
            return None

        for shape in self._known:
            if decoded.startswith(shape.head) and (events := shape.read(decoded)) is not None:
                return events

        return None

    def learn(self, block: bytes, data: bytes, event: StreamEvent) -> None:
        """This block was read as JSON. Its like need not be, if it is a delta in one line, and no object holds more."""
        if not self._chances or event.kind not in (EventKind.TEXT, EventKind.PROGRESS):
            return

        if data.count(b"{") != 1 or not block.endswith(data) or not all(name in data for name in _NAMES):
            return

        try:
            head, text = block[: -len(data)].decode(), data.decode()
        except UnicodeDecodeError:  # half a character, which `json` reads all the same
            return

        if _HALF.search(text):
            return

        self._chances -= 1
        shape = _shape(event.kind, head, text)
        if shape is not None and shape.read(head + text + _END) == [replace(event, source=text)]:
            self._known.append(shape)


def _shape(kind: EventKind, head: str, data: str) -> _Shape | None:
    """The shape of an event; None for one that does not say what a delta says, or says anything twice."""
    pieces, at, names = [re.escape(head), "("], 0, list[str]()
    for found in _SCALAR.finditer(data):
        name, text = found[1], found[3]
        begin, end = found.span(2 if text is None else 3)
        names.append(name)
        if name != "type":
            value = _NUMBER if text is None else _TEXT
            pieces += [re.escape(data[at:begin]), f"(?P<{name}>{_HELD[name]})" if name in _HELD else value]
            at = end

    if not _HELD.keys() <= set(names) or len(set(names)) < len(names):
        return None

    pattern = re.compile("".join([*pieces, re.escape(data[at:]), ")", _END]))
    return _Shape(kind, head, pattern, *[pattern.groupindex[name] - 1 for name in _HELD])
