"""The durable part of a run: what a store keeps of it, and all that another process needs to go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from .model import JSON, NOTHING, RunRef, Snapshot, StartRequest
from .position import Position
from .rounds import Round
from .status import RunStatus


@dataclass(slots=True)
class RunRecord:
    """One run, as a store keeps it. Times are Unix times in seconds.

    A record without a `ref` is an *intent*: written before a start is sent, so that a process that dies in between
    leaves a trace. `epoch` grows by one with each owner; a write with an older epoch is refused.
    """

    id: str
    agent: str
    provider: str
    endpoint: str
    stream: bool
    created_at: float
    request: StartRequest | None = None
    """None for a run that was picked up by its token."""
    epoch: int = 0
    status: RunStatus = RunStatus.QUEUED
    raw_status: str = ""
    ref: RunRef | None = None
    position: Position = Position()
    refused: bool = False
    """True when the service does not stream this run (any more)."""
    cancel_requested: bool = False
    cancel_reason: str | None = None
    deadline_at: float | None = None
    cancel_at_deadline: bool = False
    """True when the run is to be cancelled at its deadline; otherwise it is only let go of."""
    updated_at: float = 0.0
    finished_at: float | None = None
    polls: int = 0
    snapshot: Snapshot | None = None
    """The latest that is worth keeping; the final one once the run has ended."""
    rounds: Sequence[Round] = ()
    """Those that ended in requests. `ref` and `snapshot` are the present round's, and `ref` is the last one's of these
    until the answers are sent."""
    renewed_at: float | None = None
    """When its user last answered: the bound for a run's age counts from then."""
    journal: str = "full"
    """How much of the run's updates is kept."""
    flush: str = "commit"
    """Whether they are kept before they are seen."""
    drained: int = 0
    """The last owner, by its epoch, who had stored all that was seen when it closed; where that is not sure anyway."""
    metadata: JSON = field(default_factory=lambda: NOTHING)
    """The caller's own, JSON-safe."""

    @property
    def detached(self) -> bool:
        """True for a run that was let go of at its deadline: nobody here drives it, and its token resumes it."""
        return self.status.terminal and self.snapshot is not None and self.snapshot.detached

    @property
    def may_stream(self) -> bool:
        """True while a stream of the run may be opened."""
        return self.stream and not self.refused and not self.cancel_requested

    @property
    def allowed(self) -> float:
        """Seconds from the run's start to the deadline of its own."""
        return inf if self.deadline_at is None else max(self.deadline_at - self.created_at, 0.0)

    @property
    def renewed(self) -> float:
        """Seconds from the run's start to its user's last answer; 0 without one."""
        return max((self.renewed_at or 0.0) - self.created_at, 0.0)
