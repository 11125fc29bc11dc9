"""Our words in agent_framework's, and its in ours. Everything that knows both is here."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pydantic_core
from pydantic import BaseModel

from ..core.model import JSON, RunErrorInfo, RunRef, StartRequest, Usage
from ..core.status import RunStatus
from ..errors import RequestRejected
from .local_run import Ending
from .responses_wire import read_response

if TYPE_CHECKING:
    from agent_framework import AgentResponse, Content, Message

ASSISTANT = "assistant"
_ROLES = frozenset({"user", "system", "developer", ASSISTANT})
_REFUSED = ("reasoning_effort", "service_tier", "completion_window")
"""What chat clients have no common word for."""
_TRANSIENT = frozenset({408, 409, 425, 429})
_INCOMPLETE = frozenset({"length", "content_filter"})
_CUT = RunErrorInfo(
    "stream_cut",
    "The stream ended before the response did, and nobody knows its end. In an agent with the option "
    '{"background": True} such a response is polled.',
)
_ASKS = (
    "agent_framework asks for {}, and a run of it in the background cannot be answered. Its tools need "
    'approval_mode="never_require", or a middleware that decides.'
)


# --- what is asked ---


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the arguments of an agent's `run`."""

    messages: list[Message]
    options: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The options as arguments; none for an agent that takes none."""
        return {"options": self.options} if self.options else {}


def ask(request: StartRequest, *, takes_options: bool) -> Asked:
    """A request in agent_framework's words. Raises RequestRejected for what it has no word for."""
    for name in _REFUSED:
        if getattr(request, name) is not None:
            raise RequestRejected(
                f"agent_framework has no common option for {name}: say it in the words of your agent's chat client, "
                f'as in AgentRunOptions(extra={{"reasoning": {{"effort": "low"}}}}).'
            )

    if functions := [tool.get("name") for tool in request.tools if tool.get("type") == "function"]:
        raise RequestRejected(
            f"agent_framework makes the calls of its own tools: give the agent of agent_framework the functions "
            f"{', '.join(map(str, functions))}, not the agent around it."
        )

    options = _options(request)
    if options and not takes_options:
        raise RequestRejected(
            f"This agent's `run` takes no options, so it cannot be given: {', '.join(options)}. Make it with them."
        )

    said = [item for item in request.input if item.get("type") != "reasoning"]  # of another service's model
    return Asked([_message(item) for item in said], options)


def _options(request: StartRequest) -> dict[str, Any]:
    options = {
        "instructions": request.instructions,
        "tools": [dict(tool) for tool in request.tools],
        "response_format": _response_format(request),
        "max_tokens": request.max_output_tokens,
        "metadata": dict(request.metadata),
        **request.extra,
    }
    return {name: value for name, value in options.items() if value or name in request.extra}


def _response_format(request: StartRequest) -> JSON | None:
    schema = request.output_schema
    if schema is None:
        return None

    name = re.sub(r"[^a-zA-Z0-9_-]", "_", str(schema.get("title")))[:64]
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "schema": dict(schema), "strict": request.output_strict},
    }


def _message(item: JSON) -> Message:
    from agent_framework import Content, Message

    kind, role = item.get("type", "message"), item.get("role")
    call = str(item.get("call_id", ""))
    if kind == "function_call":
        made = Content.from_function_call(call, str(item.get("name", "")), arguments=item.get("arguments"))
        return Message(ASSISTANT, [made])

    if kind == "function_call_output":
        return Message("tool", [Content.from_function_result(call, result=item.get("output"))])

    if kind != "message" or role not in _ROLES:
        raise RequestRejected(
            f"agent_framework takes messages of {', '.join(sorted(_ROLES))}, calls of functions and their outputs; "
            f"not an item of type {kind!r}" + (f" and role {role!r}." if kind == "message" else ".")
        )

    content = item.get("content")
    parts = cast("Sequence[Any]", content) if isinstance(content, list) else [{"type": "text", "text": content}]
    return Message(role, [_content(part) for part in parts])


def _content(part: Any) -> Content:
    from agent_framework.exceptions import ContentError

    try:
        made = _made(cast("JSON", part)) if isinstance(part, Mapping) else None
    except ContentError as error:
        raise RequestRejected(f"agent_framework cannot take this part of a message: {error}") from error

    if made is None:
        raise RequestRejected(
            f"agent_framework takes texts, images and files as parts of a message; not {part!r:.80}. agentbg.inputs "
            f"makes them."
        )

    return made


def _made(part: JSON) -> Content | None:
    from agent_framework import Content

    hints, name = _hints(part), part.get("filename")
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)} | {"type": "refusal", "refusal": text}:
            return Content.from_text(str(text))
        case {"type": "input_image", "image_url": str(url)}:
            kind = _media_type(url, "image/*")
            return Content.from_uri(url, media_type=kind, additional_properties=hints)
        case {"type": "input_file", "file_data": str(url)} | {"type": "input_file", "file_url": str(url)}:
            kind = _media_type(url, mimetypes.guess_type(str(name))[0] or "application/octet-stream")
            return Content.from_uri(url, media_type=kind, name=name, additional_properties=hints)
        case {"type": "input_image" | "input_file", "file_id": str(file_id)}:
            return Content.from_hosted_file(file_id, name=name, additional_properties=hints)
        case _:
            return None


def _media_type(url: str, otherwise: str) -> str | None:
    """None for a data URL, which says its own."""
    return None if url.startswith("data:") else mimetypes.guess_type(url.partition("?")[0])[0] or otherwise


def _hints(fields: JSON) -> dict[str, Any]:
    """What OpenAI's clients read beside a media type, and others leave."""
    detail = {"image_detail": fields["detail"]} if "detail" in fields else {}
    return {"openai": {"content_type": fields.get("type"), **detail}}


# --- what comes of it ---


def conclude(response: AgentResponse[Any], request: StartRequest) -> Ending:
    """How a run ended that gave this response."""
    status, error = _status(response)
    answer = [message.text for message in response.messages if message.role == ASSISTANT and message.text]
    if request.output_schema is not None and status is RunStatus.COMPLETED:
        answer = answer[-1:]

    usage = _usage(response)
    detail: dict[str, Any] = {"agent_framework": plain(response.to_dict())}
    if usage is not None:
        detail["usage"] = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        }

    return Ending(status, answer, error, usage, detail)


def reason(error: BaseException) -> RunErrorInfo | None:
    """What an exception of agent_framework says; None for any other. Its service's code, if there is one, counts."""
    from agent_framework.exceptions import AgentFrameworkException

    if not isinstance(error, AgentFrameworkException):
        return None

    code = getattr(error.__cause__, "code", None)
    said = error.args[0] if error.args else None
    return RunErrorInfo(code if isinstance(code, str) and code else type(error).__name__, str(said or repr(error)))


def will_pass(error: Exception) -> bool:
    """Whether the same poll may be answered later."""
    from agent_framework.exceptions import AgentFrameworkException

    status = getattr(error.__cause__, "status_code", None)
    denied = isinstance(status, int) and 400 <= status < 500 and status not in _TRANSIENT
    return isinstance(error, AgentFrameworkException) and not denied


def service_response(raw: Any) -> JSON | None:
    """The last Response object of a service of OpenAI's kind in what agent_framework keeps as `raw_representation`."""
    if isinstance(raw, list):
        found = (service_response(each) for each in reversed(cast("Sequence[Any]", raw)))
        return next((each for each in found if each is not None), None)

    for holder in (raw, getattr(raw, "response", None)):
        if isinstance(holder, BaseModel) and getattr(holder, "object", None) == "response":
            return holder.model_dump(mode="json", warnings=False)

    inner = getattr(raw, "raw_representation", None)
    return None if inner is None else service_response(inner)


def plain(value: Any) -> Any:
    """As JSON; what has no form in it, as its text."""
    written = pydantic_core.to_json(value, fallback=str, bytes_mode="base64", inf_nan_mode="null")
    return pydantic_core.from_json(written)


def _status(response: AgentResponse[Any]) -> tuple[RunStatus, RunErrorInfo | None]:
    """The service's own status, where it can be seen; agent_framework shows none."""
    contents = [content for message in response.messages for content in message.contents]
    said = service_response(response.raw_representation)
    if said is not None:
        seen = read_response(said, lambda run_id: RunRef("", "", {"response": run_id}))
        if seen.status.live:
            return RunStatus.FAILED, _CUT

        if seen.status not in (RunStatus.COMPLETED, RunStatus.INPUT_REQUIRED):  # those may be of a call that was made
            return seen.status, seen.error

    for content in contents:
        if content.type == "error":
            return RunStatus.FAILED, RunErrorInfo(content.error_code or "error", content.message or "")

    if response.continuation_token is not None:
        return RunStatus.FAILED, _CUT

    if wanted := _unanswered(contents):
        return RunStatus.FAILED, RunErrorInfo("input_required", _ASKS.format(wanted))

    if response.finish_reason in _INCOMPLETE:
        cut = str(response.finish_reason)
        return RunStatus.INCOMPLETE, RunErrorInfo(cut, f"The answer was cut short: {cut}.")

    return RunStatus.COMPLETED, None


def _unanswered(contents: Sequence[Content]) -> str:
    """What the agent asks of its user: approvals, and calls that it has no function for."""
    approvals = [
        f"an approval of {content.function_call.name if content.function_call else content.type}"
        for content in contents
        if content.user_input_request
    ]
    made = {content.call_id for content in contents if content.type == "function_result"}
    calls = [
        f"the output of {content.name}"
        for content in contents
        if content.type == "function_call"
        and content.call_id not in made
        and not (content.hosted or content.informational_only)
    ]
    return ", ".join(approvals or calls)


def _usage(response: AgentResponse[Any]) -> Usage | None:
    counted = response.usage_details
    if not counted:
        return None

    given, made = counted.get("input_token_count") or 0, counted.get("output_token_count") or 0
    total = counted.get("total_token_count")
    return Usage(given, made, given + made if total is None else total, plain(dict(counted)))
