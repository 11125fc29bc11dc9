"""How far a run's stream has come. Small enough for a token, enough to find exactly the missing tail."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from .model import Cursor


@dataclass(slots=True, unsafe_hash=True)  # one is made per event, and a frozen one takes three times as long to make
class Position:
    """A place between two updates of one run. Never changed once it is made.

    `chars` and `digest` (CRC-32 of the UTF-8) stand for the text delivered since the start or the last reset, so that
    a final text can be compared with what a consumer holds without keeping that text.
    """

    seq: int = 0
    """Updates delivered so far; the last one's `seq`."""
    cursor: Cursor | None = None
    """The service's cursor of the last event that carried one."""
    chars: int = 0
    digest: int = 0
    items: int = 0
    """The output items begun so far, as a bit mask: items need not begin in order."""
    before: int = 0
    """How many of `chars` are of earlier rounds. Cursor and items are those of the present one."""
    before_digest: int = 0


def digest(text: str, start: int = 0) -> int:
    """The CRC-32 of `text`, going on from `start`. Lone surrogates, which JSON can carry, are allowed."""
    return crc32(text.encode("utf-8", "surrogatepass"), start)


def tail(text: str, at: Position) -> str | None:
    """What of a round's `text` is not delivered at `at`; None when it does not begin with what was delivered of it."""
    chars = at.chars - at.before
    if len(text) < chars or digest(text[:chars], at.before_digest) != at.digest:
        return None

    return text[chars:]
