"""What a run asks of us on its way, and how it is answered.

A request keeps the service's own item, in the shape of the Responses API: the field's common tongue. Answers are items
of that shape, too, so that a provider sends them as it sends any input.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from ..errors import UsageError

Output = str | Sequence[Mapping[str, Any]] | Mapping[str, Any]
"""A text; content parts, as `agentbg.inputs` makes them; or the whole item to send, with its `type`."""

CALLS = frozenset(
    {*("function_call", "custom_tool_call", "computer_call"), *("local_shell_call", "shell_call", "apply_patch_call")}
)
"""Items that the client must answer with an output of the same `call_id`."""
APPROVALS = frozenset({"mcp_approval_request"})
REJECTED = "The user did not allow this call."


class RequestKind(StrEnum):
    """What is asked for."""

    CALL = "call"
    """The output of a call that the model wants made."""
    APPROVAL = "approval"
    """Leave to make a call: a tool of ours that requires it, or one that the service makes by itself (MCP)."""
    INPUT = "input"
    """Anything else that only the user knows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to one request. Made by the request's own methods, or by its id: `Answer("call_1", approve=True)`."""

    id: str
    approve: bool | None = None
    reason: str | None = None
    """Why not: the model reads it."""
    output: Output | None = None


@dataclass(frozen=True, slots=True)
class InputRequest:
    """Something that a run waits for."""

    id: str
    """The service's own of the call, with a number where several calls have the same one."""
    kind: RequestKind
    name: str = ""
    """The tool's."""
    arguments: str = ""
    """Of the call: as the model wrote them, usually JSON."""
    item: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """The service's own item."""

    def approve(self) -> Answer:
        """Let the call be made."""
        return Answer(self.id, approve=True)

    def reject(self, reason: str | None = None) -> Answer:
        """Do not let the call be made. The model reads the reason."""
        return Answer(self.id, approve=False, reason=reason)

    def answer(self, output: Output) -> Answer:
        """Give what is asked for: of a call its output, so that it is not made."""
        return Answer(self.id, output=output)


def output_item(request: InputRequest, output: Output) -> Mapping[str, Any]:
    """The item that answers a request with this output."""
    if isinstance(output, Mapping):
        return output

    kind = str(request.item.get("type", ""))
    output = output if isinstance(output, str) else list(output)
    if request.kind is RequestKind.INPUT:
        return {"type": "message", "role": "user", "content": output}

    name = "id" if kind == "local_shell_call" else "call_id"
    return {"type": f"{kind or 'function_call'}_output", name: _own_id(request.item) or request.id, "output": output}


def decision_item(request: InputRequest, answer: Answer) -> Mapping[str, Any]:
    """The item that tells the service, or the model, that a call is allowed or not."""
    if request.item.get("type") == "mcp_approval_request":
        reason = {"reason": answer.reason} if answer.reason else {}
        return {
            "type": "mcp_approval_response",
            "approval_request_id": _own_id(request.item) or request.id,
            "approve": bool(answer.approve),
            **reason,
        }

    return output_item(request, f"{REJECTED} {answer.reason}" if answer.reason else REJECTED)


def require_answer(answer: object) -> None:
    """Raise UsageError for what is no answer at all, or none that can be stored and sent: callers are not all typed."""
    if not isinstance(answer, Answer):
        raise UsageError(f"{answer!r:.100} is no answer: `request.approve()`, `.reject(…)` and `.answer(…)` make one.")

    if answer.approve not in (True, False, None):
        raise UsageError(f"approve is True or False, not {answer.approve!r:.100}.")

    output = answer.output
    # Not all callers are typed.
    listed = isinstance(output, Sequence) and all(isinstance(part, Mapping) for part in output)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not (output is None or isinstance(output, (str, Mapping)) or listed):
        raise UsageError(f"An output is a text, a list of parts, or a whole item, not {output!r:.100}.")

    try:
        json.dumps([answer.id, answer.reason, output], ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"The answer to {answer.id!r} is no JSON: {error}.") from error


def check_answer(request: InputRequest | None, answer: Answer) -> None:
    """Raise UsageError for an answer that does not fit what was asked."""
    if request is None:
        raise UsageError(
            f"The run does not wait for an answer to {answer.id!r}. What it waits for is in `handle.response.requests`."
        )

    if (answer.approve is None) == (answer.output is None):
        raise UsageError(f"An answer says yes or no, or gives an output; that to {answer.id!r} says neither, or both.")

    if answer.approve and request.kind is not RequestKind.APPROVAL:
        raise UsageError(
            f"The call {answer.id!r} of {request.name!r} cannot be approved: nobody here can make it. Answer it with "
            f"its output, reject it, or give the agent a tool of that name."
        )

    mcp = request.item.get("type") == "mcp_approval_request"
    if mcp and answer.output is not None and not isinstance(answer.output, Mapping):
        raise UsageError(f"{answer.id!r} is a call that the service makes by itself: approve or reject it.")

    if isinstance(answer.output, Mapping) and not answer.output.get("type"):
        raise UsageError(
            "An output that is a dict is the whole item to send, with its `type`; write other data as JSON"
        )


def read_requests(items: Iterable[Mapping[str, Any]]) -> list[InputRequest]:
    """The calls and approvals that a run's output leaves open."""
    items = list(items)
    answered = {item.get("call_id") for item in items if str(item.get("type", "")).endswith("_output")}
    answered |= {item.get("approval_request_id") for item in items if item.get("type") == "mcp_approval_response"}
    asked = [_request(item) for item in items if item.get("type") in CALLS | APPROVALS]
    return _told_apart(request for request in asked if request.id not in answered)


def _told_apart(requests: Iterable[InputRequest]) -> list[InputRequest]:
    """Each with an id of its own here: some servers give several calls of a response the same, or none."""
    known: dict[str, InputRequest] = {}
    for request in requests:
        name, number = request.id, 1
        while name in known:
            number += 1
            name = f"{request.id}#{number}"

        known[name] = replace(request, id=name)

    return list(known.values())


def _request(item: Mapping[str, Any]) -> InputRequest:
    """A custom tool's arguments are a text of their own, its input."""
    name, written = item.get("name"), item.get("arguments") or item.get("input")
    return InputRequest(
        id=_own_id(item),
        kind=RequestKind.APPROVAL if item.get("type") in APPROVALS else RequestKind.CALL,
        name=name if isinstance(name, str) else "",
        arguments=_text(written),
        item=item,
    )


def _own_id(item: Mapping[str, Any]) -> str:
    """What the service knows a call or an approval by."""
    return str(item.get("id" if item.get("type") in APPROVALS else "call_id") or item.get("id") or "")


def _text(arguments: object) -> str:
    """Some servers do not write the JSON as a text: an object that counted as none would call a tool without it."""
    if isinstance(arguments, str):
        return arguments

    return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, (Mapping, list)) else ""
