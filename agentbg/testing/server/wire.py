"""What the service's wire looks like: ids, JSON bodies, errors, server-sent events. Shapes only; no state."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

JSON = Mapping[str, Any]
Event = dict[str, Any]
"""One stream event, as it stands in an event's `data:` line."""

TERMINAL = frozenset({"completed", "failed", "incomplete", "cancelled"})
TERMINAL_EVENTS = frozenset({"response.completed", "response.failed", "response.incomplete"})
ENDING = {"completed": "response.completed", "incomplete": "response.incomplete"}
"""The terminal event of a status; all other statuses end with `response.failed`."""


def new_id(prefix: str) -> str:
    """A fresh id such as `resp_` and 48 hexadecimal digits."""
    return f"{prefix}_{secrets.token_hex(24)}"


def encode(value: object) -> bytes:
    """Compact JSON, UTF-8 as it is."""
    return to_json(value)


def frame(event: Event) -> bytes:
    """A server-sent event as the service frames it: `event:` and `data:`, no id, one line of JSON."""
    return b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), to_json(event))


def error_body(
    message: str, *, param: str | None = None, code: str | None = None, type: str = "invalid_request_error"
) -> Event:
    """The JSON body of an error answer."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def usage_body(input_tokens: int, output_tokens: int, reasoning_tokens: int = 0) -> Event:
    """The `usage` of a finished response."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": input_tokens + output_tokens,
    }


def response_body(id: str, created_at: int, request: JSON) -> Event:
    """A response that has just been queued or begun: all keys of a real body, filled from the request."""
    reasoning: JSON = request.get("reasoning") or {}
    text: JSON = request.get("text") or {}
    conversation = conversation_of(request)
    return {
        "id": id,
        "object": "response",
        "created_at": created_at,
        "status": "queued" if request.get("background") else "in_progress",
        "background": bool(request.get("background")),
        "completed_at": None,
        **({"conversation": {"id": conversation}} if conversation is not None else {}),
        "error": None,
        "frequency_penalty": 0.0,
        "incomplete_details": None,
        "instructions": request.get("instructions"),
        "max_output_tokens": request.get("max_output_tokens"),
        "max_tool_calls": request.get("max_tool_calls"),
        "model": request.get("model"),
        "output": [],
        "parallel_tool_calls": _given(request, "parallel_tool_calls", True),
        "presence_penalty": 0.0,
        "previous_response_id": request.get("previous_response_id"),
        "prompt_cache_key": request.get("prompt_cache_key"),
        "prompt_cache_retention": request.get("prompt_cache_retention"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": request.get("safety_identifier"),
        "service_tier": _given(request, "service_tier", "auto"),
        "store": _given(request, "store", True),
        "temperature": _given(request, "temperature", 1.0),
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": text.get("verbosity") or "medium"},
        "tool_choice": _given(request, "tool_choice", "auto"),
        "tools": list(request.get("tools") or ()),
        "top_logprobs": _given(request, "top_logprobs", 0),
        "top_p": _given(request, "top_p", 1.0),
        "truncation": _given(request, "truncation", "disabled"),
        "usage": None,
        "user": request.get("user"),
        "metadata": request.get("metadata") or {},
    }


def conversation_of(request: JSON) -> str | None:
    """The id of the conversation that a request belongs to."""
    conversation: JSON | str | None = request.get("conversation")
    return conversation["id"] if isinstance(conversation, Mapping) else conversation


def _given(request: JSON, key: str, default: object) -> Any:
    value = request.get(key)
    return default if value is None else value


def raw_items(request: JSON) -> Sequence[JSON]:
    """A request's input as a list of items, oldest first, as they were sent."""
    given: str | Sequence[JSON] | None = request.get("input")
    return [{"role": "user", "content": given}] if isinstance(given, str) else given or ()


def input_items(request: JSON) -> list[Event]:
    """A request's input as the service keeps it: a list of items with ids, oldest first."""
    return [_input_item(item) for item in raw_items(request)]


def _input_item(item: JSON) -> Event:
    kind = item.get("type") or "message"
    if kind == "function_call_output":
        return {"id": new_id("fc"), "type": kind, "status": "completed", **_known(item)}

    if kind != "message":
        return {"id": new_id("item"), **_known(item)}

    content = item.get("content", "")
    if isinstance(content, str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        content = [{"type": kind, "text": content}]

    return {
        "id": item.get("id") or new_id("msg"),
        "type": "message",
        "status": "completed",
        "content": content,
        "role": item.get("role", "user"),
    }


def _known(item: JSON) -> Event:
    return {key: value for key, value in item.items() if value is not None}


def input_text(request: JSON) -> str:
    """The last text that the request's input holds; empty where there is none."""
    for item in reversed(input_items(request)):
        for part in reversed(item.get("content") or ()):
            if "text" in part:
                return str(part["text"])

        if "output" in item:
            return str(item["output"])

    return ""
