"""The server of `make run` with a puppet in the place of the model: words, or the smallest value that fits a schema."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from examples.main_job.host import serve
from examples.main_job.model_server import Chunk, new_server
from examples.main_job.schemas import Schema, bounded
from examples.main_job.turn import Message


class Puppet:
    """Answers with what it was told last, or in JSON; never more than `limit` chunks."""

    async def chunks(
        self, messages: Sequence[Message], limit: int, schema: Schema | None = None
    ) -> AsyncGenerator[Chunk, None]:
        whole = bounded(schema)
        answer = f"You said: {messages[-1]['content']}" if schema is None else json.dumps(smallest(whole, whole))
        pieces = answer.split(" ")
        for piece in pieces[:limit]:
            yield chunk(f"{piece} ")
            await asyncio.sleep(0)

        yield chunk(None, "stop" if len(pieces) <= limit else "length")


def chunk(text: str | None, end: str | None = None) -> Chunk:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": end}]}


def smallest(schema: Schema, root: Schema) -> Any:
    """A value that fits the kinds of schemas that pydantic makes; lists have two of all, so that there is something."""
    if "$ref" in schema:
        return smallest(root["$defs"][schema["$ref"].rpartition("/")[2]], root)

    if "anyOf" in schema:
        return smallest(schema["anyOf"][0], root)

    if "enum" in schema or "const" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]

    match schema["type"]:
        case "object":
            parts: Mapping[str, Schema] = schema.get("properties", {})
            return {name: smallest(part, root) for name, part in parts.items()}
        case "array":
            return [smallest(schema["items"], root)] * min(2, schema["maxItems"])
        case "string":
            return "text"[: schema.get("maxLength")]
        case kind:
            return {"integer": 7, "number": 0.5, "boolean": True, "null": None}[kind]


if __name__ == "__main__":
    asyncio.run(serve(new_server(Puppet()), 0))
