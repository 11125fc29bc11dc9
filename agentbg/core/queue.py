"""Which run is due next."""

from __future__ import annotations

import heapq

_Entry = tuple[float, int, str]
"""When; a ticket, so that equal times keep their order; the run's id."""


class PollQueue:
    """Runs by the time at which they want to be woken: one time per run, set again at will.

    A heap with lazy deletion: a time that was replaced stays in the heap until it comes up or until such leftovers
    are the larger part. Setting and popping cost O(log n).
    """

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        # Invariant: what is here is in the heap, too; an entry of the heap that is not here is stale.
        self._wanted: dict[str, _Entry] = {}
        self._ticket = 0

    def __len__(self) -> int:
        return len(self._wanted)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._wanted

    def set(self, run_id: str, at: float) -> None:
        """Wake this run at `at`, in the place of any time set before. Equal times come up in the order set."""
        self._ticket += 1
        self._wanted[run_id] = entry = (at, self._ticket, run_id)
        heapq.heappush(self._heap, entry)
        self._prune()

    def discard(self, run_id: str) -> None:
        """Do not wake this run."""
        self._wanted.pop(run_id, None)
        self._prune()

    def next_at(self) -> float | None:
        """When the next run is due; None for an empty queue."""
        self._drop_stale_top()
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> str | None:
        """Take out the run that has been due the longest; None when none is due."""
        self._drop_stale_top()
        if not self._heap or self._heap[0][0] > now:
            return None

        run_id = heapq.heappop(self._heap)[2]
        del self._wanted[run_id]
        return run_id

    def _drop_stale_top(self) -> None:
        while self._heap and self._is_stale(self._heap[0]):
            heapq.heappop(self._heap)

    def _is_stale(self, entry: _Entry) -> bool:
        return self._wanted.get(entry[2]) is not entry

    def _prune(self) -> None:
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._wanted):
            self._heap = [entry for entry in self._heap if not self._is_stale(entry)]
            heapq.heapify(self._heap)
