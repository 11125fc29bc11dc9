"""A call of a tool's function, and its result in the form that a model gets."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar, cast

import anyio.to_thread
from pydantic_core import from_json, to_json, to_jsonable_python

from .core.model import JSON
from .errors import ToolError
from .inputs import text
from .patience import contained

T = TypeVar("T")

CANCELLED_INSIDE = "The tool raised CancelledError: something that it waited for was cancelled."
NOTHING = "The tool returned nothing."
"""What a model is told of None."""
_PARTS = ("input_text", "input_image", "input_file")


def is_kind(kind: Callable[[Any], bool], function: Any) -> bool:
    """Whether a function is of a kind that `inspect` tells, or a callable object's method is."""
    return kind(function) or kind(getattr(function, "__call__", None))  # noqa: B004 (to look at, not to call)


async def run(function: Callable[..., Any], bound: inspect.BoundArguments) -> Any:
    """Await an async function; run any other in a worker thread, and await what it returns if it can be."""
    if is_kind(inspect.iscoroutinefunction, function):
        return await function(*bound.args, **bound.kwargs)

    # Not in the loop's own pool: it is small, and a tool that hangs there would keep even name look-ups waiting.
    with getattr(asyncio.get_running_loop(), "outside", nullcontext)():  # virtual time stands still for a thread
        result = await anyio.to_thread.run_sync(partial(function, *bound.args, **bound.kwargs), abandon_on_cancel=True)

    return await result if inspect.isawaitable(result) else result


async def only_errors(call: Awaitable[T]) -> T:
    """What would stop the caller's own loops and tasks, but is only a tool's, is an error like any other."""
    try:
        return await contained(call, ToolError, CANCELLED_INSIDE)
    except StopAsyncIteration as error:
        raise ToolError("The tool raised StopAsyncIteration.") from error


def written(result: Any) -> str | list[JSON]:
    """A result as a text, or as parts of a message. Raises ToolError for what is no JSON."""
    if isinstance(result, str):
        return _whole(str.__str__(result))  # of an enum's member its text

    if result is None:
        return NOTHING

    if _is_part(result):
        result = [result]

    if isinstance(result, (list, tuple)) and (parts := _parts(cast("Sequence[Any]", result))):
        return cast("list[JSON]", from_json(_json(parts)))

    return _json(result)


def _parts(values: Sequence[Any]) -> list[JSON]:
    """Parts of a message, among which there may be texts; nothing when it is another list."""
    if not any(map(_is_part, values)) or not all(isinstance(value, str) or _is_part(value) for value in values):
        return []

    return [text(value) if isinstance(value, str) else value for value in values]


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and cast("JSON", value).get("type") in _PARTS


def _json(value: Any) -> str:
    try:
        data = to_jsonable_python(value)
        try:
            return to_json(data, inf_nan_mode="strings").decode()
        except ValueError:  # half characters: only Python's own writer takes them
            return _whole(json.dumps(data, ensure_ascii=False, allow_nan=False))
    except Exception as error:  # serializers are any code
        raise ToolError(
            f"The tool's result, of type {type(value).__name__}, cannot be written as JSON: {error}. "
            f"Return a text, or what pydantic can write."
        ) from error


def _whole(text: str) -> str:
    """The text without halves of characters, which no UTF-8 has: two that fit are one, any other is U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
