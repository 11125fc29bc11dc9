"""The Responses API's words in ours, and ours in its. Pure: JSON in, `core.model` out, and back.

Nothing here trusts a field to be there: gateways and other vendors' servers leave out what they please.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, cast

from ..core.model import JSON, EventKind, RunErrorInfo, RunRef, Snapshot, StartRequest, StreamEvent, Usage
from ..core.requests import read_requests
from ..core.response import is_message, item_text
from ..core.status import RunStatus
from .retold import retold

STATUSES: Mapping[str, RunStatus] = {
    "queued": RunStatus.QUEUED,
    "in_progress": RunStatus.RUNNING,
    "completed": RunStatus.COMPLETED,
    "incomplete": RunStatus.INCOMPLETE,
    "failed": RunStatus.FAILED,
    "cancelled": RunStatus.CANCELLED,
    "canceled": RunStatus.CANCELLED,  # as other vendors spell it
    "expired": RunStatus.EXPIRED,
}
"""A word that is not here counts as RUNNING."""

KEEPALIVES = frozenset({"keepalive", "ping"})
MAX_ITEMS = 10_000
"""More output items than any run has; a larger index is nonsense. A position keeps a bit for each, and Python writes no
number of more than 4300 digits (14,000 bits) into a token or a store."""

MakeRef = Callable[[str], RunRef]


def start_body(request: StartRequest, model: str, *, stream: bool) -> dict[str, Any]:
    """The body of POST /responses. `store` is sent even where it is the default: a background run needs it.

    The service takes a conversation or a previous response, never both: a conversation in `extra` wins.
    """
    previous = None if request.extra.get("conversation") else request.previous
    items = retold(request.input) if request.whole else list(request.input)
    body: dict[str, Any] = {"model": model, "input": items, "store": True}
    optional = {
        "instructions": request.instructions,
        "tools": list(request.tools),
        "background": request.background,
        "stream": stream,
        "previous_response_id": previous.id if previous else None,
        "reasoning": {"effort": request.reasoning_effort} if request.reasoning_effort else None,
        "max_output_tokens": request.max_output_tokens,
        "service_tier": request.service_tier,
        "background_options": {"completion_window": window} if (window := request.completion_window) else None,
        "metadata": dict(request.metadata),
        "include": list(request.include),
        "text": _text_format(request.output_schema, request.output_strict) if request.output_schema else None,
    }
    body.update((name, value) for name, value in optional.items() if value)
    for name, value in request.extra.items():
        body[name] = _over(body.get(name), value)

    return body


def _over(own: object, wish: object) -> object:
    """A parameter that is wished for; an object goes over ours, so that a verbosity does not cost the schema."""
    if isinstance(own, Mapping) and isinstance(wish, Mapping):
        return {**cast("JSON", own), **cast("JSON", wish)}

    return wish


def read_response(body: JSON, make_ref: MakeRef, poll_after: float | None = None) -> Snapshot:
    """A Response object as a snapshot."""
    items = _mappings(body.get("output"))
    raw_status = _word(body.get("status"))
    run_id = body.get("id")
    status = STATUSES.get(raw_status, RunStatus.RUNNING)
    # A response that ends in a call or an approval request is `completed` on the wire; it waits for an answer.
    requests = read_requests(items) if status is RunStatus.COMPLETED else ()
    return Snapshot(
        ref=make_ref(run_id) if isinstance(run_id, str) and run_id else None,
        status=RunStatus.INPUT_REQUIRED if requests else status,
        raw_status=raw_status,
        text="".join(item_text(item) for item in items if is_message(item)),
        items=items,
        error=_error(body),
        usage=_usage(body.get("usage")),
        poll_after=poll_after,
        raw=body,
        requests=requests,
        completed_at=_time(body.get("completed_at")),
    )


def read_event(event: JSON, make_ref: MakeRef) -> StreamEvent:
    """One event of a stream. What it means is read from its content; its name decides only where that is silent."""
    name = _word(event.get("type"))
    cursor = _whole(event.get("sequence_number"))
    if name == "response.output_text.delta":
        return StreamEvent(EventKind.TEXT, event, _word(event.get("delta")), cursor, _index(event))

    response = event.get("response")
    if name == "error":
        return StreamEvent(EventKind.ERROR, event, cursor=cursor, error=_event_error(event))

    if isinstance(response, Mapping):
        return _read_lifecycle(name, event, cast("JSON", response), cursor, make_ref)

    if name == "response.output_item.added":
        return StreamEvent(EventKind.ITEM, event, cursor=cursor, index=_index(event))

    kind = EventKind.KEEPALIVE if name in KEEPALIVES else EventKind.PROGRESS
    return StreamEvent(kind, event, cursor=cursor, index=_index(event))


def _read_lifecycle(name: str, event: JSON, response: JSON, cursor: int | None, make_ref: MakeRef) -> StreamEvent:
    """An event with a whole response. The response's status counts, not the event's name: some call a cancelled
    run's last event `response.failed`, or an incomplete one's `response.completed`."""
    if not response.get("status"):
        response = {**response, "status": name.removeprefix("response.")}

    snapshot = read_response(response, make_ref)
    kind = EventKind.STATUS if snapshot.status.live else EventKind.END
    return StreamEvent(kind, event, cursor=cursor, snapshot=snapshot)


def _error(body: JSON) -> RunErrorInfo | None:
    error = body.get("error")
    if isinstance(error, Mapping):
        fields = cast("JSON", error)
        return RunErrorInfo(_word(fields.get("code")) or "error", _word(fields.get("message")))

    details = body.get("incomplete_details")
    if isinstance(details, Mapping):
        reason = _word(cast("JSON", details).get("reason")) or "incomplete"
        return RunErrorInfo(reason, f"The answer was cut short: {reason}.")

    return None


def _event_error(event: JSON) -> RunErrorInfo:
    """An `error` event is flat in the documents, and often nested on the wire, sometimes in a whole response."""
    response = event.get("response")
    holder = cast("JSON", response) if isinstance(response, Mapping) else event
    nested = holder.get("error")
    fields = cast("JSON", nested) if isinstance(nested, Mapping) else event
    return RunErrorInfo(_word(fields.get("code")) or "error", _word(fields.get("message")))


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, Mapping):
        return None

    fields = cast("JSON", usage)
    return Usage(
        _count(fields.get("input_tokens")),
        _count(fields.get("output_tokens")),
        _count(fields.get("total_tokens")),
        fields,
    )


def _text_format(schema: JSON, strict: bool) -> dict[str, Any]:
    """The service takes names of at most 64 letters, digits, underscores and dashes; generic types have brackets."""
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", _word(schema.get("title")))[:64] or "output"
    return {"format": {"type": "json_schema", "name": name, "schema": schema, "strict": strict}}


def _mappings(value: Any) -> list[JSON]:
    items = cast("Sequence[Any]", value) if isinstance(value, list) else ()
    return [cast("JSON", item) for item in items if isinstance(item, Mapping)]


def _index(event: JSON) -> int | None:
    index = _whole(event.get("output_index"))
    return index if index is not None and 0 <= index < MAX_ITEMS else None


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None  # no bool, which is an int, too


def _time(value: Any) -> float | None:
    """A Unix time: above 0, as 0 is what some servers write for none."""
    return float(value) if type(value) in (int, float) and 0 < value < inf else None


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
