"""What travels between the rooms. Everything here is plain data; no vendor's type is among it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import chain
from typing import Annotated, Any, cast

from pydantic import PlainSerializer
from pydantic_core import from_json

from .requests import InputRequest
from .status import RunStatus

JSON = Mapping[str, Any]
"""A JSON object as it came from the service."""

NOTHING: JSON = {}
"""One for all who have none to hold: it is to be looked at, and copied before it is handed to a user."""

Source = JSON | str
"""A JSON object, or the text of one, which is read when somebody wants to know."""

Cursor = int | str
"""A place in a service's own stream. Integers are ordered; strings are opaque."""


class Ids(Mapping[str, str]):
    """A few ids by what they are of, never changed. A dict weighs twice as much, and there is one for each run."""

    __slots__ = ("_flat",)

    def __init__(self, given: Mapping[str, str]) -> None:
        self._flat = tuple(chain.from_iterable(given.items()))

    @property
    def first(self) -> str:
        """The one that was named first; "" where there is none."""
        return self._flat[1] if self._flat else ""

    def __getitem__(self, kind: str) -> str:
        for place in range(0, len(self._flat), 2):
            if self._flat[place] == kind:
                return self._flat[place + 1]

        raise KeyError(kind)

    def __iter__(self) -> Iterator[str]:
        return iter(self._flat[::2])

    def __len__(self) -> int:
        return len(self._flat) // 2

    def __hash__(self) -> int:
        return hash(frozenset(self.items()))

    def __repr__(self) -> str:
        return repr(dict(self))


@dataclass(frozen=True, slots=True)
class RunRef:
    """Where a run lives: which provider, which endpoint (a fingerprint), under which ids. Holds no secret."""

    provider: str
    endpoint: str
    ids: Annotated[Mapping[str, str], PlainSerializer(dict)]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", Ids(self.ids))

    @property
    def id(self) -> str:
        """The run's main id at the service, for people and logs."""
        assert isinstance(self.ids, Ids), "made one above"
        return self.ids.first


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What to ask, in neutral words. JSON-safe, and free of secrets, so that a store can keep it."""

    input: Sequence[JSON]
    """Items in the shape of the Responses API: the field's common tongue."""
    instructions: str | None = None
    tools: Sequence[JSON] = ()
    output_schema: JSON | None = None
    """A JSON schema with a `title`, whose root is an object; None for free text."""
    background: bool = True
    previous: RunRef | None = None
    """The run that this one continues, when the service keeps the conversation."""
    extra: JSON = field(default_factory=dict[str, Any])
    """Parameters of the service itself, sent as they are; they win over all else."""
    output_strict: bool = False
    """Whether the schema has the form that a service can enforce to the letter."""
    reasoning_effort: str | None = None
    max_output_tokens: int | None = None
    service_tier: str | None = None
    completion_window: str | None = None
    metadata: JSON = field(default_factory=dict[str, Any])
    """Texts by name, for the service to keep with the run."""
    include: Sequence[str] = ()
    """What the service is to show besides, in its own words."""
    whole: bool = False
    """True when the service keeps nothing that matters: `input` is all that was said so far, and so it is to be for the
    run's later rounds."""


LOST = "lost"
"""The error code of a failed run that its service cut off, or lost sight of: nobody knows its end."""


DEADLINE = "deadline"
"""The error code of a run that was let go of at its deadline: it may go on at its service."""


SUBMIT_UNKNOWN = "submit_unknown"
"""The error code of a failed run of which nobody knows whether it was started."""


@dataclass(frozen=True, slots=True)
class RunErrorInfo:
    """Why a run has no result, in the service's own words."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that the service counted; the service's own object is in `raw`."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    raw: JSON = field(default_factory=dict[str, Any], repr=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A whole run as the service shows it at one moment. The final one is the truth."""

    ref: RunRef | None
    """None when the service answered at once and gave no id."""
    status: RunStatus
    raw_status: str
    text: str = ""
    """The answer's text so far, over all messages."""
    items: Sequence[JSON] = ()
    """Output items, as they came."""
    error: RunErrorInfo | None = None
    usage: Usage | None = None
    poll_after: float | None = None
    """The service's wish in seconds for the next poll; a floor."""
    raw: JSON = field(default_factory=dict[str, Any], repr=False)
    requests: Sequence[InputRequest] = ()
    """What the run waits for, when it is INPUT_REQUIRED."""
    completed_at: float | None = None
    """When the run ended, where the service says so: Unix time by its own clock."""

    @property
    def detached(self) -> bool:
        """True for a run that was let go of at its deadline, and can be taken up again."""
        return self.status is RunStatus.EXPIRED and self.error is not None and self.error.code == DEADLINE

    @property
    def hides(self) -> bool:
        """True for a run that was cut short and whose service does not show what there was of it."""
        return self.status is not RunStatus.COMPLETED and not self.items and not self.text

    @property
    def kept(self) -> Snapshot | None:
        """What a run that goes on keeps of it: what it has said. Its status is in the record, and the service's own
        object says little more than what was asked; it weighs as much as all that is ours of a run."""
        told = self.text or self.items or self.error or self.usage
        return replace(self, poll_after=None, raw={}) if told else None

    @property
    def lost(self) -> bool:
        """True when the service knows that it has lost the run."""
        return self.status is RunStatus.FAILED and self.error is not None and self.error.code == LOST


class EventKind(StrEnum):
    """What a stream event means to a run."""

    STATUS = "status"
    """A snapshot of the run, still going."""
    ITEM = "item"
    """An output item begins."""
    TEXT = "text"
    """More of the answer's text."""
    PROGRESS = "progress"
    """Anything else that belongs to the answer: reasoning, arguments of a call, an item's end, a new kind of event."""
    ERROR = "error"
    """The service reports an error. Not an end: a terminal snapshot, or a poll, gives that."""
    END = "end"
    """A snapshot after which nothing follows: terminal, or waiting for the user."""
    KEEPALIVE = "keepalive"
    """A sign of life without content. It never reaches a user."""


@dataclass(slots=True)
class StreamEvent:
    """One event of a service's stream. The hot type: a slotted dataclass, made once per event."""

    kind: EventKind
    source: Source
    text: str = ""
    """The delta, for TEXT."""
    cursor: Cursor | None = None
    """None where the service gave none: such an event never moves the cursor."""
    index: int | None = None
    """The output item it belongs to."""
    snapshot: Snapshot | None = None
    """For STATUS and END; also for ERROR where the service sent one."""
    error: RunErrorInfo | None = None
    """For ERROR."""

    @property
    def raw(self) -> JSON:
        """The event as it came."""
        if isinstance(self.source, str):
            self.source = cast("JSON", from_json(self.source))

        return self.source
