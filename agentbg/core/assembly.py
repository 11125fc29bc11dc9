"""Events and snapshots in, updates out: nothing twice, nothing missing, and the final text is the truth.

Five things can be wrong with a stream, and each has one answer here:

- an event at or below the cursor was seen before: it is dropped, and counted;
- a gap in the service's numbers means nothing: services skip numbers;
- an output item that begins a second time voids what was delivered of it: a RESET says what stands;
- a connection without a cursor to go on after begins at the beginning: its first content voids what was delivered;
- whatever happened, at the end the delivered text is compared with the final one: the missing tail is delivered, or,
  where the final text does not begin with what was delivered, a RESET with the final text.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .model import JSON, Cursor, EventKind, Snapshot, StreamEvent
from .position import Position, digest, tail
from .response import AgentRunResponse
from .update import AgentRunResponseUpdate, TokenIssuer, UpdateType

_TYPES = {
    EventKind.STATUS: UpdateType.STATUS,
    EventKind.ITEM: UpdateType.ITEM,
    EventKind.TEXT: UpdateType.TEXT,
    EventKind.PROGRESS: UpdateType.PROGRESS,
    EventKind.ERROR: UpdateType.ERROR,
    EventKind.END: UpdateType.STATUS,  # of a run that goes on; a real end goes through `finish`
}
_CONTENT = frozenset({EventKind.ITEM, EventKind.TEXT, EventKind.PROGRESS})
"""More of the answer. Anything else a service can say for ever, to every connection."""


class Assembly:
    """The delivered part of one run's answer."""

    def __init__(self, position: Position = Position()) -> None:
        self.position = position
        self.issuer: TokenIssuer | None = None
        self.dropped = 0
        """Events received again and dropped."""
        # Text delivered by this object, each piece with its output item.
        self._parts: list[tuple[int, str]] = []
        # True while text of before this object (a resumed run's) stands, of which there is only the digest.
        self._inherited = position.chars > 0
        self.fresh = False
        """True once the open connection has brought more of the answer. Content sent again is no more, even under later
        numbers: then only more text than ever is."""
        self._began_at = position.cursor  # where the open connection began
        self._resent = False  # the open connection sends again what was delivered
        self._from_start = False  # ... or will, as soon as it brings content
        self._furthest = position.chars  # the most text ever delivered

    @property
    def text(self) -> str:
        """What this object has delivered since the last RESET; of a resumed run, what came since."""
        return "".join(text for _, text in self._parts)

    @property
    def moved(self) -> bool:
        """True once the open connection has brought anything that no other did, be it a sign of life."""
        return self.fresh or self.position.cursor != self._began_at

    def merged(self, text: str) -> str:
        """`text` if it goes on where the delivered text ends; otherwise the delivered text, as far as it is known."""
        return text if self._inherited or tail(text, self.position) is not None else self.text

    def is_repeat(self, event: StreamEvent) -> bool:
        """True for an event that was seen before. Only ordered cursors can tell; an END is never a repeat."""
        seen = self.position.cursor
        return (
            isinstance(event.cursor, int)
            and isinstance(seen, int)
            and event.cursor <= seen
            and event.kind is not EventKind.END
        )

    def connect(self) -> Cursor | None:
        """A connection is to be opened: the cursor to go on after."""
        at = self.position
        self.fresh = self._resent = False
        self._began_at = at.cursor
        self._from_start = at.cursor is None and bool(at.chars or at.items)
        return at.cursor

    def add(self, event: StreamEvent) -> list[AgentRunResponseUpdate]:
        """The updates that an event makes that ends nothing: one, two around a restart, none for what says nothing."""
        if self.is_repeat(event):
            self.dropped += 1
            return []

        if event.kind is EventKind.KEEPALIVE:
            self.position = replace(self.position, cursor=_later(self.position.cursor, event.cursor))
            return []

        updates = self._void(0) if self._from_start and event.kind in _CONTENT else []
        if event.kind is EventKind.ITEM and event.index is not None:
            updates += self._begin(event.index)

        seen = self.position.cursor
        updates.append(self._update(_TYPES[event.kind], event.text, event=event))
        moved = event.kind in _CONTENT and self.position.cursor != seen and not self._resent
        self.fresh = self.fresh or moved or self.position.chars > self._furthest
        self._furthest = max(self._furthest, self.position.chars)
        return updates

    def follow(self, snapshot: Snapshot) -> list[AgentRunResponseUpdate]:
        """The updates that bring a consumer up to a snapshot of a run that goes on. A stale snapshot brings nothing."""
        missing = tail(snapshot.text, self.position)
        return [self._update(UpdateType.TEXT, missing)] if missing else []

    def finish(
        self,
        snapshot: Snapshot,
        response: AgentRunResponse[Any],
        event: StreamEvent | None = None,
        *,
        final: bool = True,
    ) -> list[AgentRunResponseUpdate]:
        """The last updates: output items that never came, a RESET where the text must be replaced, and the END.

        With `final=False` the snapshot is not the service's last word, and takes nothing back.
        """
        missing = tail(snapshot.text, self.position)
        updates = [
            self._unseen_item(index, item) for index, item in enumerate(snapshot.items) if not self._has_begun(index)
        ]
        if missing is None and final:
            updates.append(self._reset(snapshot.text))

        for update in updates:  # who goes on from here needs the run's end, which a poll shows, and none of its stream
            update.issuer = replace(update.issuer, streamed=False) if update.issuer else None

        end = self._update(UpdateType.END, missing or "", event=event)
        end.response = response
        return [*updates, end]

    def status(self) -> AgentRunResponseUpdate:
        """An update that says no more than that the run's status has changed."""
        return self._update(UpdateType.STATUS)

    def _unseen_item(self, index: int, item: JSON) -> AgentRunResponseUpdate:
        self._mark(self.position.items | 1 << index)
        return self._update(UpdateType.ITEM, raw={"type": "item", "output_index": index, "item": item})

    def _begin(self, index: int) -> list[AgentRunResponseUpdate]:
        """Note that an output item begins. Its second beginning voids it, and all that was delivered after it."""
        resets = self._void(index) if self._has_begun(index) else []
        self._mark(self.position.items | 1 << index)
        return resets

    def _void(self, index: int) -> list[AgentRunResponseUpdate]:
        self._resent, self._from_start = True, False
        self._mark(self.position.items & ((1 << index) - 1))
        kept = [] if self._inherited else [part for part in self._parts if part[0] < index]
        if len(kept) == len(self._parts) and not self._inherited:
            return []

        reset = self._reset("".join(text for _, text in kept))
        self._parts = kept
        return [reset]

    def _mark(self, items: int) -> None:
        self.position = replace(self.position, items=items)

    def _has_begun(self, index: int) -> bool:
        return bool(self.position.items >> index & 1)

    def _reset(self, text: str) -> AgentRunResponseUpdate:
        at = self.position
        self.position = Position(at.seq, at.cursor, 0, 0, at.items)
        self._parts = []
        self._inherited = False
        return self._update(UpdateType.RESET, text)

    def _update(
        self, type: UpdateType, text: str = "", *, event: StreamEvent | None = None, raw: JSON | None = None
    ) -> AgentRunResponseUpdate:
        at = self.position
        cursor = at.cursor if event is None else _later(at.cursor, event.cursor)
        if text:
            self._parts.append((event.index or 0 if event else 0, text))
            at = Position(at.seq + 1, cursor, at.chars + len(text), digest(text, at.digest), at.items)
        else:
            at = Position(at.seq + 1, cursor, at.chars, at.digest, at.items)

        self.position = at
        return AgentRunResponseUpdate(type, at.seq, text, event.raw if event else raw, None, at, self.issuer)


def _later(seen: Cursor | None, given: Cursor | None) -> Cursor | None:
    if given is None:
        return seen

    if isinstance(given, int) and isinstance(seen, int):
        return max(given, seen)

    return given
