"""Tools as type checkers see them. Never run: pyright and mypy, both strict, read it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal, assert_type

from agentbg import ToolArgumentsInvalid, ToolError, ToolFailed, ToolTimeout
from agentbg.tools import RunContext, Tool, Toolset, tool


@tool
async def lookup(city: str, days: int = 3) -> str:
    return city * days


@tool(name="refund", description="…", requires_approval=True, idempotent=True, timeout=None, on_error="fail")
def refund(order: int, context: RunContext) -> bool:
    raise ToolFailed(context.call_id)


class Desk:
    def take(self, order: int, *, note: str = "") -> list[int]:
        return [order]


take = tool(Desk().take, name="take")


async def a_decorated_function_is_typed_as_ever(context: RunContext) -> None:
    assert_type(await lookup("Rome", days=1), str)
    assert_type(refund(1, context), bool)
    assert_type(take(1, note="…"), list[int])
    await lookup(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    refund(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    take(1, 2)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
    asynchronous: Callable[[str], Coroutine[Any, Any, str]] = lookup
    assert_type(await asynchronous("Rome"), str)


async def a_tool(context: RunContext) -> None:
    made: Tool[..., Any] = lookup
    assert_type(made.name, str)
    assert_type(made.description, str)
    assert_type(made.parameters, Mapping[str, Any])
    assert_type(made.strict, bool)
    assert_type(made.requires_approval, bool)
    assert_type(made.idempotent, bool)
    assert_type(made.timeout, float | None)
    assert_type(made.on_error, Literal["answer", "fail"])
    assert_type(made.definition, Mapping[str, Any])
    made.name = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    try:
        assert_type(await made.call("{}", context), str | list[Mapping[str, Any]])
    except ToolArgumentsInvalid as error:
        assert_type(error.problems, tuple[str, ...])
    except (ToolTimeout, ToolError):
        pass


def a_toolset() -> None:
    tools = Toolset([lookup, refund, take, Desk().take, {"type": "web_search"}])
    assert_type(tools.definitions, tuple[Mapping[str, Any], ...])
    assert_type(tools.by_name, Mapping[str, Tool[..., Any]])
    Toolset(["web_search"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    tool(lookup, timeout="600")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
