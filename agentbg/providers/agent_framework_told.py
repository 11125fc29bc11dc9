"""What an agent_framework agent tells of its run: streamed as it comes, and whole at the end."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .agent_framework_words import ASSISTANT, plain, service_response
from .local_run import LocalRun

if TYPE_CHECKING:
    from agent_framework import AgentResponse, AgentResponseUpdate, Content, Message


@dataclass(slots=True)
class _Part:
    """One text, in pieces. It is `closed` when it was repeated whole: what is appended then begins another."""

    pieces: list[Content] = field(default_factory=list["Content"])
    closed: bool = False

    def clear(self) -> None:
        self.pieces = []

    def add(self, text: str, *, whole: bool) -> Content:
        """The piece that is new in this text."""
        from agent_framework import Content

        if self.closed and not whole:
            self.clear()

        self.closed = whole
        if whole:
            told = "".join(piece.text or "" for piece in self.pieces)
            if text.startswith(told):
                text = text[len(told) :]
            else:
                self._unsay()

        piece = Content.from_text(text)
        self.pieces.append(piece)
        return piece

    def _unsay(self) -> None:
        """What was written of this text was wrong; the run's end says so with a RESET."""
        for piece in self.pieces:
            piece.text = ""


class Told:
    """Takes updates, then polls where the stream broke, and writes each piece of the answer once.

    A chat client may end a text with an update that repeats it whole (`merge_mode="replace"`). agent_framework's own
    fold then loses the texts of a message before its last; here a repeated text stands for its own pieces alone.
    """

    def __init__(self, run: LocalRun) -> None:
        self._run = run
        self._updates: list[AgentResponseUpdate] = []
        self._parts: defaultdict[tuple[str | None, ...], _Part] = defaultdict(_Part)
        """The text that goes on, of each author and message: agents of a workflow speak at the same time."""
        self._token: Any = None
        self._began = 0
        """Where the updates of the response begin that the token is of."""
        self._rounds: list[AgentResponse[Any]] = []
        """What was polled, response by response."""
        self._shown: str | None = None
        """What was written of the response that is polled; None for what its stream brought."""

    def take(self, update: AgentResponseUpdate) -> None:
        """An update of the stream."""
        part = self._parts[update.author_name, update.message_id]
        if update.merge_mode == "replace":
            part.clear()

        if update.continuation_token is not None and update.continuation_token != self._token:
            self._token, self._began = update.continuation_token, len(self._updates)

        kept = copy.copy(update)
        kept.contents = [self._take(content, part) for content in update.contents]
        self._updates.append(kept)

    def background(self) -> Any:
        """The token of a background response that was not streamed to its end; None when there is none."""
        response = self._streamed()
        said = service_response(response.raw_representation)
        return None if said is not None and said.get("background") is False else response.continuation_token

    def poll(self, token: Any, response: AgentResponse[Any]) -> Any:
        """What a poll of `token` has shown. Returns the token to poll next; None at the end."""
        following = response.continuation_token
        if following == token:
            self._show(response)
            return following

        if following is not None:  # a tool ran, and what it led to is a response of its own, not whole yet
            response.messages = _before_last_tool(response.messages)

        self._rounds.append(response)
        self._show(response)
        self._shown = ""
        return following

    def whole(self) -> AgentResponse[Any]:
        """All of it as one response."""
        if not self._rounds:
            return self._streamed()

        from agent_framework import AgentResponse, add_usage_details

        earlier = AgentResponse.from_updates(self._updates[: self._began])
        last = copy.copy(self._rounds[-1])
        last.messages = [message for each in (earlier, *self._rounds) for message in each.messages]
        last.usage_details = None
        for each in (earlier, *self._rounds):
            last.usage_details = add_usage_details(last.usage_details, each.usage_details)

        return last

    def _streamed(self) -> AgentResponse[Any]:
        from agent_framework import AgentResponse

        return AgentResponse.from_updates(self._updates)

    def _take(self, content: Content, part: _Part) -> Content:
        if content.type == "text":
            piece = part.add(content.text or "", whole=content.merge_mode == "replace")
            self._run.write(piece.text or "")
            return piece

        part.clear()
        if content.type != "usage":
            self._run.progress(content=plain(content.to_dict()))

        return content

    def _show(self, response: AgentResponse[Any]) -> None:
        """Write what a poll shows beyond what was written of its response."""
        text = "".join(message.text for message in response.messages if message.role == ASSISTANT)
        if self._shown is None:
            self._shown = "".join(update.text for update in self._updates[self._began :])

        if text.startswith(self._shown):
            self._run.write(text[len(self._shown) :])
            self._shown = text


def _before_last_tool(messages: Sequence[Message]) -> list[Message]:
    last = max((place for place, message in enumerate(messages) if message.role == "tool"), default=-1)
    return list(messages[: last + 1])
