"""One call of a tool, and what came of it as an observation: what `calls` is to a service, this is to tools."""

from __future__ import annotations

import logging

from .core.messages import Invoked, InvokeFailed
from .core.record import RunRecord
from .core.requests import InputRequest
from .errors import ToolArgumentsInvalid, ToolFailed
from .tools import RunContext, Tool, Toolset

logger = logging.getLogger("agentbg")


class Invoking:
    """The tools of one run."""

    def __init__(self, toolset: Toolset, record: RunRecord) -> None:
        self._toolset = toolset
        self._record = record

    async def __call__(self, request: InputRequest) -> Invoked | InvokeFailed:
        """Make a call. What goes wrong is told to the model, unless the tool is to end the run then."""
        tool = self._toolset.by_name[request.name]
        context = RunContext(
            run_id=self._record.id,
            call_id=request.id,
            tool=tool.name,
            agent=self._record.agent,
            metadata=self._record.metadata,
            key=f"{self._record.id}.{len(self._record.rounds)}.{request.id}",
        )
        try:
            return Invoked(request.id, await tool.call(request.arguments, context))
        except Exception as error:  # noqa: BLE001  a tool is the user's: whatever it raises is news for the model
            return self._failed(tool, request, error)

    def _failed(self, tool: Tool[..., object], request: InputRequest, error: Exception) -> Invoked | InvokeFailed:
        logger.info("run %s: the tool %s failed: %r", self._record.id, tool.name, error)
        if isinstance(error, ToolFailed) or (tool.on_error == "fail" and not isinstance(error, ToolArgumentsInvalid)):
            return InvokeFailed(request.id, f"The tool {tool.name} has ended the run: {_named(error)}")

        return Invoked(request.id, f"Error: {_named(error)}")


def _named(error: Exception) -> str:
    text = str(error)
    if isinstance(error, ToolArgumentsInvalid | ToolFailed) and text:
        return text

    return f"{type(error).__name__}: {text}" if text else type(error).__name__
