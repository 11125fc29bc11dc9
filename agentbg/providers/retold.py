"""What a service said once, told again: a whole conversation in a form that every Responses server takes.

A server that does not find the item of an id refuses it, or the item that it believes to belong to it: so no id goes
along that the form does not ask for. It refuses a `status` where it knows none. And an answer is the text that it was:
of parts of an output, some servers want ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from ..core.model import JSON

_NEEDLESS = frozenset({"id", "status"})
_PLAIN = frozenset({"message", "function_call", "custom_tool_call", "function_call_output", "custom_tool_call_output"})
"""Items that need neither an id nor a status."""


def retold(items: Iterable[JSON]) -> list[JSON]:
    """The items of a conversation, as input."""
    return [item for item in map(_retell, items) if item is not None]


def _retell(item: JSON) -> JSON | None:
    kind = item.get("type", "message")
    if kind == "reasoning":
        return _thought(item)

    if kind == "message" and item.get("role") == "assistant":
        text = _text(item.get("content"))
        return {"type": "message", "role": "assistant", "content": text} if text else None

    return _without(item, _NEEDLESS) if kind in _PLAIN else item


def _thought(item: JSON) -> JSON | None:
    """Reasoning is a name for what only its server has, unless its content is in it: encrypted, or as a text."""
    if item.get("encrypted_content"):
        return _without(item, _NEEDLESS)

    return _without(item, frozenset({"status"})) if item.get("content") else None


def _text(content: Any) -> str:
    """The text of a content, refusals too."""
    if isinstance(content, str):
        return content

    parts: Sequence[Any] = cast("Sequence[Any]", content) if isinstance(content, list) else ()
    known = [cast("JSON", part) for part in parts if isinstance(part, Mapping)]
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in known)


def _without(item: JSON, names: frozenset[str]) -> JSON:
    return {name: value for name, value in item.items() if name not in names}
