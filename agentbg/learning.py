"""What a runtime has learned of its runs: a hazard for each agent and model, kept in the store as a small note."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from .agent import Agent
from .core.hazard import Hazard
from .core.record import RunRecord
from .errors import StoreError
from .stores.base import Store

logger = logging.getLogger("agentbg")

PREFIX = "hazard "
INTERVAL = 30.0
"""Seconds between two writes, at least. A process that dies loses what it has learned since; that is no great loss."""


class _Lesson(Hazard):
    """A hazard that says so when it has learned of an end."""

    __slots__ = ("learned",)
    learned: Callable[[], object]

    def ended(self, since: float, until: float) -> None:
        super().ended(since, until)
        self.learned()


class Learning:
    """The hazards of one runtime. The machines of its runs tell them; this keeps them.

    A store without `note` and `notes` keeps nothing: then each process learns anew.
    """

    def __init__(self, store: Store) -> None:
        self._note: Callable[[str, bytes], Awaitable[None]] | None = getattr(store, "note", None)
        self._notes: Callable[[str], Awaitable[Mapping[str, bytes]]] | None = getattr(store, "notes", None)
        self._lessons: dict[str, _Lesson] = {}
        self._unsaved: dict[str, _Lesson] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._saving: asyncio.Task[None] | None = None

    def of(self, agent: Agent[Any], record: RunRecord) -> Hazard:
        """The hazard of runs of this agent on the model that the run's request names, or else its provider has."""
        named = record.request.extra.get("model") if record.request is not None else None
        model = str(named or getattr(agent.provider, "model", ""))
        key = f"{PREFIX}{agent.name!r} {model!r}"
        return self._lessons.get(key) or self._add(key, _Lesson())

    async def load(self) -> None:
        """Take over what was learned before, from a store that is open. What cannot be read is learned anew."""
        if self._notes is None:
            return

        try:
            kept = await self._notes(PREFIX)
        except StoreError as error:
            logger.warning("what was learned of runs' lengths cannot be read, and is learned anew: %s", error)
            return

        for key, value in kept.items():
            try:
                self._add(key, _Lesson.from_json(value))
            except ValueError as error:
                logger.warning("the note %r is damaged, or of another version; it is learned anew: %s", key, error)

    async def aclose(self) -> None:
        """Write what is not written yet. Cancelling this loses it."""
        try:
            if self._saving is not None:
                await self._saving

            await self._save()
        finally:
            self._note = None
            if self._timer is not None:
                self._timer.cancel()

    def _add(self, key: str, lesson: _Lesson) -> _Lesson:
        self._lessons[key] = lesson
        lesson.learned = lambda: self._learned(key, lesson)
        return lesson

    def _learned(self, key: str, lesson: _Lesson) -> None:
        self._unsaved[key] = lesson
        self._plan()

    def _plan(self) -> None:
        if self._timer is None and self._note is not None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._begin_to_save)

    def _begin_to_save(self) -> None:
        self._saving = asyncio.ensure_future(self._save())
        self._saving.add_done_callback(self._saved)

    def _saved(self, _: asyncio.Task[None]) -> None:
        self._timer = None
        if self._unsaved:  # learned meanwhile
            self._plan()

    async def _save(self) -> None:
        if self._note is None:
            return

        unsaved, self._unsaved = self._unsaved, {}
        for key, lesson in unsaved.items():
            try:
                await self._note(key, lesson.to_json())
            except StoreError as error:
                logger.warning("the note %r was not written: %s", key, error)
