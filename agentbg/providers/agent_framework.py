"""An agent of Microsoft's agent_framework as the service. Needs the extra `agent-framework`."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from ..core.model import RunErrorInfo, StartRequest
from ..core.schedule import PollPolicy
from ..errors import UsageError
from .agent_framework_told import Told
from .agent_framework_words import ask, conclude, reason, will_pass
from .local import Local
from .local_run import Ending, LocalRun, Work

if TYPE_CHECKING:
    from agent_framework import AgentResponse, AgentResponseUpdate, FunctionInvocationContext, ResponseStream
    from agent_framework import SupportsAgentRun as FrameworkAgent

ATTEMPTS = 10
"""Polls in a row that may fail: with the backoff between them, about five minutes."""


class AgentFrameworkAgent(Local):
    """A provider whose runs are runs of an `agent_framework` agent, at work in this process.

        framework_agent = agent_framework.Agent(OpenAIChatClient(model="gpt-5"), instructions="…", tools=[lookup])
        agent = Agent(AgentFrameworkAgent(framework_agent), name="writer")

    It is a `Local` of that agent: what is said there of cancelling, closing, `limit` and `keep` holds here, and of lost
    runs, which `idempotent=True` starts again. The agent is not closed with it.

    **What is asked.** Messages with text, images and files. Instructions, tools, output type, `max_output_tokens` and
    metadata of our `Agent` become options of the run: instructions and tools are added to the agent's own. `extra` are
    options, too, in its chat client's words, such as {"reasoning": {"effort": "low"}}. What an agent cannot take is
    refused by `submit` with RequestRejected; so are functions as tools, which belong to the agent inside. No session
    is used: an `AgentThread` of ours is the conversation, and its messages are sent with each run. The agent's own
    history providers take each run for a new conversation.

    **What comes of it.** Its tools run inside agent_framework; their calls and results, and reasoning, are streamed as
    PROGRESS updates. `response.raw["agent_framework"]` is its response, with all messages. With an output type, the
    answer is its last message alone. A run that agent_framework shows as an empty success, though the service says
    failed, incomplete or cancelled, has that status; one that asks for an approval fails with the code
    "input_required", since it cannot be given.

    **Background responses.** Where the agent's options, or `extra`, say {"background": True}, a response whose stream
    breaks is polled to its end. agent_framework cannot cancel it: after `handle.cancel()` it goes on at the service.

    Args:
        agent: An agent, such as `agent_framework.Agent`, or a workflow's `as_agent()`.
        idempotent: Doing the work twice does no harm.
        limit: How many runs are at work at a time; others are queued.
        keep: For how many seconds a run that has ended is kept for polls and streams.
        poll: When to poll a background response.
    """

    name = "agent_framework"

    def __init__(
        self,
        agent: FrameworkAgent,
        *,
        idempotent: bool = False,
        limit: int = 100,
        keep: float = 3600.0,
        poll: PollPolicy | None = None,
    ) -> None:
        _require_agent(agent)
        super().__init__(self._work, idempotent=idempotent, limit=limit, keep=keep)
        self._agent = agent
        self._run_agent: Callable[..., Any] = agent.run
        self._takes_options = "options" in inspect.signature(agent.run).parameters
        self._poll = poll or PollPolicy()

    def __repr__(self) -> str:
        return f"AgentFrameworkAgent({self._agent.name or self._agent.id})"

    def _start(self, request: StartRequest, key: str | None) -> Work:
        ask(request, takes_options=self._takes_options)  # refused before there is a run
        return super()._start(request, key)

    def _reason(self, error: BaseException) -> RunErrorInfo:
        return reason(error) or super()._reason(error)

    async def _work(self, run: LocalRun) -> Ending:
        asked = ask(run.request, takes_options=self._takes_options)
        told = Told(run)
        try:
            async with await _streamed(self._run_agent(asked.messages, stream=True, **asked.settings)) as stream:
                async for update in stream:
                    told.take(update)

                await stream.get_final_response()  # what the agent does after a run is done here
        except Exception:
            if self._pending(told) is None:
                raise

        if (token := self._pending(told)) is not None:
            async with asyncio.timeout(self._poll.max_age):
                await self._poll_to_end(told, token, asked.options)

        return conclude(told.whole(), run.request)

    def _pending(self, told: Told) -> Any:
        """The token of a background response that has not ended, if it can be polled."""
        return told.background() if self._takes_options else None

    async def _poll_to_end(self, told: Told, token: Any, options: dict[str, Any]) -> None:
        """Ask how a background response stands until it has ended, and with it those that its tools lead to."""
        now = asyncio.get_running_loop().time
        began, failures, acted = now(), 0, asyncio.Event()
        while token is not None:
            policy = self._poll
            delay = policy.after_fault(failures, random.random) if failures else None
            await asyncio.sleep(policy.interval(now() - began, random.random) if delay is None else delay)
            acted.clear()
            try:
                response = await self._ask_again({**options, "continuation_token": token}, acted)
            except Exception as error:
                failures += 1
                if acted.is_set() or failures >= ATTEMPTS or not will_pass(error):
                    raise
            else:
                failures, token = 0, told.poll(token, response)

    async def _ask_again(self, options: dict[str, Any], acted: asyncio.Event) -> AgentResponse[Any]:
        """One poll. It runs the tools that the response calls, and is not to be repeated once it has `acted`."""
        from agent_framework import function_middleware

        @function_middleware
        async def note(_: FunctionInvocationContext, call_next: Callable[[], Awaitable[None]]) -> None:
            acted.set()
            await call_next()

        response: AgentResponse[Any] = await self._run_agent(options=options, client_kwargs={"middleware": [note]})
        return response


def _require_agent(agent: object) -> None:
    try:
        from agent_framework import SupportsAgentRun
    except ModuleNotFoundError as error:
        raise UsageError(
            "AgentFrameworkAgent needs Microsoft's agent-framework: pip install 'agentbg[agent-framework]'."
        ) from error

    if not isinstance(agent, SupportsAgentRun):
        raise UsageError(
            f"AgentFrameworkAgent takes an agent, such as agent_framework.Agent(client); not {agent!r:.80}."
        )


async def _streamed(made: Any) -> ResponseStream[AgentResponseUpdate, AgentResponse[Any]]:
    """What `run(stream=True)` gave as a stream: agents of one's own may give an iterator, or a coroutine of one."""
    from agent_framework import AgentResponse, ResponseStream

    if not isinstance(made, ResponseStream):
        made = ResponseStream(await made if inspect.isawaitable(made) else made, finalizer=AgentResponse.from_updates)

    return cast("ResponseStream[AgentResponseUpdate, AgentResponse[Any]]", made)
