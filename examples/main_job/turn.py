"""What a request asks of the model: the conversation so far, and the functions or the schema that bind the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from azure.ai.agentserver.responses import CreateResponse, ResponseContext

from .schemas import Schema

LIMIT = 256  # tokens of an answer
JSON_LIMIT = 512  # tokens of an answer in JSON, half of which is worth nothing

NO_PARAMETERS: Schema = {"type": "object", "properties": {}}

Message = dict[str, str]
Item = Mapping[str, Any]


@dataclass(frozen=True)
class Function:
    """A function that the model may call."""

    name: str
    description: str
    parameters: Schema


@dataclass(frozen=True)
class Turn:
    """The model's turn: to call one of `functions` if there are any, else to answer, in JSON if there is a `schema`."""

    messages: Sequence[Message]
    functions: Sequence[Function] = ()
    schema: Schema | None = None
    limit: int = LIMIT

    def told(self, what: str) -> list[Message]:
        """The conversation, and something more for the model to go by."""
        return [*self.messages, {"role": "system", "content": what}]


async def read_turn(request: CreateResponse, context: ResponseContext) -> Turn:
    """The turn that a request is about, with what came before it."""
    items = [*await context.get_history(), *await context.get_input_items()]
    functions, schema = callable_functions(request, items), schema_of(request)
    limit = JSON_LIMIT if functions or schema is not None else LIMIT
    instructions = request.get("instructions")
    return Turn(
        [*([{"role": "system", "content": str(instructions)}] if instructions else []), *conversation(items)],
        functions,
        schema,
        min(request.get("max_output_tokens") or limit, limit),
    )


def callable_functions(request: Mapping[str, Any], items: Sequence[Item]) -> list[Function]:
    """The functions to choose from: none once there is an output to answer with, or where the request wants none."""
    choice = request.get("tool_choice")
    if choice == "none" or (items and items[-1]["type"] == "function_call_output"):
        return []

    wanted = choice.get("name") if isinstance(choice, Mapping) else None
    return [
        Function(tool["name"], tool.get("description") or "", tool.get("parameters") or NO_PARAMETERS)
        for tool in request.get("tools") or ()
        if tool["type"] == "function" and wanted in (None, tool["name"])
    ]


def schema_of(request: Mapping[str, Any]) -> Schema | None:
    """The schema of a structured output."""
    wish = (request.get("text") or {}).get("format") or {}
    match wish.get("type"):
        case "json_schema":
            return wish["schema"]
        case "json_object":
            return {"type": "object"}
        case _:
            return None


def conversation(items: Sequence[Item]) -> list[Message]:
    """Items in the shape of chat completions. A small model knows no calls: it reads them as what was said."""
    names = {item["call_id"]: item["name"] for item in items if item["type"] == "function_call"}
    messages: list[Message] = []
    for item in items:
        match item["type"]:
            case "message":
                messages.append({"role": str(item["role"]), "content": plain_text(item["content"])})
            case "function_call":
                messages.append({"role": "assistant", "content": f"I call {item['name']} with {item['arguments']}."})
            case "function_call_output":
                name = names.get(item["call_id"], "The function")
                messages.append({"role": "user", "content": f"{name} says: {plain_text(item['output'])}"})
            case _:
                pass

    return messages


def plain_text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)
