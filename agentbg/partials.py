"""The data so far of an answer that is still being written: for who asks for it, at the consumer's end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from io import StringIO
from typing import Any

from .core.position import Position
from .core.response import AgentRunResponse
from .core.status import RunStatus
from .core.update import AgentRunResponseUpdate, UpdateType
from .errors import UsageError
from .stream import Source

ReadPartial = Callable[[str, bool], Any]
"""A text, and whether it is whole, as plain data; None for a text of which nothing can be read."""


class Partials:
    """The updates of a run for one consumer, each of which can say what of the value has come by then.

    `source` gives the updates from the first that can be had on; those with a seq up to `after` are read for their text
    alone. The text is kept here, once, and read only when an update is asked.
    """

    def __init__(self, read: ReadPartial | None, source: Callable[[], Source], after: int = 0) -> None:
        if read is None:
            raise UsageError(
                "partial=True reads the answer as its agent's output type, and here is none: pass Agent(…, "
                "output_type=…), or, to a runtime that does not know the run's agent, AgentRuntime(agents=[…])."
            )

        self._read, self._source, self._after = read, source(), after
        self._text: StringIO | None = None
        self._missed = 0
        """Characters that were delivered before this consumer's first update."""

    async def __anext__(self) -> Sequence[AgentRunResponseUpdate]:
        while True:
            told = [self._tell(update) for update in await self._source.__anext__()]
            if wanted := [update for update in told if update.seq > self._after]:
                return wanted

    async def aclose(self) -> None:
        """Read no more."""
        await self._source.aclose()

    def _tell(self, update: AgentRunResponseUpdate) -> AgentRunResponseUpdate:
        if self._text is None or update.type is UpdateType.RESET:
            self._text, self._missed = StringIO(), update.position.chars - len(update.text)

        self._text.write(update.text)
        text = partial(_text, self._text, self._missed, update.position)
        return replace(update, read_partial=partial(self._partial, update.response, text))

    def _partial(self, response: AgentRunResponse[Any] | None, text: Callable[[], str | None]) -> Any:
        if response is not None:
            return self._read(response.text[response.said :], response.status is RunStatus.COMPLETED)

        so_far = text()
        return None if so_far is None else self._read(so_far, False)


def _text(kept: StringIO, missed: int, at: Position) -> str | None:
    """What the last round of tools had said at this place: text before it is no part of the value."""
    return None if at.before < missed else kept.getvalue()[at.before - missed : at.chars - missed]
