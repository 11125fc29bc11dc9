"""Whose turn it is, where many wait and few may go."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Kind(IntEnum):
    """What a request is for, in the order in which the kinds take turns."""

    CANCEL = 0
    RESPOND = 1
    START = 2
    ATTACH = 3
    POLL = 4


class Line(Generic[T]):
    """A line that is fair by weight: whoever joins it names an interval, and the shorter that is, the sooner comes his
    turn.

    A place in the line is a point of virtual time: the place of whoever went last, plus the interval. Where runs come
    again and again, and are too many, each waits then for about the same multiple of its interval. Nobody starves: one
    with an interval of d lets at most d/e + 1 others go first who come again and again with an interval of e, however
    many turns there are. Equal intervals, such as 0, go in the order of their coming.

    A heap with lazy deletion: joining, leaving and going cost O(log n).
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._waiting: dict[T, None] = {}  # invariant: they are in the heap; what is only in the heap has left
        self._virtual = 0.0
        self._joined = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, who: T, interval: float) -> None:
        """Wait for a turn. Nobody waits twice."""
        self._joined += 1
        self._waiting[who] = None
        heapq.heappush(self._heap, (self._virtual + interval, self._joined, who))

    def leave(self, who: T) -> bool:
        """Wait no more; the others' places stay what they are. False for one who did not wait."""
        if who not in self._waiting:
            return False

        del self._waiting[who]
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._waiting):
            self._heap = [place for place in self._heap if place[2] in self._waiting]
            heapq.heapify(self._heap)

        return True

    def pop(self) -> T:
        """Take out who is next. Raises IndexError when nobody waits."""
        while True:
            place, _, who = heapq.heappop(self._heap)
            if who in self._waiting:
                break

        del self._waiting[who]
        self._virtual = place if self._waiting else 0.0
        return who

    def those(self, wanted: Callable[[T], bool]) -> list[T]:
        """Who waits and is `wanted`, in the order of their coming."""
        return [who for who in self._waiting if wanted(who)]


class Turns(Generic[T]):
    """A line for each kind of request. The kinds that wait take turns: of k kinds each gets one turn in k, so that ten
    thousand cancels leave half of the turns to the polls, and a single start lets at most four requests go first."""

    def __init__(self) -> None:
        self._lines: Sequence[Line[T]] = [Line() for _ in Kind]
        self._next = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def join(self, kind: Kind, who: T, interval: float = 0.0) -> None:
        """Wait in a kind's line."""
        self._lines[kind].join(who, interval)
        self._count += 1

    def leave(self, kind: Kind, who: T) -> bool:
        """Wait no more; False for one who did not wait."""
        left = self._lines[kind].leave(who)
        self._count -= left
        return left

    def pop(self) -> T:
        """Take out whose turn it is. Raises IndexError when nobody waits."""
        for step in range(len(self._lines)):
            place = (self._next + step) % len(self._lines)
            if self._lines[place]:
                self._next = place + 1
                self._count -= 1
                return self._lines[place].pop()

        raise IndexError("nobody waits")

    def those(self, wanted: Callable[[T], bool]) -> list[T]:
        """Who waits and is `wanted`: kind by kind, in the order of their coming."""
        return [who for line in self._lines for who in line.those(wanted)]
