"""Output items of a run, and the events that each of them is streamed as."""
# ruff: noqa: ARG002 (an item is given more than some kinds need)

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

from .wire import JSON, Event


class OutputItem(Protocol):
    """One item of a run's output. Its events carry no `output_index` and no `sequence_number`: the script adds them."""

    @property
    def prefix(self) -> str:
        """What the item's id begins with, such as `msg`."""
        ...

    @property
    def tokens(self) -> int:
        """Output tokens that this item counts for in `usage`."""
        ...

    def begun(self, id: str) -> Event:
        """The item as `response.output_item.added` shows it."""
        ...

    def events(self, id: str) -> Iterator[Event]:
        """What is streamed between the item's beginning and its end."""
        ...

    def ended(self, id: str, status: str) -> Event:
        """The item as `response.output_item.done` and the final output show it. `status` is completed or incomplete."""
        ...


@lru_cache(maxsize=64)
def split(text: str, deltas: int | None) -> tuple[str, ...]:
    """Cut `text` into `deltas` pieces of about the same size, or, for None, into words.

    Raises `ValueError` when the text cannot be cut into so many pieces.
    """
    if deltas is None:
        return tuple(re.findall(r"\s*\S+(?:\s+\Z)?|\s+\Z", text))

    if not 0 < deltas <= len(text):
        raise ValueError(
            f"{len(text)} characters make no {deltas} deltas; use Script.story(deltas={deltas}), or more text"
        )

    ends = [len(text) * i // deltas for i in range(deltas + 1)]
    return tuple(text[begin:end] for begin, end in pairwise(ends))


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the assistant: `text`, streamed in `deltas` pieces (None: one per word)."""

    text: str
    deltas: int | None = None
    annotations: tuple[JSON, ...] = ()
    prefix: str = field(default="msg", init=False, repr=False)

    @property
    def pieces(self) -> tuple[str, ...]:
        """The text of each delta."""
        return split(self.text, self.deltas)

    @property
    def tokens(self) -> int:
        """One for each delta."""
        return len(self.pieces)

    def begun(self, id: str) -> Event:
        """The message, still empty."""
        return {"id": id, "type": "message", "status": "in_progress", "content": [], "role": "assistant"}

    def events(self, id: str) -> Iterator[Event]:
        """One content part: added, its deltas and annotations, done."""
        place = {"item_id": id, "content_index": 0}
        yield {"type": "response.content_part.added", **place, "part": self._part("", ())}
        for piece in self.pieces:
            yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}

        for index, annotation in enumerate(self.annotations):
            added: Event = {"annotation": annotation, "annotation_index": index}
            yield {"type": "response.output_text.annotation.added", **place, **added}

        yield {"type": "response.output_text.done", **place, "text": self.text, "logprobs": []}
        yield {"type": "response.content_part.done", **place, "part": self._part(self.text, self.annotations)}

    def ended(self, id: str, status: str) -> Event:
        """The message with its text."""
        part = self._part(self.text, self.annotations)
        return {"id": id, "type": "message", "status": status, "content": [part], "role": "assistant"}

    def _part(self, text: str, annotations: tuple[JSON, ...]) -> Event:
        return {"type": "output_text", "annotations": list(annotations), "logprobs": [], "text": text}


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A reasoning item with the parts of its summary; with none, it begins and ends at once."""

    summary: tuple[str, ...] = ()
    prefix: str = field(default="rs", init=False, repr=False)

    @property
    def tokens(self) -> int:
        """One for each word of the summary."""
        return sum(len(split(part, None)) for part in self.summary)

    def begun(self, id: str) -> Event:
        """The item with an empty summary. Reasoning has no status."""
        return {"id": id, "type": "reasoning", "summary": []}

    def events(self, id: str) -> Iterator[Event]:
        """Each part of the summary: added, its deltas, done."""
        for index, text in enumerate(self.summary):
            place = {"item_id": id, "summary_index": index}
            empty, full = {"type": "summary_text", "text": ""}, {"type": "summary_text", "text": text}
            yield {"type": "response.reasoning_summary_part.added", **place, "part": empty}
            for piece in split(text, None):
                yield {"type": "response.reasoning_summary_text.delta", **place, "delta": piece}

            yield {"type": "response.reasoning_summary_text.done", **place, "text": text}
            yield {"type": "response.reasoning_summary_part.done", **place, "part": full}

    def ended(self, id: str, status: str) -> Event:
        """The item with its summary."""
        return {"id": id, "type": "reasoning", "summary": [{"type": "summary_text", "text": t} for t in self.summary]}


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call of the user's function: `arguments` is JSON text, streamed in `deltas` pieces (None: one per word)."""

    name: str
    arguments: str = "{}"
    call_id: str | None = None
    """None for one that no other call has."""
    deltas: int | None = None
    prefix: str = field(default="fc", init=False, repr=False)

    @property
    def tokens(self) -> int:
        """One for each delta."""
        return len(split(self.arguments, self.deltas))

    def begun(self, id: str) -> Event:
        """The call, with no arguments yet."""
        return self._item(id, "in_progress", "")

    def events(self, id: str) -> Iterator[Event]:
        """The arguments: deltas, done."""
        for piece in split(self.arguments, self.deltas):
            yield {"type": "response.function_call_arguments.delta", "item_id": id, "delta": piece}

        yield {"type": "response.function_call_arguments.done", "item_id": id, "arguments": self.arguments}

    def ended(self, id: str, status: str) -> Event:
        """The call with its arguments."""
        return self._item(id, status, self.arguments)

    def _item(self, id: str, status: str, arguments: str) -> Event:
        return {
            "id": id,
            "type": "function_call",
            "status": status,
            "arguments": arguments,
            "call_id": self.call_id or _call_id(id),
            "name": self.name,
        }


@dataclass(frozen=True, slots=True)
class CustomToolCall:
    """A call of the user's tool that takes any text: `input`, streamed in `deltas` pieces (None: one per word)."""

    name: str
    input: str = ""
    call_id: str | None = None
    """None for one that no other call has."""
    deltas: int | None = None
    prefix: str = field(default="ctc", init=False, repr=False)

    @property
    def tokens(self) -> int:
        """One for each delta."""
        return len(split(self.input, self.deltas))

    def begun(self, id: str) -> Event:
        """The call, with no input yet."""
        return self._item(id, "in_progress", "")

    def events(self, id: str) -> Iterator[Event]:
        """The input: deltas, done."""
        for piece in split(self.input, self.deltas):
            yield {"type": "response.custom_tool_call_input.delta", "item_id": id, "delta": piece}

        yield {"type": "response.custom_tool_call_input.done", "item_id": id, "input": self.input}

    def ended(self, id: str, status: str) -> Event:
        """The call with its input."""
        return self._item(id, status, self.input)

    def _item(self, id: str, status: str, input: str) -> Event:
        return {
            "id": id,
            "type": "custom_tool_call",
            "status": status,
            "call_id": self.call_id or _call_id(id),
            "input": input,
            "name": self.name,
        }


def _call_id(id: str) -> str:
    """The id of a call that was given none: made from its item's, so that a run says it the same every time."""
    return f"call_{id[-24:]}"


@dataclass(frozen=True, slots=True)
class WebSearch:
    """A web search that the service does itself."""

    query: str
    prefix: str = field(default="ws", init=False, repr=False)
    tokens: int = field(default=0, init=False, repr=False)

    def begun(self, id: str) -> Event:
        """The search, before its query is known."""
        return {"id": id, "type": "web_search_call", "status": "in_progress", "action": {"type": "search"}}

    def events(self, id: str) -> Iterator[Event]:
        """The three steps of a search."""
        for step in ("in_progress", "searching", "completed"):
            yield {"type": f"response.web_search_call.{step}", "item_id": id}

    def ended(self, id: str, status: str) -> Event:
        """The search with its query."""
        action = {"type": "search", "queries": [self.query], "query": self.query}
        return {"id": id, "type": "web_search_call", "status": status, "action": action}


@dataclass(frozen=True, slots=True)
class McpApprovalRequest:
    """The run waits for the user's word on a tool of an MCP server. The response itself is completed."""

    name: str
    arguments: str = "{}"
    server_label: str = "server"
    prefix: str = field(default="mcpr", init=False, repr=False)
    tokens: int = field(default=0, init=False, repr=False)

    def begun(self, id: str) -> Event:
        """The request, whole from the beginning."""
        return self.ended(id, "completed")

    def events(self, id: str) -> Iterator[Event]:
        """None."""
        return iter(())

    def ended(self, id: str, status: str) -> Event:
        """The request."""
        return {
            "id": id,
            "type": "mcp_approval_request",
            "arguments": self.arguments,
            "name": self.name,
            "server_label": self.server_label,
        }


@dataclass(frozen=True, slots=True)
class McpCall:
    """A call of an MCP server's tool that the service does itself, perhaps after an approval."""

    name: str
    arguments: str = "{}"
    output: str | None = None
    server_label: str = "server"
    approval_request_id: str | None = None
    """The request by which it was approved; None where none was needed."""
    error: JSON | None = None
    """Why it failed: `{"type", "code", "message"}`."""
    prefix: str = field(default="mcp", init=False, repr=False)
    tokens: int = field(default=0, init=False, repr=False)

    def begun(self, id: str) -> Event:
        """The call, with no arguments yet."""
        return {**self.ended(id, "in_progress"), "arguments": "", "error": None, "output": None}

    def events(self, id: str) -> Iterator[Event]:
        """The arguments at once, and how the call ended."""
        yield {"type": "response.mcp_call.in_progress", "item_id": id}
        yield {"type": "response.mcp_call_arguments.delta", "item_id": id, "delta": self.arguments}
        yield {"type": "response.mcp_call_arguments.done", "item_id": id, "arguments": self.arguments}
        yield {"type": f"response.mcp_call.{'completed' if self.error is None else 'failed'}", "item_id": id}

    def ended(self, id: str, status: str) -> Event:
        """The call with its output. It has no status."""
        return {
            "id": id,
            "type": "mcp_call",
            "approval_request_id": self.approval_request_id,
            "arguments": self.arguments,
            "error": self.error,
            "name": self.name,
            "output": self.output,
            "server_label": self.server_label,
        }


@dataclass(frozen=True, slots=True)
class RawItem:
    """Any other item, given as it is when it ends, with the events in between; its id is added."""

    item: JSON
    prefix: str = "item"
    between: tuple[JSON, ...] = ()
    tokens: int = field(default=0, kw_only=True)

    def begun(self, id: str) -> Event:
        """The item, in progress if it has a status."""
        return {**self.item, "id": id, **({"status": "in_progress"} if "status" in self.item else {})}

    def events(self, id: str) -> Iterator[Event]:
        """What was given, with the item's id."""
        for event in self.between:
            yield {"type": event["type"], "item_id": id, **event}

    def ended(self, id: str, status: str) -> Event:
        """The item."""
        return {**self.item, "id": id, **({"status": status} if "status" in self.item else {})}
