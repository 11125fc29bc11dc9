"""The eight words for where a run stands."""

from __future__ import annotations

from enum import StrEnum


class RunStatus(StrEnum):
    """Where a run stands, in words that fit every service.

    A service's own words are mapped by its provider; a word it does not know counts as `RUNNING`, and the raw word
    is kept beside it.
    """

    QUEUED = "queued"
    RUNNING = "running"
    INPUT_REQUIRED = "input_required"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def live(self) -> bool:
        """True while there is something to poll or resume."""
        return self in _LIVE

    @property
    def terminal(self) -> bool:
        """True when the run has ended, well or badly. `INPUT_REQUIRED` is neither live nor terminal."""
        return self not in _LIVE and self is not RunStatus.INPUT_REQUIRED


_LIVE = frozenset({RunStatus.QUEUED, RunStatus.RUNNING})
