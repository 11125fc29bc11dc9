"""What the run machine is told (observations) and what it asks for (commands)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import ProviderError
from .model import Cursor, RunRef, Snapshot, StartRequest, StreamEvent
from .requests import Answer, InputRequest, Output
from .update import AgentRunResponseUpdate

# --- observations: something happened -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The service answered the start."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The service refused the start: there is no run."""

    error: ProviderError


@dataclass(frozen=True, slots=True)
class StartLost:
    """The start was sent, or may have been, and its answer is lost."""

    reason: str


@dataclass(frozen=True, slots=True)
class Polled:
    """A poll, or any other call that shows the whole run, was answered."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class PollFailed:
    """A poll was not answered, or answered with an error."""

    error: ProviderError


@dataclass(frozen=True, slots=True)
class Streamed:
    """Events arrived together."""

    events: Sequence[StreamEvent]


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """A connection ended, or could not be made. A clean end has no error; neither says that the run has ended."""

    error: ProviderError | None = None


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """The user wants the remote run to be cancelled."""


@dataclass(frozen=True, slots=True)
class CancelAnswered:
    """The service answered a cancel, or refused it: either way the truth is in the snapshot or in the next poll."""

    snapshot: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class CancelFailed:
    """The service could not take a cancel, and whoever asked for it is told so: the run goes on as before."""


@dataclass(frozen=True, slots=True)
class Invoked:
    """A call was made: its output, or what went wrong, for the model to read."""

    id: str
    output: Output


@dataclass(frozen=True, slots=True)
class InvokeFailed:
    """A call went wrong in a way that ends the run."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The user has answered. None at all: what was decided before is to be sent (again)."""

    answers: Sequence[Answer] = ()


@dataclass(frozen=True, slots=True)
class Due:
    """The time of the last `WakeAt` has come."""

    queued: bool = False
    """The stream that is to be opened waits for its turn, or has since the last look."""


@dataclass(frozen=True, slots=True)
class Notified:
    """Somebody who should know says that the run has changed."""


Observation = (
    Started
    | StartFailed
    | StartLost
    | Polled
    | PollFailed
    | Streamed
    | StreamEnded
    | CancelAsked
    | CancelAnswered
    | CancelFailed
    | Invoked
    | InvokeFailed
    | Answered
    | Due
    | Notified
)

# --- commands: do this, in this order -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Commit:
    """Store the run's record and these updates together; then hand the updates on; then, if `settled`, the result."""

    updates: Sequence[AgentRunResponseUpdate] = ()
    settled: bool = False
    whole: bool = True
    """False when nothing of the record has changed but its position, which the last update has, too."""


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Tell the machine `Due` at this time. Replaces the time before."""

    at: float


@dataclass(frozen=True, slots=True)
class Poll:
    """Ask the service how the run stands."""


@dataclass(frozen=True, slots=True)
class Attach:
    """Open the stream after this cursor; at its beginning for None."""

    after: Cursor | None
    pause: float = field(default=0.0, compare=False)
    """Seconds to wait before: a matter of chance."""


@dataclass(frozen=True, slots=True)
class Detach:
    """Close the stream, if one is open."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Ask the service to cancel the run."""


@dataclass(frozen=True, slots=True)
class Invoke:
    """Make this call. The record, which is stored by now, says that it was begun."""

    request: InputRequest


@dataclass(frozen=True, slots=True)
class Send:
    """Start the next round. For a service that waits itself, `waiting` is the run to tell."""

    request: StartRequest
    key: str
    waiting: RunRef | None = None


@dataclass(frozen=True, slots=True)
class Complain:
    """Tell those who wait: the service refuses to talk about this run. The run goes on."""

    error: ProviderError


@dataclass(frozen=True, slots=True)
class Stalled:
    """Tell those who watch: the run has shown nothing new for long."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """Tell those who watch: the run's deadline has passed, and what follows here is what is done about it."""


Command = Commit | WakeAt | Poll | Attach | Detach | Cancel | Invoke | Send | Complain | Stalled | Overdue
