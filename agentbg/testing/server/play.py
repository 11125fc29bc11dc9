"""From a script to the events of one run, each with its time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .items import OutputItem
from .script import Script
from .wire import ENDING, JSON, TERMINAL_EVENTS, Event, input_text, new_id, usage_body


@dataclass(slots=True)
class Entry:
    """An event, and when it happens, in seconds after the run's creation."""

    at: float
    event: Event


def play(script: Script, queued: JSON, final: JSON, ids: Sequence[str]) -> Iterator[Event]:
    """The events of a run, in order and numbered from 0.

    `queued` and `final` are the bodies of its response at the beginning and at the end, `ids` those of its items.
    """
    for number, event in enumerate(_events(script, queued, final, ids)):
        yield {**event, "sequence_number": number}


def _events(script: Script, queued: JSON, final: JSON, ids: Sequence[str]) -> Iterator[Event]:
    yield {"type": "response.created", "response": queued}
    if queued["background"]:
        yield {"type": "response.queued", "response": queued}

    yield {"type": "response.in_progress", "response": {**queued, "status": "in_progress"}}
    for index, (item, item_id) in enumerate(zip(script.items, ids, strict=True)):
        for event in _item_events(script, item, item_id, last=index == len(ids) - 1):
            yield {**event, "output_index": index}

    if script.error_event is not None:
        yield error_event(script.error or {}, nested=script.error_event == "nested")

    yield {"type": ENDING.get(script.status, "response.failed"), "response": final}


def _item_events(script: Script, item: OutputItem, id: str, *, last: bool) -> Iterator[Event]:
    yield {"type": "response.output_item.added", "item": item.begun(id)}
    events = [
        *item.events(id),
        {"type": "response.output_item.done", "item": item.ended(id, item_status(script, last))},
    ]
    if last and script.status in ("failed", "cancelled"):
        events = [event for event in events if not event["type"].endswith(".done")]

    yield from events


def error_event(error: JSON, *, nested: bool) -> Event:
    """An `error` event in one of its two shapes, without a number."""
    details = {"code": error.get("code"), "message": error.get("message"), "param": None}
    return {"type": "error", "error": {"type": "server_error", **details}} if nested else {"type": "error", **details}


def item_status(script: Script, last: bool) -> str:
    """The status that an item ends with: the last one of an incomplete run is incomplete, too."""
    return "incomplete" if last and script.status == "incomplete" else "completed"


def final_body(script: Script, queued: JSON, ids: Sequence[str], request: JSON, completed_at: int) -> Event:
    """The run's response as it is in the end."""
    body: Event = {**queued, "status": script.status, "error": script.error, "service_tier": "default"}
    if script.status in ("failed", "cancelled"):
        return body

    last = len(ids) - 1
    body["output"] = [
        item.ended(item_id, item_status(script, index == last))
        for index, (item, item_id) in enumerate(zip(script.items, ids, strict=True))
    ]
    body["usage"] = script.usage or _usage(script, request)
    if script.status == "completed":
        body["completed_at"] = completed_at
    else:
        body["incomplete_details"] = {"reason": script.reason}

    return body


def _usage(script: Script, request: JSON) -> Event:
    reasoning = sum(item.tokens for item in script.items if item.prefix == "rs")
    output = sum(item.tokens for item in script.items)
    return usage_body(len(input_text(request).split()), output, reasoning)


def obfuscate(events: Iterable[Event]) -> Iterator[Event]:
    """Pad each delta, as the service does in foreground streams, so that all have about the same length."""
    for event in events:
        padded = {"obfuscation": "x" * (16 - len(event["delta"]) % 16)} if event["type"].endswith(".delta") else {}
        yield {**event, **padded}


def timed(script: Script, events: Iterable[Event]) -> list[Entry]:
    """The events with their times: when queued, `delay` apart, and the last one not before the run's end."""
    entries: list[Entry] = []
    at = 0.0
    for event in events:
        if event["type"] in TERMINAL_EVENTS:
            at = max(at + script.delay, script.queued + script.running)
        elif event["type"] == "response.in_progress":
            at = max(at, script.queued)
        elif at >= script.queued and event["type"] not in ("response.created", "response.queued"):
            at += script.delay

        entries.append(Entry(at, event))

    return entries


def recorded_id(script: Script) -> str | None:
    """The id that a recorded run had."""
    return next((str(event["response"]["id"]) for event in script.recorded if "response" in event), None)


def renamed(script: Script, id: str) -> list[Event]:
    """A recording's events, under `id` and with new ids for its items, if it had another id before."""
    old = recorded_id(script)
    if old is None or old == id:
        return list(script.recorded)

    items = [event["item"]["id"] for event in script.recorded if event["type"] == "response.output_item.added"]
    names = {old: id, **{item: new_id(item.partition("_")[0]) for item in items}}
    pattern = re.compile("|".join(map(re.escape, names)))
    text = pattern.sub(lambda match: names[match[0]], json.dumps(script.recorded))
    return list(json.loads(text))
