"""What a model sees of a conversation: items in the shape of the Responses API, oldest first. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from ..core.model import JSON

CALLS = frozenset({"function_call", "custom_tool_call", "computer_call", "local_shell_call", "apply_patch_call"})
"""Items that the client answers with an output of the same `call_id`."""
APPROVAL = "mcp_approval_request"
QUESTIONS = {**dict.fromkeys(CALLS, "call_id"), APPROVAL: "id"}
"""What a model asks of its client, and the key of the id that an answer names."""
ANSWERS = {
    **{f"{call}_output": (call, "call_id", "output") for call in CALLS},
    "mcp_approval_response": (APPROVAL, "approval_request_id", "approve"),
}
"""What a client answers: to which kind of question, and the keys of the question's id and of the answer itself."""


def questions(items: Iterable[JSON]) -> set[str]:
    """The ids that answers to these items would name."""
    return {str(item.get(QUESTIONS[item["type"]])) for item in items if item.get("type") in QUESTIONS}


def answers(items: Iterable[JSON]) -> dict[str, Any]:
    """What these items answer: a call's output by its `call_id`, True or False by the id of an approval request."""
    found: dict[str, Any] = {}
    for item in items:
        if item.get("type") in ANSWERS:
            _, key, answer = ANSWERS[item["type"]]
            found[str(item.get(key))] = item.get(answer)

    return found


def since_model(items: Sequence[JSON]) -> Sequence[JSON]:
    """The items after the model's last one: what its client has said since."""
    last = max((place for place, item in enumerate(items) if _by_model(item)), default=-1)
    return items[last + 1 :]


def turns(items: Iterable[JSON]) -> int:
    """How many times a model has spoken in these items, whether the service kept them or its client."""
    spoken = [_by_model(item) for item in items]
    return sum(now and not before for before, now in pairwise([False, *spoken]))


def _by_model(item: JSON) -> bool:
    kind = item.get("type") or "message"
    return item.get("role") == "assistant" if kind == "message" else kind not in ANSWERS


def complaint(items: Iterable[JSON]) -> str | None:
    """Why the real service refuses these items, in its own words; None where each call has its answer."""
    known: set[tuple[str, str]] = set()
    waiting: dict[tuple[str, str], None] = {}
    for item in items:
        kind = str(item.get("type"))
        if kind in QUESTIONS:
            question = kind, str(item.get(QUESTIONS[kind]))
            known.add(question)
            waiting[question] = None
        elif kind in ANSWERS:
            asked, key, _ = ANSWERS[kind]
            question = asked, str(item.get(key))
            if question not in known:
                return _unasked(*question)

            waiting.pop(question, None)

    return _unanswered(list(waiting)) if waiting else None


def is_bare_reasoning(item: JSON) -> bool:
    """True for reasoning that is only a name: what its model thought is with the service, if it keeps it."""
    return item.get("type") == "reasoning" and bool(item.get("id")) and not item.get("encrypted_content")


def _unasked(kind: str, name: str) -> str:
    if kind == APPROVAL:
        return f"The following MCP approval requests have approval responses but weren't passed as input: {name}"

    return f"No tool call found for {_words(kind)} output with call_id {name}."


def _unanswered(waiting: list[tuple[str, str]]) -> str:
    first, name = waiting[0]
    if first == APPROVAL:
        names = ", ".join(name for kind, name in waiting if kind == APPROVAL)
        return f"The following MCP approval requests do not have an approval: {names}"

    return f"No tool output found for {_words(first)} {name}."


def _words(kind: str) -> str:
    return kind.replace("_", " ")
