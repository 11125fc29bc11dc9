"""One step of a run as users see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

from pydantic_core import from_json

from .model import JSON, RunRef, Source
from .position import Position
from .response import AgentRunResponse
from .token import ContinuationToken


class UpdateType(StrEnum):
    """What an update tells. The service's own word is in `raw["type"]`."""

    STATUS = "status"
    """The run was queued or began."""
    ITEM = "item"
    """An output item begins: a message, a reasoning step, a call; or a call of ours is answered."""
    TEXT = "text"
    """`text` is more of the answer."""
    PROGRESS = "progress"
    """Anything else that belongs to the answer: reasoning, arguments of a call, an item's end."""
    ERROR = "error"
    """The service reported an error; the run's end tells whether it was fatal."""
    RESET = "reset"
    """What was delivered so far is void: discard it. `text` is what the answer begins with instead."""
    WAITING = "waiting"
    """The run waits for its user: `response.requests` says what for. The last one until it is answered."""
    END = "end"
    """The last one: `response` is the run's response. `text` is what was still missing."""


@dataclass(frozen=True, slots=True)
class TokenIssuer:
    """What all tokens of one run have in common."""

    ref: RunRef
    issued_at: float
    streamed: bool

    def issue(self, position: Position) -> ContinuationToken:
        """The token for a place in the run."""
        return ContinuationToken(self.ref, position, self.issued_at, self.streamed)


@dataclass(slots=True, eq=False)
class AgentRunResponseUpdate:
    """One step of a run. Joining the `text` of all updates since the last RESET gives the answer's text, always."""

    type: UpdateType
    seq: int
    """Ours: from 1, per run; without gaps but before a RESET that makes good for what a journal did not keep."""
    text: str = ""
    """A delta; never the whole text again, unless `type` is RESET."""
    source: Source | None = field(default=None, repr=False)
    """What `raw` is read from."""
    response: AgentRunResponse[Any] | None = field(default=None, repr=False)
    """The run's response, on the last update, and on the one that says that the run waits for its user."""
    position: Position = field(default=Position(), repr=False)
    issuer: TokenIssuer | None = field(default=None, repr=False, compare=False)
    read_partial: Callable[[], Any] | None = field(default=None, repr=False, compare=False)

    __hash__ = None  # type: ignore[assignment]  # `raw` may be a dict

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AgentRunResponseUpdate) and self._facts == other._facts

    @property
    def raw(self) -> JSON | None:
        """The service's event; None for an update that agentbg made itself."""
        if isinstance(self.source, str):
            self.source = cast("JSON", from_json(self.source))

        return self.source

    @property
    def _facts(self) -> tuple[Any, ...]:
        return self.type, self.seq, self.text, self.raw, self.response, self.position

    @property
    def partial(self) -> Any:
        """What of the value had come by this update, as plain data: what `json` would make of the whole answer.

        For streams with `partial=True`; None on others, and where nothing can be read: no text yet, what is no JSON, or
        an answer whose beginning this stream never had. It only grows: objects and lists get more members, texts more
        characters, and what is there stays, until a RESET or another round of tools begins the value anew. Nothing is
        checked: types, limits and defaults are those of `response.value`. A number, and digits at the end of a text,
        appear with what follows them. On the END it is the data of the whole value.

        Each look reads the text so far again. Look when you show it: at each of the many updates of a long answer, the
        time would grow with the square of its length.
        """
        return None if self.read_partial is None else self.read_partial()

    @property
    def continuation_token(self) -> ContinuationToken | None:
        """What resumes the run right after this update; None on the last one, and while the user is waited for."""
        if self.issuer is None or self.type in (UpdateType.END, UpdateType.WAITING):
            return None

        return self.issuer.issue(self.position)
