"""What `ScriptedProvider` notes of each call, and how many there are at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.model import Cursor, StartRequest
from .faults import ANSWER, STREAM


@dataclass(slots=True)
class Call:
    """One call of the provider, as it came in. Times are readings of the loop's clock, in seconds."""

    method: str
    at: float
    run: str = ""
    """The run's id at the service; empty until a start has made one."""
    request: StartRequest | None = None
    """What a start asked for."""
    key: str | None = None
    after: Cursor | None = None
    """Where an attach wanted to begin."""
    answers: Mapping[str, Any] | None = None
    """What a respond brought, or what a start says to the questions of an earlier run, by their ids."""
    answered: str = ""
    """The id of the run that a start answers."""
    ended_at: float | None = None
    """When it returned, raised or was cancelled; None while it is under way."""
    error: Exception | None = None
    """What it raised."""

    @property
    def names(self) -> frozenset[str]:
        """Its method, and what stands for it among others: "stream", "answer"."""
        streamed = {STREAM} if self.method in ("open", "attach") else set[str]()
        return frozenset({self.method} | streamed | ({ANSWER} if self.answered else set[str]()))


@dataclass(slots=True)
class Load:
    """How many are at work at once, and how many were at most."""

    now: Counter[str] = field(default_factory=Counter[str])
    most: Counter[str] = field(default_factory=Counter[str])

    def enter(self, *names: str) -> None:
        """One more of each is under way."""
        self.now.update(names)
        for name in names:
            self.most[name] = max(self.most[name], self.now[name])

    def leave(self, *names: str) -> None:
        """One less of each is."""
        self.now.subtract(names)
