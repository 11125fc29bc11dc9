"""Scripts: what a run does, as data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Literal

from ..context import answers as answered
from ..context import turns
from .items import FunctionCall, Message, OutputItem
from .wire import JSON, TERMINAL, Event, input_text, raw_items

_STORY = (
    "Once",
    "upon",
    "a",
    "time",
    "a",
    "small",
    "robot",
    "counted",
    "the",
    "waves",
    "until",
    "the",
    "tide",
    "turned",
)


@dataclass(frozen=True, slots=True)
class Script:
    """What a run does, and how long it takes. Times are in seconds of the loop's clock.

    A run is queued for `queued`, then sends its events `delay` apart (0: as fast as they are read), and ends not before
    it has run for `running`. `math.inf` for `queued` or `running` makes a run that never ends by itself.
    """

    items: tuple[OutputItem, ...] = ()
    status: str = "completed"
    """How the run ends: completed, failed, incomplete or cancelled."""
    error: JSON | None = None
    """The `error` of a failed run: `{"code", "message"}`."""
    reason: str | None = None
    """Why an incomplete run is so: `max_output_tokens`, `content_filter`."""
    queued: float = 0.0
    running: float = 0.0
    delay: float = 0.0
    usage: JSON | None = None
    """None: counted from the input's words and the output's deltas."""
    error_event: Literal["nested", "flat"] | None = None
    """Whether a failed run sends an `error` event, in which of its two shapes, before `response.failed`."""
    recorded: tuple[Event, ...] = ()
    """Events to play back instead of `items`; see `from_events`."""
    keep_ids: bool = True

    def __post_init__(self) -> None:
        if self.status not in TERMINAL:
            raise ValueError(f"status is {self.status!r}; a run ends as one of {', '.join(sorted(TERMINAL))}")

    @classmethod
    def of(cls, *items: OutputItem) -> Script:
        """A run that completes with these output items."""
        return cls(items)

    @classmethod
    def text(cls, text: str, deltas: int | None = None) -> Script:
        """A run that answers with `text`, streamed in `deltas` pieces (None: one per word)."""
        return cls((Message(text, deltas),))

    @classmethod
    def story(cls, deltas: int = 300) -> Script:
        """A run that tells a story of exactly `deltas` words, one per delta."""
        words = (_STORY[i % len(_STORY)] for i in range(deltas))
        return cls((Message(" ".join(words)),))

    @classmethod
    def json(cls, value: Any) -> Script:
        """A run that answers with `value` as JSON text, for agents with an output type."""
        return cls.text(json.dumps(value))

    @classmethod
    def call(cls, name: str, arguments: JSON, call_id: str | None = None) -> Script:
        """A run that calls the user's function `name`, and so completes with a `function_call`."""
        return cls((FunctionCall(name, json.dumps(arguments), call_id),))

    @classmethod
    def failed(
        cls,
        code: str = "server_error",
        message: str = "The model failed to generate a response.",
        *,
        after: str = "",
        error_event: Literal["nested", "flat"] | None = None,
    ) -> Script:
        """A run that streams the text `after`, and then fails. Its final snapshot has no output."""
        items = (Message(after),) if after else ()
        return cls(items, "failed", {"code": code, "message": message}, error_event=error_event)

    @classmethod
    def incomplete(cls, text: str, reason: str = "max_output_tokens") -> Script:
        """A run that is cut off by a limit after `text`."""
        return cls((Message(text),), "incomplete", reason=reason)

    @classmethod
    def from_events(cls, events: str | Iterable[JSON], *, keep_ids: bool = True) -> Script:
        """A run that plays back a recording: a list of events, or the text of an SSE stream.

        The run has the recording's ids, unless `keep_ids` is False, or a run of that id already exists.
        Raises `ValueError` when there is no event in it.
        """
        parsed = tuple(_parse(events) if isinstance(events, str) else map(dict, events))
        if not parsed:
            raise ValueError("there is no event in the recording")

        return cls(recorded=parsed, keep_ids=keep_ids)

    @classmethod
    def recording(cls, name: str, *, keep_ids: bool = True) -> Script:
        """A recording that comes with this package: `story`, `tool_call`, `web_search` or `failed`."""
        return cls.from_events(
            files(__name__.rpartition(".")[0]).joinpath(f"recordings/{name}.sse").read_text("utf-8"), keep_ids=keep_ids
        )

    def lasting(self, *, queued: float = 0.0, running: float = 0.0, delay: float = 0.0) -> Script:
        """The same run with other times, all in seconds."""
        return replace(self, queued=queued, running=running, delay=delay)


def _parse(sse: str) -> Iterator[Event]:
    for line in sse.splitlines():
        if line.startswith("data:") and line[5:].strip() != "[DONE]":
            yield json.loads(line[5:])


def echo(request: JSON) -> Script:
    """The default script: says back the last text of the input."""
    return Script.text(f"You said: {input_text(request)}")


def answers(request: JSON) -> dict[str, Any]:
    """What a request's input answers: a call's output by its `call_id`, an approval's True or False by its id."""
    return answered(raw_items(request))


ScriptOf = Script | Callable[[JSON], Script]
"""A script, or a function of the request's body that makes one, such as `echo`."""


@dataclass(frozen=True, slots=True)
class Turns:
    """Scripts for the turns of each conversation, such as calls, and then a text; the last one repeats.

        Turns([Script.call("get_weather", {"city": "Amsterdam"}), Script.text("It rains.")])

    As with a real model, what a request gets follows from what it carries alone: from how often the model has spoken in
    what it sees, be it by `previous_response_id`, by `conversation` or in the input. A request that is sent twice gets
    the same script twice.
    """

    scripts: Sequence[ScriptOf]

    def __post_init__(self) -> None:
        if not self.scripts:
            raise ValueError("there is no script in Turns; give it one for the first turn")


ScriptSource = ScriptOf | Sequence[ScriptOf] | Turns
"""What runs do: one script for all; a list in the order of the creates, the last one repeated; or the same by turns."""


def choose(source: ScriptSource, index: int, request: JSON, context: Sequence[JSON]) -> Script:
    """The script of the run number `index`, created by `request`, whose model sees `context`."""
    if isinstance(source, Turns):
        return choose(source.scripts, turns(context), request, context)

    if isinstance(source, Script):
        return source

    return source(request) if callable(source) else choose(source[min(index, len(source) - 1)], index, request, context)
