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

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .model import JSON, Cursor, EventKind, Snapshot, Source, StreamEvent
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
_DELTA, _TEXT = EventKind.TEXT, UpdateType.TEXT  # an enum's own attributes are slow


class Assembly:
    """The delivered part of one run's answer. `said` is the text of its earlier rounds, as far as it is known."""

    __slots__ = (
        "_began_at", "_from_start", "_furthest", "_inherited", "_parts", "_recalled", "_resent", "_said", "dropped",
        "fresh", "issuer", "position",
    )  # fmt: skip

    def __init__(self, position: Position = Position(), said: str = "") -> None:
        self.position = position
        self._said = said
        self.issuer: TokenIssuer | None = None
        self.dropped = 0
        """Events received again and dropped."""
        # Text delivered by this object, each piece with its output item.
        self._parts: list[tuple[int, str]] | None = None  # most runs of a fleet have said nothing yet
        # True while text of before this object (a resumed run's) stands, of which there is only the digest, and what a
        # journal recalls: which of it is of which output item nobody knows.
        self._inherited = position.chars > position.before
        self._recalled: str | None = None
        self.fresh = False
        """True once the open connection has brought more of the answer. Content sent again is no more, even under later
        numbers: then only more text than ever is. Nor is content without a number where others have one: what comes
        after a cursor, and moves none, comes to every connection."""
        self._began_at = position.cursor  # where the open connection began
        self._resent = False  # the open connection sends again what was delivered
        self._from_start = False  # ... or will, as soon as it brings content
        self._furthest = position.chars  # the most text ever delivered

    @property
    def text(self) -> str:
        """What was delivered of this round since the last RESET; of a resumed run whose text is not known, what came
        since."""
        return "".join([self._recalled or "", *(text for _, text in self._parts or ())])

    @property
    def moved(self) -> bool:
        """True once the open connection has brought anything that no other did, be it a sign of life."""
        return self.fresh or self.position.cursor != self._began_at

    def merged(self, text: str) -> str:
        """`text` if it goes on where the delivered text ends; otherwise the delivered text, as far as it is known."""
        unknown = self._inherited and self._recalled is None
        return text if unknown or tail(text, self.position) is not None else self.text

    def recall(self, text: str | None) -> None:
        """This is the text, of all rounds, that was delivered up to here; None where nobody knows."""
        self._recalled = None if text is None else text[self.position.before :]

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
        self._furthest = max(self._furthest, at.chars)
        self.fresh = self._resent = False
        self._began_at = at.cursor
        self._from_start = at.cursor is None and (at.chars > at.before or at.items > 0)
        return at.cursor

    def go_on(self, events: Sequence[StreamEvent]) -> list[AgentRunResponseUpdate]:
        """The updates of the deltas that these events begin with, as long as each goes on where the one before ended:
        nearly all of most streams. The events that follow are for `add`, one by one."""
        updates: list[AgentRunResponseUpdate] = []
        at, issuer, parts = self.position, self.issuer, self._parts or []
        for event in events if self.fresh else ():
            cursor, seen, text = event.cursor, at.cursor, event.text
            counted = isinstance(cursor, int) and isinstance(seen, int) and cursor > seen
            if not counted or event.kind is not _DELTA:
                break

            parts.append((event.index or 0, text))
            chars, crc = at.chars + len(text), digest(text, at.digest)
            at = Position(at.seq + 1, cursor, chars, crc, at.items, at.before, at.before_digest)
            updates.append(AgentRunResponseUpdate(_TEXT, at.seq, text, event.source, None, at, issuer))

        self.position, self._parts = at, parts
        return updates

    def add(self, event: StreamEvent) -> list[AgentRunResponseUpdate]:
        """The updates that an event makes that ends nothing: one, two around a restart, none for what says nothing."""
        if self.is_repeat(event):
            self.dropped += 1
            return []

        if event.kind is EventKind.KEEPALIVE:
            self.position = replace(self.position, cursor=_later(self.position.cursor, event.cursor))
            return []

        content = event.kind in _CONTENT
        updates = self._void(0) if self._from_start and content else []
        if event.kind is EventKind.ITEM and event.index is not None:
            updates += self._begin(event.index)

        seen = self.position.cursor
        updates.append(self._update(_TYPES[event.kind], event.text, event=event))
        if content and not self.fresh:
            counted = self.position.cursor != seen
            more = (counted and not self._resent) or self.position.chars > self._furthest
            self.fresh = more and (counted or self._began_at is None)

        return updates

    def follow(self, snapshot: Snapshot) -> list[AgentRunResponseUpdate]:
        """The updates that bring a consumer up to a snapshot of a run that goes on. A stale snapshot brings nothing."""
        missing = tail(snapshot.text, self.position) if snapshot.text else None
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
        updates, missing = self._complete(snapshot, final=final)
        end = self._update(UpdateType.END, missing, event=event)
        end.response = response
        return [*updates, end]

    def close_round(self, snapshot: Snapshot, event: StreamEvent | None = None) -> list[AgentRunResponseUpdate]:
        """The last updates of a round that ends in requests."""
        updates, missing = self._complete(snapshot)
        if missing or event:
            last = self._update(UpdateType.TEXT if missing else UpdateType.STATUS, missing, event=event)
            updates = _for_polls([*updates, last])

        return updates

    def answer(self, item: JSON) -> AgentRunResponseUpdate:
        """The update that shows the answer to a call."""
        return self._update(UpdateType.ITEM, source={"type": "item", "item": item})

    def wait(self, response: AgentRunResponse[Any]) -> AgentRunResponseUpdate:
        """The update that says that the run waits for its user."""
        update = self._update(UpdateType.WAITING)
        update.response = response
        return update

    def begin_round(self, said: str) -> None:
        """The next round begins: what was delivered so far stands, and cursor and items are the next one's."""
        at = self.position
        self.position = Position(at.seq, None, at.chars, at.digest, 0, at.chars, at.digest)
        self._said, self._parts, self._inherited, self._recalled = said, None, False, None

    def go_back(self, at: Position, said: str) -> None:
        """There is no next round: the one before, which ended at `at`, goes on."""
        self.position = replace(at, seq=self.position.seq)
        self._said, self._inherited, self._recalled = said, at.chars > at.before, None

    def retell(self, seq: int, text: str | None) -> AgentRunResponseUpdate:
        """The update that makes good for those, up to `seq`, that nobody knows any more: `text` is the run's so far.

        Without it, the present round begins anew.
        """
        at = self.position
        if text is None:
            self.position = Position(seq, None, at.before, at.before_digest, 0, at.before, at.before_digest)
            return self._reset("")

        self.position = replace(at, seq=seq)
        return self._reset(text[at.before :])

    def status(self) -> AgentRunResponseUpdate:
        """An update that says no more than that the run's status has changed."""
        return self._update(UpdateType.STATUS)

    def _complete(self, snapshot: Snapshot, *, final: bool = True) -> tuple[list[AgentRunResponseUpdate], str]:
        """The updates for what never came, and the text that is still missing."""
        missing = tail(snapshot.text, self.position)
        updates = [
            self._unseen_item(index, item) for index, item in enumerate(snapshot.items) if not self._has_begun(index)
        ]
        if missing is None and final:
            updates.append(self._reset(snapshot.text))

        return _for_polls(updates), missing or ""

    def _unseen_item(self, index: int, item: JSON) -> AgentRunResponseUpdate:
        self._mark(self.position.items | 1 << index)
        return self._update(UpdateType.ITEM, source={"type": "item", "output_index": index, "item": item})

    def _begin(self, index: int) -> list[AgentRunResponseUpdate]:
        """Note that an output item begins. Its second beginning voids it, and all that was delivered after it."""
        resets = self._void(index) if self._has_begun(index) else []
        self._mark(self.position.items | 1 << index)
        return resets

    def _void(self, index: int) -> list[AgentRunResponseUpdate]:
        self._resent, self._from_start = True, False
        self._mark(self.position.items & ((1 << index) - 1))
        parts = self._parts or []
        kept = [] if self._inherited else [part for part in parts if part[0] < index]
        if len(kept) == len(parts) and not self._inherited:
            return []

        reset = self._reset("".join(text for _, text in kept))
        self._parts = kept
        return [reset]

    def _mark(self, items: int) -> None:
        self.position = replace(self.position, items=items)

    def _has_begun(self, index: int) -> bool:
        return bool(self.position.items >> index & 1)

    def _reset(self, text: str) -> AgentRunResponseUpdate:
        """All that was delivered is void. `text` is what this round begins with instead; earlier rounds stand."""
        at, said = self.position, self._said
        self._furthest = max(self._furthest, at.chars)
        self.position = Position(at.seq, at.cursor, 0, 0, at.items, len(said), digest(said))
        self._parts = []
        self._inherited, self._recalled = False, None
        update = self._update(UpdateType.RESET, said + text)
        self._parts = [(0, text)] if text else []
        return update

    def _update(
        self, type: UpdateType, text: str = "", *, event: StreamEvent | None = None, source: Source | None = None
    ) -> AgentRunResponseUpdate:
        at = self.position
        cursor, index = at.cursor, 0
        if event is not None:
            cursor, index, source = _later(cursor, event.cursor), event.index or 0, event.source

        chars, crc = at.chars, at.digest
        if text:
            self._parts = self._parts or []
            self._parts.append((index, text))
            chars, crc = chars + len(text), digest(text, crc)

        self.position = at = Position(at.seq + 1, cursor, chars, crc, at.items, at.before, at.before_digest)
        return AgentRunResponseUpdate(type, at.seq, text, source, None, at, self.issuer)


def _for_polls(updates: list[AgentRunResponseUpdate]) -> list[AgentRunResponseUpdate]:
    """Who goes on from one of these needs what a poll shows, and nothing of the stream."""
    for update in updates:
        update.issuer = replace(update.issuer, streamed=False) if update.issuer else None

    return updates


def _later(seen: Cursor | None, given: Cursor | None) -> Cursor | None:
    if given is None:
        return seen

    if isinstance(given, int) and isinstance(seen, int) and given < seen:
        return seen

    return given
