"""What a run is submitted on: how long it may take, what is done then, and how its journal is kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from .core.record import RunRecord
from .errors import UsageError
from .journal import Flush, JournalMode, check_choice

OnDeadline = Literal["detach", "cancel"]
"""What is done about a run whose deadline has passed. "detach" lets go of it: it ends here as expired, goes on at its
service, and its token stays valid. "cancel" cancels it at its service, and takes the service's word for how it ended;
a run that has no end 2 minutes later is let go of."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Those of a runtime's runs, or of one that has some of its own. Raises UsageError for what cannot be."""

    deadline: float | None = None
    """Seconds from the submit; None for no deadline."""
    on_deadline: OnDeadline = "detach"
    journal: JournalMode = "full"
    flush: Flush = "commit"

    def __post_init__(self) -> None:
        if self.deadline is not None and not 0 < self.deadline < inf:
            raise UsageError(f"deadline is in seconds from the submit, above 0, or None for none; not {self.deadline}.")

        check_choice("on_deadline", self.on_deadline, OnDeadline)
        check_choice("journal", self.journal, JournalMode)
        check_choice("flush", self.flush, Flush)

    def own(self, deadline: float | None, on_deadline: OnDeadline | None, journal: JournalMode | None) -> Terms:
        """These, but for what one run says of itself."""
        if deadline is None and on_deadline is None and journal is None:
            return self

        return replace(
            self,
            deadline=self.deadline if deadline is None else deadline,
            on_deadline=self.on_deadline if on_deadline is None else on_deadline,
            journal=self.journal if journal is None else journal,
        )

    def note(self, record: RunRecord) -> None:
        """Write them down."""
        record.journal, record.flush = self.journal, self.flush
        record.deadline_at = None if self.deadline is None else record.created_at + self.deadline
        record.cancel_at_deadline = self.on_deadline == "cancel"
