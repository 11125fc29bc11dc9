"""One run of `ScriptedProvider`'s service: its script, read at a time."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..core.model import JSON, EventKind, RunErrorInfo, RunRef, Snapshot, StartRequest, StreamEvent, Usage
from ..core.requests import read_requests
from ..core.response import is_message, item_text
from ..core.status import RunStatus
from .context import questions
from .script import At, RunScript, message

_EARLY = 1e-9  # asyncio may run a timer so many seconds early


class ScriptedRun:
    """A run as the service knows it. Times are readings of the loop's clock, in seconds."""

    def __init__(self, number: int, ref: RunRef, request: StartRequest, script: RunScript, now: float) -> None:
        self.number = number
        """From 1, in the order of the starts."""
        self.ref = ref
        self.request = request
        self.earlier: Sequence[JSON] = ()
        """The items that the service kept from before it, oldest first."""
        self.rest: Sequence[RunScript] = ()
        """The scripts of the runs that answer it; none: the service's next."""
        self.started_at = now
        self.steps = list(script.steps)
        self.cursors = script.cursors
        self._indexes = list(_indexes(script.steps))
        self.changed = asyncio.Event()
        """Set, and replaced, when the script changes under a stream's feet."""

    @property
    def id(self) -> str:
        """Its id at the service."""
        return self.ref.id

    @property
    def context(self) -> list[JSON]:
        """All that its model sees: what the service kept from before, and its own input, oldest first."""
        return [*self.earlier, *self.request.input]

    @property
    def asks(self) -> set[str]:
        """The ids of the calls and approval requests in its script."""
        return questions(step.item for step in self.steps if step.item is not None)

    def due(self, now: float) -> int:
        """How many steps have happened."""
        return bisect_right(self.steps, now - self.started_at + _EARLY, key=lambda step: step.seconds)

    def ended(self, now: float) -> bool:
        """True when its last step has happened, and was an end."""
        return self.due(now) == len(self.steps) and self._ends

    @property
    def _ends(self) -> bool:
        return bool(self.steps) and self.steps[-1].means is EventKind.END

    def wait_for(self, place: int, now: float) -> float | None:
        """Seconds until the step at this place, or until the run's end; None when neither is to come."""
        if place < len(self.steps):
            return self.steps[place].seconds + self.started_at - now

        return self.steps[-1].seconds + self.started_at - now if self._ends else None

    def place_after(self, cursor: int | None) -> int:
        """The place of the first event with a number above `cursor`."""
        return 0 if cursor is None else bisect_right(self.cursors, cursor)

    def end(self, status: RunStatus, at: float) -> None:
        """End the run otherwise than its script says, at the loop's time `at`, unless it has ended by then."""
        kept = self.due(at)
        if self.snapshot(kept).status.terminal:
            return

        del self.steps[kept:], self.cursors[kept:]
        self.steps.append(At(at - self.started_at, status=status))
        self.cursors.append(self.cursors[-1] + 1 if self.cursors else 0)
        self.changed.set()
        self.changed = asyncio.Event()

    def snapshot(self, count: int, *, partial: bool = True) -> Snapshot:
        """What a poll shows after so many steps. Without `partial`, a run that goes on shows no output."""
        state = _play(self.steps[:count])
        items = state.items if partial or not state.status.live else []
        usage = _usage(self.request, self.steps[:count]) if state.status.terminal else None
        raw = _body(self.id, state, items, usage)
        return Snapshot(
            ref=self.ref,
            status=state.status,
            raw_status=raw["status"],
            text="".join(item_text(item) for item in items if is_message(item)),
            items=items,
            error=state.error,
            usage=usage,
            poll_after=state.poll_after,
            raw=raw,
            requests=read_requests(items) if state.status is RunStatus.INPUT_REQUIRED else (),
        )

    def event(self, place: int, shift: int = 0) -> StreamEvent:
        """The event of the step at this place; `shift` is added to its number."""
        step, cursor = self.steps[place], self.cursors[place] + shift
        kind = step.means
        snapshot = self.snapshot(place + 1) if kind in (EventKind.STATUS, EventKind.END) else None
        index = self._indexes[place] if kind in (EventKind.ITEM, EventKind.TEXT) else None
        raw = {**(step.raw or _wire(step, index, snapshot, first=place == 0)), "sequence_number": cursor}
        return StreamEvent(kind, raw, step.text if kind is EventKind.TEXT else "", cursor, index, snapshot, step.error)


class _State:
    """A run after some of its steps."""

    def __init__(self) -> None:
        self.status = RunStatus.QUEUED
        self.word = "queued"
        self.index = 0
        """The place of the item that is being written."""
        self.error: RunErrorInfo | None = None
        self.poll_after: float | None = None
        self._items: list[JSON] = []
        self._texts: list[list[str]] = []  # the pieces of each item's text

    @property
    def items(self) -> list[JSON]:
        """The output so far."""
        return [self._item(item, "".join(pieces)) for item, pieces in zip(self._items, self._texts, strict=True)]

    def take(self, step: At) -> None:
        """Let a step happen."""
        self.poll_after = step.poll_after if step.poll_after is not None else self.poll_after
        if step.item is not None:
            self._begin(step.item, step.index)

        if step.status is not None:
            self.status, self.word = step.run_status or RunStatus.RUNNING, _word(step.status)
            self.error = step.error

        if step.text:
            self._write(step.text, whole=step.status is not None)

    def _begin(self, item: JSON, index: int | None) -> None:
        self.index = len(self._items) if index is None else index
        self._items[self.index :] = [item]
        self._texts[self.index :] = [[item_text(item)]]

    def _write(self, text: str, *, whole: bool) -> None:
        if not self._items or not is_message(self._items[-1]):
            self._begin(message(f"msg_{len(self._items) + 1}"), None)

        if whole:
            self._texts = [[] for _ in self._texts]

        self._texts[-1].append(text)

    def _item(self, item: JSON, text: str) -> JSON:
        if not is_message(item):
            return item

        live, whole = self.status.live, self.status is RunStatus.COMPLETED
        status = "in_progress" if live else "completed" if whole else "incomplete"
        return {**item, "status": status, "content": message(text=text)["content"]}


def _play(steps: Iterable[At]) -> _State:
    state = _State()
    for step in steps:
        state.take(step)

    return state


def _indexes(steps: Iterable[At]) -> Iterator[int]:
    """For each step, the place of the item that is being written."""
    state = _State()
    for step in steps:
        state.take(step)
        yield state.index


def _word(status: RunStatus | str | None) -> str:
    """The Responses API's word for a status."""
    return "in_progress" if status == RunStatus.RUNNING else str(status)


def _usage(request: StartRequest, steps: Sequence[At]) -> Usage:
    """One token for each item of the input, and for each piece of text."""
    asked, said = len(request.input), sum(step.means is EventKind.TEXT for step in steps)
    raw = {"input_tokens": asked, "output_tokens": said, "total_tokens": asked + said}
    return Usage(asked, said, asked + said, raw)


def _body(id: str, state: _State, items: Sequence[JSON], usage: Usage | None) -> dict[str, Any]:
    """A response as the Responses API shows it."""
    error = {"code": state.error.code, "message": state.error.message} if state.error else None
    cut = state.status is RunStatus.INCOMPLETE and state.error is not None
    return {
        "id": id,
        "object": "response",
        "status": state.word,
        "background": True,
        "model": "scripted",
        "output": list(items),
        "error": None if cut else error,
        "incomplete_details": {"reason": state.error.code} if cut and state.error else None,
        "usage": usage.raw if usage else None,
    }


def _wire(step: At, index: int | None, snapshot: Snapshot | None, *, first: bool) -> dict[str, Any]:
    """The event in the words of the Responses API."""
    place = {"output_index": index}
    match step.means:
        case EventKind.STATUS | EventKind.END:
            word = "created" if first else _word(step.status)
            return {"type": f"response.{word}", "response": snapshot.raw if snapshot else None}
        case EventKind.ITEM:
            return {"type": "response.output_item.added", **place, "item": step.item}
        case EventKind.TEXT:
            return {"type": "response.output_text.delta", **place, "content_index": 0, "delta": step.text}
        case EventKind.ERROR:
            error = step.error or RunErrorInfo("server_error", "")
            return {"type": "error", "code": error.code, "message": error.message, "param": None}
        case _:
            return {"type": "keepalive" if step.means is EventKind.KEEPALIVE else "response.progress"}


def without_cursor(event: StreamEvent) -> StreamEvent:
    """The event of a service that gives no numbers."""
    return replace(
        event, cursor=None, source={key: value for key, value in event.raw.items() if key != "sequence_number"}
    )
