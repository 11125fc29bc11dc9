"""One run of `Local`: its log of events, what a poll shows of it, and what its function holds of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ..core.model import JSON, LOST, Cursor, EventKind, RunErrorInfo, RunRef, Snapshot, StartRequest, StreamEvent, Usage
from ..core.response import item_text
from ..core.status import RunStatus
from ..errors import UsageError

KEEPALIVE = 15.0
"""Seconds between signs of life in a silent stream: well below the 75 s after which a client takes it for dead."""

_WORDS = {RunStatus.RUNNING: "in_progress"}
"""Where the Responses API has another word than we."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended, and what came of it."""

    status: RunStatus
    answer: Sequence[str] | None = None
    """The text of each message; None for one message with what was written."""
    error: RunErrorInfo | None = None
    usage: Usage | None = None
    detail: JSON = field(default_factory=dict[str, Any])
    """More for the run's `raw`."""


class Work:
    """A run as its provider knows it. Events are numbered one by one from `first`."""

    def __init__(self, ref: RunRef, request: StartRequest, first: int) -> None:
        self.ref, self.request = ref, request
        self.status = RunStatus.QUEUED
        self.error: RunErrorInfo | None = None
        self.ending: Ending | None = None
        self.task: asyncio.Task[Ending] | None = None
        """The function, until it has ended."""
        self.cancel_asked = False
        self.ended_at: float | None = None
        """When it ended, by the loop's clock, in seconds."""
        self._first = first
        self._log: list[StreamEvent] = []
        self._pieces: list[str] = []
        self._changed = asyncio.Event()
        self._show(EventKind.STATUS)

    @property
    def lost(self) -> bool:
        """True when the function was stopped, and not by a cancel: what would have become of it nobody knows."""
        return self.error is not None and self.error.code == LOST

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._pieces)

    # --- what happens ---

    def begin(self) -> None:
        """The function is called now."""
        self.status = RunStatus.RUNNING
        self._show(EventKind.STATUS)

    def write(self, text: str) -> None:
        """More of the answer."""
        if not self._pieces:
            item = _message(f"msg_{self.ref.id}", "", self.status)
            self._add(EventKind.ITEM, {"type": "response.output_item.added", "item": item}, index=0)

        self._pieces.append(text)
        self._add(EventKind.TEXT, {"type": "response.output_text.delta", "delta": text}, text, index=0)

    def progress(self, detail: JSON) -> None:
        """Something else to tell."""
        self._add(EventKind.PROGRESS, {"type": "progress", **detail})

    def end(self, now: float, ending: Ending) -> None:
        """Nothing follows. A lost run has no end: its streams break, and whoever asks is told."""
        if ending.answer is not None:
            self._pieces = [text for text in ending.answer if text]

        self.status, self.error, self.ending, self.ended_at = ending.status, ending.error, ending, now
        if self.lost:
            self._ring()
        else:
            self._show(EventKind.END)

    def lose(self, why: str) -> None:
        """The event loop has gone with all that waited in it: there is nobody to be told."""
        self.status, self.error, self.task = RunStatus.FAILED, RunErrorInfo(LOST, why), None

    # --- what is seen of it ---

    def snapshot(self) -> Snapshot:
        """The run as it is now."""
        items = self._messages()
        word = _WORDS.get(self.status, self.status.value)
        error = {"code": self.error.code, "message": self.error.message} if self.error else None
        raw: JSON = {"id": self.ref.id, "object": "response", "status": word, "output": items, "error": error}
        usage = self.ending.usage if self.ending else None
        raw = {**raw, **self.ending.detail} if self.ending else raw
        return Snapshot(self.ref, self.status, word, self.text, items, self.error, usage, raw=raw)

    async def wait(self, timeout: float | None = None) -> None:
        """Until the end; for at most so many seconds."""
        try:
            async with asyncio.timeout(timeout):
                while self.ended_at is None:
                    await self._changed.wait()
        except TimeoutError:
            return

    async def stream(self, after: Cursor | None = None) -> AsyncGenerator[Sequence[StreamEvent], None]:
        """The events after this cursor, those of one moment together, up to the end."""
        place = self._place_after(after)
        while True:
            changed, batch = self._changed, self._log[place:]
            if batch:
                place += len(batch)
                yield batch
            elif self.ended_at is not None:
                return
            elif not await _rings(changed):
                yield [StreamEvent(EventKind.KEEPALIVE, {"type": "keepalive"})]

    def _messages(self) -> Sequence[JSON]:
        """The output items. While the run goes on, all that is written is one message."""
        apart = self.ending is not None and self.ending.answer is not None
        texts = self._pieces if apart else [self.text] if self._pieces else []
        first = f"msg_{self.ref.id}"
        return [_message(f"{first}_{n}" if n else first, text, self.status) for n, text in enumerate(texts)]

    def _place_after(self, after: Cursor | None) -> int:
        """A cursor that this log never gave is an earlier start's: all of this one comes after it."""
        place = after + 1 - self._first if isinstance(after, int) else 0
        return place if 0 <= place <= len(self._log) else 0

    def _show(self, kind: EventKind) -> None:
        snapshot = self.snapshot()
        self._add(kind, {"type": f"response.{snapshot.raw_status}", "response": snapshot.raw}, snapshot=snapshot)

    def _add(
        self,
        kind: EventKind,
        raw: JSON,
        text: str = "",
        *,
        index: int | None = None,
        snapshot: Snapshot | None = None,
    ) -> None:
        cursor = self._first + len(self._log)
        place = {} if index is None else {"output_index": index}
        raw = {**raw, **place, "sequence_number": cursor}
        self._log.append(StreamEvent(kind, raw, text, cursor, index, snapshot))
        self._ring()

    def _ring(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class LocalRun:
    """What a function given to `Local` holds of its run: what is asked, and a way to tell how it goes."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __repr__(self) -> str:
        return f"LocalRun({self.id!r})"

    @property
    def id(self) -> str:
        """The run's id; in a runtime, the handle's. The same when an idempotent run is started again."""
        return self._work.ref.id

    @property
    def request(self) -> StartRequest:
        """All that is asked: instructions, tools, the schema of the output type, extra parameters."""
        return self._work.request

    @property
    def items(self) -> Sequence[JSON]:
        """The input, with the thread's messages before it, in the shape of the Responses API."""
        return self._work.request.input

    @property
    def text(self) -> str:
        """The text of the input's last message: what is asked now."""
        return item_text(self.items[-1]) if self.items else ""

    def write(self, text: str) -> None:
        """Stream more of the answer. Raises UsageError for anything but a text, and after the run's end."""
        self._require_open()
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]  not all callers are typed
            raise UsageError(f"A local run streams text: pieces of str, not of {type(text).__name__}.")

        if text:
            self._work.write(text)

    def progress(self, **detail: Any) -> None:
        """Stream a PROGRESS update with `detail` in its `raw`. Raises UsageError for what is no JSON."""
        self._require_open()
        try:
            plain = json.loads(json.dumps(detail, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"Progress is kept as JSON, and this cannot be written so: {error}.") from error

        self._work.progress(cast("JSON", plain))

    def _require_open(self) -> None:
        if self._work.ended_at is not None:
            raise UsageError(f"Run {self.id} has ended; nothing can be added to its stream.")


async def _rings(changed: asyncio.Event) -> bool:
    """Wait for news; False when there is none for so long that a sign of life is due."""
    try:
        async with asyncio.timeout(KEEPALIVE):
            await changed.wait()
    except TimeoutError:
        return False

    return True


def _message(id: str, text: str, status: RunStatus) -> JSON:
    live, whole = status.live, status is RunStatus.COMPLETED
    return {
        "type": "message",
        "id": id,
        "role": "assistant",
        "status": "in_progress" if live else "completed" if whole else "incomplete",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }
