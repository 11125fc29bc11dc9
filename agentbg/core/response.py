"""The answer of a run as users see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from pydantic import ValidationError

from ..errors import OutputInvalid
from .model import JSON, RunErrorInfo, Snapshot, Usage
from .requests import InputRequest
from .rounds import Round, open_requests, said, total
from .status import RunStatus
from .token import ContinuationToken

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation. `raw` is its item in the shape of the Responses API."""

    role: str
    text: str
    raw: JSON = field(default_factory=dict[str, Any], repr=False)

    @property
    def item(self) -> JSON:
        """The message as an item to send."""
        return self.raw or {"type": "message", "role": self.role, "content": self.text}


@dataclass(frozen=True, slots=True)
class AgentRunResponse(Generic[T]):
    """What a run has answered so far, or in the end."""

    status: RunStatus
    text: str
    messages: Sequence[Message]
    continuation_token: ContinuationToken | None
    """What resumes the run; None exactly when nothing is left to poll or resume."""
    response_id: str | None
    """The run's id at the service."""
    usage: Usage | None = None
    error: RunErrorInfo | None = None
    """Why the run has no result, when it failed, was incomplete, or expired."""
    raw: JSON = field(default_factory=dict[str, Any], repr=False)
    """The service's own object. Of a handle's run it is kept once the run has ended, or waits."""
    raw_status: str = ""
    """The service's own word for the status."""
    requests: Sequence[InputRequest] = ()
    """What the run waits for, or will when its calls are done; `handle.respond` takes the answers."""
    parse: Callable[[str], T] | None = field(default=None, repr=False, compare=False)
    said: int = field(default=0, repr=False, compare=False)
    """How many characters of `text` come before the last round of tools. A value is in what follows."""

    @property
    def value(self) -> T:
        """The text as an instance of the agent's output type; the text itself for an agent without one.

        Raises OutputInvalid while the run is not completed, or when its text is no such instance. The text is then
        still in `text`.
        """
        if self.status is not RunStatus.COMPLETED:
            raise OutputInvalid(f"The run is {self.status}; only a completed run has a value.", response=self)

        if self.parse is None:
            return cast("T", self.text)

        try:
            return self.parse(self.text[self.said :])
        except ValidationError as error:
            raise OutputInvalid(
                f"The answer does not fit the output type: {error.error_count()} error(s), first "
                f"{error.errors(include_url=False, include_input=False)[0]['msg']!r}. The text is in `response.text`.",
                response=self,
            ) from error


def build_response(
    snapshot: Snapshot,
    token: ContinuationToken | None,
    parse: Callable[[str], T] | None = None,
    rounds: Sequence[Round] = (),
) -> AgentRunResponse[T]:
    """The users' view of a snapshot and the rounds before it; `token` is dropped when nothing is left to resume."""
    items = [item for each in rounds for item in each.items]
    before = said(rounds)
    return AgentRunResponse(
        status=snapshot.status,
        text=before + snapshot.text,
        messages=[read_message(item) for item in (*items, *snapshot.items) if is_message(item)],
        continuation_token=token if snapshot.status.live or snapshot.detached else None,
        response_id=snapshot.ref.id if snapshot.ref else None,
        usage=total([*(each.usage for each in rounds), snapshot.usage]),
        error=snapshot.error,
        raw=snapshot.raw,
        raw_status=snapshot.raw_status,
        requests=open_requests(rounds),
        parse=parse,
        said=len(before),
    )


def read_message(item: JSON) -> Message:
    """An item as a message; an item that is none keeps its content in `raw`."""
    return Message(str(item.get("role", "")), item_text(item), item)


def is_message(item: JSON) -> bool:
    """True for an output item that is a message."""
    return item.get("type") == "message"


def item_text(item: JSON) -> str:
    """The text of a message item: all its text parts joined, as openai-python's `output_text` does."""
    parts: Sequence[Any] | None = item.get("content")
    if not isinstance(parts, list):
        return parts if isinstance(parts, str) else ""

    return "".join(_part_text(part) for part in parts)


def _part_text(part: Any) -> str:
    if not isinstance(part, Mapping):
        return ""

    fields = cast("Mapping[str, Any]", part)
    text = fields.get("text") if fields.get("type") in ("output_text", "input_text", "text") else None
    return text if isinstance(text, str) else ""
