"""What the server sends: a head, and a body of bytes or of steps. Plain data; the connection carries it out."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from .wire import Event, encode, error_body

How = Literal["clean", "fin", "rst"]
"""How a body is cut: a clean end (the last chunk is sent), a FIN without it, or a reset of the connection."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Send what there is, and then nothing for so many seconds, or until `wake` is set."""

    seconds: float = math.inf
    wake: asyncio.Event | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """End the body here."""

    how: How = "clean"


Step = Event | bytes | Pause | Cut
"""A step of a body: an event to frame, bytes to send as they are, a pause, or an end."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. Bytes are sent with their length, steps in chunks, unless a header states a `content-length`."""

    body: bytes | Iterator[Step]
    status: int | None = 200
    """None: nothing is sent before the body's first step, which must be a cut."""
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})

    @classmethod
    def json(cls, value: object, status: int = 200) -> Reply:
        """A JSON answer."""
        return cls(encode(value), status)

    @classmethod
    def error(cls, status: int, message: str, *, param: str | None = None, code: str | None = None) -> Reply:
        """An error in the service's JSON shape."""
        return cls(encode(error_body(message, param=param, code=code)), status)

    @classmethod
    def stream(cls, steps: Iterator[Step]) -> Reply:
        """A stream of server-sent events."""
        return cls(steps, headers={"content-type": "text/event-stream; charset=utf-8"})

    @classmethod
    def nothing(cls, how: How) -> Reply:
        """No answer at all: the connection ends."""
        return cls(iter((Cut(how),)), status=None)

    @property
    def streams(self) -> bool:
        """Whether this is a stream of server-sent events."""
        return self.headers.get("content-type", "").startswith("text/event-stream")

    def with_body(self, body: bytes | Iterator[Step], **headers: str) -> Reply:
        """The same answer with another body, and these headers (`_` in a name stands for `-`)."""
        added = {name.replace("_", "-"): value for name, value in headers.items()}
        return replace(self, body=body, headers={**self.headers, **added})
