"""One call of a tool, and what came of it as an observation: what `calls` is to a service, this is to tools."""

from __future__ import annotations

import logging

from .core.messages import Invoked, InvokeFailed
from .core.record import RunRecord
from .core.requests import InputRequest
from .errors import ToolArgumentsInvalid, ToolFailed
from .tools import RunContext, Tool, Toolset

logger = logging.getLogger("agentbg")


async def invoke(toolset: Toolset, record: RunRecord, request: InputRequest) -> Invoked | InvokeFailed:
    """Make a call of a run. What goes wrong is told to the model, unless the tool is to end the run then."""
    tool = toolset.by_name[request.name]
    context = RunContext(
        run_id=record.id,
        call_id=request.id,
        tool=tool.name,
        agent=record.agent,
        metadata=dict(record.metadata),
        key=f"{record.id}.{len(record.rounds)}.{request.id}",
    )
    try:
        return Invoked(request.id, await tool.call(request.arguments, context))
    except Exception as error:  # noqa: BLE001  a tool is the user's: whatever it raises is news for the model
        logger.info("run %s: the tool %s failed: %r", record.id, tool.name, error)
        return _failed(tool, request, error)


def _failed(tool: Tool[..., object], request: InputRequest, error: Exception) -> Invoked | InvokeFailed:
    if isinstance(error, ToolFailed) or (tool.on_error == "fail" and not isinstance(error, ToolArgumentsInvalid)):
        return InvokeFailed(request.id, f"The tool {tool.name} has ended the run: {_named(error)}")

    return Invoked(request.id, f"Error: {_named(error)}")


def _named(error: Exception) -> str:
    text = str(error)
    if isinstance(error, ToolArgumentsInvalid | ToolFailed) and text:
        return text

    return f"{type(error).__name__}: {text}" if text else type(error).__name__
