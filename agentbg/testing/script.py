"""Scripts for `ScriptedProvider`: what a run does, and when, as data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Self

from ..core.model import JSON, EventKind, RunErrorInfo
from ..core.status import RunStatus

CALL_ID = "call_1"
"""The `call_id` of a call that is given none."""


@dataclass(frozen=True, slots=True)
class At:
    """What happens in a run so many seconds after its start: `At(2.5, text="Hello")`.

    One event of the run's stream, and one change of what a poll shows.
    """

    seconds: float
    _: KW_ONLY
    status: RunStatus | str | None = None
    """The run's new status. A word that agentbg does not know is a service's own, and counts as running."""
    text: str = ""
    """More of the answer; beside a final status, the whole answer in place of what was streamed."""
    item: JSON | None = None
    """An output item begins, in the shape of the Responses API; see `message`."""
    index: int | None = None
    """The item's place; None for the next one. An item at a place that is taken begins anew, and voids what follows."""
    error: RunErrorInfo | None = None
    """Why the run failed; without a status, an error event in the stream."""
    raw: JSON | None = None
    """The event as the service words it; None for one in the words of the Responses API."""
    kind: EventKind | None = None
    """What the event means; None to read it from the other fields."""
    poll_after: float | None = None
    """The wish, in seconds, that polls bring from here on."""
    skip: int = 0
    """How many of the service's numbers are left out before this event."""

    @property
    def run_status(self) -> RunStatus | None:
        """The status in agentbg's words."""
        if self.status is None:
            return None

        try:
            return RunStatus(self.status)
        except ValueError:
            return RunStatus.RUNNING

    @property
    def means(self) -> EventKind:
        """The kind of its event."""
        if self.kind is not None:
            return self.kind

        status = self.run_status
        if status is not None:
            return EventKind.STATUS if status.live else EventKind.END

        if self.item is not None:
            return EventKind.ITEM

        if self.text:
            return EventKind.TEXT

        return EventKind.ERROR if self.error is not None else EventKind.PROGRESS


@dataclass(frozen=True, slots=True)
class RunScript:
    """What one run does. Steps in the order of time; the last one ends the run, or it never ends.

        RunScript([At(0, status="queued"), At(2, status="running"), At(3, text="Hello"), At(9, status="completed")])

    Raises ValueError when the steps are not in order, or something follows the end.
    """

    steps: Sequence[At]

    def __post_init__(self) -> None:
        if any(later.seconds < step.seconds for step, later in pairwise(self.steps)):
            raise ValueError("The steps of a script must be in the order of their seconds.")

        if any(step.means is EventKind.END for step in self.steps[:-1]):
            raise ValueError("A run's end must be the last step of its script.")

    @property
    def cursors(self) -> list[int]:
        """The number of each step's event: from 0, with the gaps of `skip`."""
        return [number - 1 for number in accumulate(step.skip + 1 for step in self.steps)]

    @classmethod
    def text(
        cls, text: str, *, seconds: float = 10.0, deltas: int = 10, queued: float | None = None, end: At | None = None
    ) -> Self:
        """A run that answers `text` in `deltas` pieces, evenly over its `seconds`.

        It is queued for the first tenth of that time, or for `queued` seconds. It ends as completed, or as `end` says.
        """
        begun = min(seconds, seconds / 10 if queued is None else queued)
        pieces = _split(text, deltas)
        pause = (seconds - begun) / (len(pieces) + 1)
        return cls(
            [
                At(0.0, status=RunStatus.QUEUED),
                At(begun, status=RunStatus.RUNNING),
                *([At(begun, item=message())] if pieces else []),
                *(At(begun + pause * number, text=piece) for number, piece in enumerate(pieces, 1)),
                replace(end or At(0.0, status=RunStatus.COMPLETED), seconds=seconds),
            ]
        )

    @classmethod
    def json(cls, value: Any, *, seconds: float = 10.0, deltas: int = 10) -> Self:
        """A run that answers with `value` as JSON, for agents with an output type."""
        return cls.text(json.dumps(value), seconds=seconds, deltas=deltas)

    @classmethod
    def failed(
        cls, code: str = "server_error", message: str = "The run failed.", *, after: str = "", seconds: float = 10.0
    ) -> Self:
        """A run that fails; its stream brings the text `after` first."""
        end = At(0.0, status=RunStatus.FAILED, error=RunErrorInfo(code, message))
        return cls.text(after, seconds=seconds, end=end)

    @classmethod
    def incomplete(cls, text: str = "", reason: str = "max_output_tokens", *, seconds: float = 10.0) -> Self:
        """A run that a limit cuts off after `text`."""
        error = RunErrorInfo(reason, f"The answer was cut short: {reason}.")
        return cls.text(text, seconds=seconds, end=At(0.0, status=RunStatus.INCOMPLETE, error=error))

    @classmethod
    def call(cls, name: str, arguments: JSON, *, call_id: str = CALL_ID, seconds: float = 10.0) -> Self:
        """A run that asks for the output of the user's function `name`."""
        return cls.asks(function_call(name, arguments, call_id=call_id), seconds=seconds)

    @classmethod
    def asks(cls, *items: JSON, seconds: float = 10.0) -> Self:
        """A run that waits for its user: for what the items ask, or for an approval where there is none.

        RunScript.asks(function_call("look", {"at": "sea"}, call_id="call_1"), approval("delete", id="mcpr_1"))
        """
        return cls(
            [
                At(0.0, status=RunStatus.QUEUED),
                At(seconds / 10, status=RunStatus.RUNNING),
                *(At(seconds, item=item) for item in items or (approval(),)),
                At(seconds, status=RunStatus.INPUT_REQUIRED),
            ]
        )

    @classmethod
    def endless(cls, text: str = "", *, seconds: float = 10.0, deltas: int = 10) -> Self:
        """A run that says `text` within its first `seconds`, and then goes on, in silence, for ever."""
        return cls(cls.text(text, seconds=seconds, deltas=deltas).steps[:-1])

    def then(self, *steps: At) -> Self:
        """The same script with more steps after it; what ended the run before is dropped."""
        kept = [step for step in self.steps if step.means is not EventKind.END]
        return type(self)([*kept, *steps])

    def skipping(self, numbers: int, *, before: int) -> Self:
        """The same script with a gap of `numbers` in the service's numbering before the event at this place."""
        steps = list(self.steps)
        steps[before] = replace(steps[before], skip=numbers)
        return type(self)(steps)


def message(id: str = "msg_1", text: str = "") -> JSON:
    """A message item of the assistant, in the shape of the Responses API."""
    part: JSON = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"id": id, "type": "message", "status": "in_progress", "role": "assistant", "content": [part]}


def function_call(name: str, arguments: JSON, *, call_id: str = CALL_ID) -> JSON:
    """A call of the user's function, in the shape of the Responses API."""
    call: JSON = {"type": "function_call", "call_id": call_id, "name": name, "arguments": json.dumps(arguments)}
    return {"id": f"fc_{call_id.removeprefix('call_')}", "status": "completed", **call}


def approval(name: str = "tool", arguments: JSON | None = None, *, id: str = "mcpr_1") -> JSON:
    """A request to approve a tool of an MCP server, in the shape of the Responses API."""
    what: JSON = {"name": name, "arguments": json.dumps(arguments or {}), "server_label": "server"}
    return {"id": id, "type": "mcp_approval_request", **what}


def _split(text: str, pieces: int) -> list[str]:
    """`text` in at most `pieces` pieces of about the same size, none empty."""
    count = min(pieces, len(text))
    return [text[len(text) * i // count : len(text) * (i + 1) // count] for i in range(count)]
