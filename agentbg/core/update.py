"""One step of a run as users see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .model import JSON, RunRef
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


@dataclass(slots=True)
class AgentRunResponseUpdate:
    """One step of a run. Joining the `text` of all updates since the last RESET gives the answer's text, always."""

    type: UpdateType
    seq: int
    """Ours: from 1, without gaps, per run."""
    text: str = ""
    """A delta; never the whole text again, unless `type` is RESET."""
    raw: JSON | None = field(default=None, repr=False)
    """The service's event; None for an update that agentbg made itself."""
    response: AgentRunResponse[Any] | None = field(default=None, repr=False)
    """The run's response, on the last update, and on the one that says that the run waits for its user."""
    position: Position = field(default=Position(), repr=False)
    issuer: TokenIssuer | None = field(default=None, repr=False, compare=False)

    @property
    def continuation_token(self) -> ContinuationToken | None:
        """What resumes the run right after this update; None on the last one, and while the user is waited for."""
        if self.issuer is None or self.type in (UpdateType.END, UpdateType.WAITING):
            return None

        return self.issuer.issue(self.position)
