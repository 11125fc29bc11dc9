"""Faults for `ScriptedProvider`: what goes wrong, in which call, as data."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from copy import copy
from dataclasses import dataclass, field

from ..errors import ProviderError

STREAM = "stream"
"""Stands for both methods that stream: `open` and `attach`."""
ANSWER = "answer"
"""Stands for a `start`, `open` or `respond` that brings answers: the outputs of a run's calls, or approvals."""
METHODS = frozenset({"start", "open", "poll", "attach", "cancel", "respond", "delete", STREAM, ANSWER})


@dataclass(slots=True, kw_only=True)
class Fault:
    """Something that goes wrong in the `call`-th call of `method` from now, and in `times` calls in a row (None: all).

    `run` limits it to calls about the run of that number, counted from 1; it then counts only these calls. A start that
    brings answers is about the run that it answers.
    """

    method: str
    call: int = 1
    times: int | None = 1
    run: int | None = None
    error: ProviderError | None = None
    """Raised; in a stream, after `after` events."""
    lost: bool = False
    """The service does what it was asked, and then the error is raised."""
    delay: float = 0.0
    """Seconds that the answer takes longer; infinity for one that never comes."""
    after: int | None = None
    """How many events of a stream come before it ends, or breaks with `error`."""
    silent: bool = False
    """The stream does not end there, but stays open and brings nothing."""
    repeat: int = 0
    """How many events before the cursor come again."""
    twice: bool = False
    """Every event of the stream comes twice."""
    shift: int = 0
    """What is added to the numbers of the stream's events."""
    seen: int = field(default=0, init=False)
    """Calls so far that it was there for."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"There is no method {self.method!r}; faults are for {', '.join(sorted(METHODS))}.")

        if self.call < 1:
            raise ValueError("Calls are counted from 1.")

    def strikes(self, methods: Collection[str], run: int | None) -> bool:
        """True when it hits this call, which it counts. `methods` are the call's method, and what stands for it."""
        if self.method not in methods or self.run not in (None, run):
            return False

        self.seen += 1
        return self.seen >= self.call and (self.times is None or self.seen < self.call + self.times)


@dataclass(frozen=True, slots=True)
class Effect:
    """What the faults that hit one call do to it together. Errors are copied: each takes on its own traceback."""

    faults: tuple[Fault, ...] = ()

    @classmethod
    def of(cls, faults: Iterable[Fault], methods: Collection[str], run: int | None) -> Effect:
        """The effect of those among `faults` that hit this call. All of them count it."""
        return cls(tuple([fault for fault in faults if fault.strikes(methods, run)]))

    @property
    def delay(self) -> float:
        """Seconds that the answer takes longer."""
        return sum(fault.delay for fault in self.faults)

    @property
    def refusal(self) -> ProviderError | None:
        """What is raised instead of doing anything."""
        return next((copy(f.error) for f in self.faults if f.error and not f.lost and f.after is None), None)

    @property
    def loss(self) -> ProviderError | None:
        """What is raised once the service has done it."""
        return next((copy(f.error) for f in self.faults if f.error and f.lost), None)

    @property
    def cut(self) -> Fault | None:
        """The fault that ends the stream first."""
        cuts = [fault for fault in self.faults if fault.after is not None]
        return min(cuts, key=lambda fault: fault.after or 0, default=None)

    @property
    def repeat(self) -> int:
        """How many events before the cursor come again."""
        return max((fault.repeat for fault in self.faults), default=0)

    @property
    def copies(self) -> int:
        """How often each event comes."""
        return 2 if any(fault.twice for fault in self.faults) else 1

    @property
    def shift(self) -> int:
        """What is added to the numbers of the stream's events."""
        return sum(fault.shift for fault in self.faults)
