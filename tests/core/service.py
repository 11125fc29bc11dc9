"""A model of a service, as bad as real ones: its log of events, its snapshots, its restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from agentbg.core.model import Cursor, EventKind, RunErrorInfo, RunRef, Snapshot, StartRequest, StreamEvent
from agentbg.core.record import RunRecord
from agentbg.core.requests import InputRequest, RequestKind
from agentbg.core.rounds import ToolRule
from agentbg.core.status import RunStatus

REF = RunRef("model", "here", {"id": "run_1"})
ENDINGS = [status for status in RunStatus if not status.live]
FILLERS = (EventKind.PROGRESS, EventKind.KEEPALIVE)


def record(*, stream: bool = True, ref: RunRef | None = None) -> RunRecord:
    request = StartRequest(input=[])
    return RunRecord("r1", "agent", "model", "here", stream, created_at=1000.0, request=request, ref=ref)


def event(
    kind: EventKind, cursor: Cursor | None = None, text: str = "", *, index: int | None = None, status: str = ""
) -> StreamEvent:
    snap = snapshot(RunStatus(status)) if status else None
    return StreamEvent(kind, {"type": kind.value}, text, cursor, index, snap)


def snapshot(
    status: RunStatus = RunStatus.RUNNING,
    text: str = "",
    *,
    items: int | None = None,
    ref: RunRef | None = REF,
    poll_after: float | None = None,
) -> Snapshot:
    count = items if items is not None else int(bool(text))
    messages = [{"type": "message", "role": "assistant", "n": n} for n in range(count)]
    return Snapshot(ref, status, status.value, text, messages, poll_after=poll_after)


@dataclass
class Story:
    """What a service will do, if nobody disturbs it."""

    items: Sequence[Sequence[str]]
    """Pieces of text of each output item; an item without text is a reasoning step."""
    numbered: bool
    steps: Sequence[int]
    """Steps between the events' numbers, over and over; above 1 they leave gaps."""
    fillers: Sequence[EventKind | None]
    """What comes between the pieces of text, over and over."""
    ending: RunStatus
    hides: bool
    """A run that was cut short shows no output in the end."""
    partial: bool
    """Polls show the text so far."""
    rewrites: bool
    """The final text is not the one that was streamed."""
    calls: Sequence[str]
    """The tools that a run asks for which ends in requests; none is a question to the user."""


pieces = st.text(alphabet="ab é😀\n", min_size=1, max_size=4)
items = st.lists(st.lists(pieces, min_size=1, max_size=4), min_size=1, max_size=3) | st.lists(st.just([]), max_size=2)
stories = st.builds(
    Story,
    items=items,
    numbered=st.sampled_from([True, True, True, False]),
    steps=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    fillers=st.lists(st.sampled_from([None, None, *FILLERS]), min_size=1, max_size=4),
    ending=st.sampled_from([RunStatus.COMPLETED] * len(ENDINGS) + ENDINGS),
    hides=st.booleans(),
    partial=st.booleans(),
    rewrites=st.sampled_from([False, False, False, True]),
    calls=st.lists(st.sampled_from(["look", "look", "again", "again", "pay", "nobody's", "remote"]), max_size=3),
)
TOOLS = {"look": ToolRule(), "again": ToolRule(idempotent=True), "pay": ToolRule(requires_approval=True)}


def request(name: str, call_id: str) -> InputRequest:
    if name == "remote":  # a tool of the service's own
        return InputRequest(call_id, RequestKind.APPROVAL, name, "{}", {"type": "mcp_approval_request", "id": call_id})

    return InputRequest(call_id, RequestKind.CALL, name, "{}", {"type": "function_call", "call_id": call_id})


@dataclass
class Service:
    """One run at the service: one round of ours."""

    story: Story
    ref: RunRef = REF
    log: list[StreamEvent] = field(default_factory=list)
    head: int = 0
    """How many events of the log there are by now."""

    def __post_init__(self) -> None:
        self.ending = self.story.ending
        self._number = -1
        for status in (RunStatus.QUEUED, RunStatus.RUNNING):
            self._append(EventKind.STATUS, snapshot=Snapshot(self.ref, status, status.value))

        self._append_items(0, self.story.items)
        self._append_end()

    # --- what it shows ---

    @property
    def final(self) -> Snapshot:
        last = self.log[-1].snapshot
        assert last is not None
        return last

    @property
    def ended(self) -> bool:
        return self.head == len(self.log)

    def shown(self, head: int) -> Snapshot:
        """The snapshot of the moment at which there were `head` events."""
        if head >= len(self.log):
            return self.final

        status = RunStatus.RUNNING if head > 1 else RunStatus.QUEUED
        begun, text = self._output(head)
        partial = self.story.partial
        return snapshot(status, text if partial else "", items=begun if partial else 0, ref=self.ref)

    def after(self, cursor: Cursor | None) -> int:
        """Where in the log a stream after this cursor begins."""
        assert cursor is None or isinstance(cursor, int)
        last = -1 if cursor is None else cursor
        seen = [at for at, event in enumerate(self.log) if isinstance(event.cursor, int) and event.cursor <= last]
        return seen[-1] + 1 if seen else 0

    # --- what happens to it ---

    def begins_again(self, index: int, items: Sequence[Sequence[str]]) -> None:
        """It restarts, and sends all from output item `index` on again, under new numbers."""
        begun = {event.index for event in self.log[: self.head] if event.kind is EventKind.ITEM}
        index = min(index, len(begun))
        del self.log[self.head :]
        self._number = max((event.cursor for event in self.log if isinstance(event.cursor, int)), default=-1)
        self._append_items(index, items)
        self._append_end()

    def is_cancelled(self) -> None:
        if self.ended:
            return

        del self.log[self.head :]
        self.ending = RunStatus.CANCELLED
        self._append_end()
        self.head = len(self.log)

    # --- small parts ---

    def _append(self, kind: EventKind, text: str = "", index: int | None = None, snapshot: Snapshot | None = None):
        filler = kind in FILLERS and len(self.log) % 2
        cursor = None
        if self.story.numbered and not filler:
            self._number += self.story.steps[len(self.log) % len(self.story.steps)]
            cursor = self._number

        raw = {"type": kind.value, "number": cursor}
        self.log.append(StreamEvent(kind, raw, text, cursor, index, snapshot))

    def _append_items(self, first: int, items: Sequence[Sequence[str]]) -> None:
        for index, texts in enumerate(items, first):
            self._append(EventKind.ITEM, index=index)
            for text in texts:
                filler = self.story.fillers[len(self.log) % len(self.story.fillers)]
                if filler is not None:
                    self._append(filler)

                self._append(EventKind.TEXT, text, index)

    def _append_end(self) -> None:
        begun, text = self._output(len(self.log))
        whole = self.ending in (RunStatus.COMPLETED, RunStatus.INPUT_REQUIRED)
        if self.story.hides and not whole:
            begun, text = 0, ""
        elif self.story.rewrites:
            text = "So: " + text

        error = None if whole else RunErrorInfo("oops", "it said")
        asks = self.ending is RunStatus.INPUT_REQUIRED
        requests = [request(name, f"call_{n}") for n, name in enumerate(self.story.calls)] if asks else []
        shown = snapshot(self.ending, text, items=begun, ref=self.ref)
        self._append(EventKind.END, snapshot=replace(shown, error=error, requests=requests))

    def _output(self, head: int) -> tuple[int, str]:
        """How many output items there are, and their text."""
        parts: dict[int, str] = {}
        for event in self.log[:head]:
            if event.kind is EventKind.ITEM:
                parts = {index: text for index, text in parts.items() if index < (event.index or 0)}
                parts[event.index or 0] = ""
            elif event.kind is EventKind.TEXT:
                parts[event.index or 0] += event.text

        return len(parts), "".join(parts[index] for index in sorted(parts))
