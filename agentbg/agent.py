"""What to ask, and the seed's own way of asking: you hold the token, you drive."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from secrets import token_hex
from typing import Any, Generic, Self, TypeVar, cast, overload

from .asking import Asking, Means
from .calls import Calls
from .clock import Clock, SystemClock
from .core.model import JSON, RunRef, StartRequest
from .core.record import RunRecord
from .core.response import AgentRunResponse
from .core.rounds import MAX_ROUNDS, FollowUp, Tooling, ToolRule
from .core.schedule import PollPolicy, RetryPolicy, StreamPolicy
from .core.token import ContinuationToken
from .errors import UsageError
from .gate import Gate
from .inputs import Asked, Input, read_answers, read_input, require_json
from .options import AgentRunOptions, check_defaults, positive
from .output import Output
from .partials import Partials, ReadPartial
from .providers.base import Cap, Provider, Resume
from .stream import ResumableStream
from .thread import AgentThread
from .tools import Tool, Toolset

T = TypeVar("T")
AnyTool = Tool[..., Any] | Callable[..., Any] | JSON
"""A function, one that `agentbg.tool` has dressed, or one of the service's own tools as a dictionary."""


class Agent(Generic[T]):
    """A model at a service, with its instructions, tools and output type. Holds no run; safe to share between tasks.

    `tools` are typed functions of yours (see `agentbg.tools`), and the service's own as dictionaries such as
    {"type": "web_search"}. When the model calls functions, they are made here, those of one round at the same time.
    Each call is noted before it begins, and its output before it is sent, so that none is made twice; then the run goes
    on, in the background as before, for at most `max_rounds` rounds. A call of a tool that requires approval, one that
    nobody here can make, and an approval that the service asks for wait for the user: the run is INPUT_REQUIRED then,
    its `response.requests` say for what, and `handle.respond`, or `run`, takes the answers.

    `output_type` is any type that pydantic can describe; its JSON schema goes with each start, strict where that is
    possible (see `agentbg.output`), and `response.value` is then of this type. UsageError for a type that pydantic
    cannot describe.

    `name` is what a stored run remembers, so that another process finds the agent again. `options` are defaults for
    those of each run: how hard to think, and the like; not whether a run is in the background, or which it is.

    `retry` says how often a start, a cancel, or a poll of `run` is sent again. `poll` and `stream` are for
    `run_streaming` (`run` takes `poll.missing_grace` from it); a runtime has policies of its own.
    """

    @overload
    def __init__(
        self: Agent[str],
        provider: Provider,
        *,
        name: str = "agent",
        instructions: str | None = None,
        tools: Sequence[AnyTool] = (),
        max_rounds: int = MAX_ROUNDS,
        output_type: None = None,
        options: AgentRunOptions | None = None,
        poll: PollPolicy | None = None,
        stream: StreamPolicy | None = None,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        provider: Provider,
        *,
        name: str = "agent",
        instructions: str | None = None,
        tools: Sequence[AnyTool] = (),
        max_rounds: int = MAX_ROUNDS,
        output_type: type[T],
        options: AgentRunOptions | None = None,
        poll: PollPolicy | None = None,
        stream: StreamPolicy | None = None,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: Agent[Any],
        provider: Provider,
        *,
        name: str = "agent",
        instructions: str | None = None,
        tools: Sequence[AnyTool] = (),
        max_rounds: int = MAX_ROUNDS,
        output_type: object,
        options: AgentRunOptions | None = None,
        poll: PollPolicy | None = None,
        stream: StreamPolicy | None = None,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
    ) -> None: ...

    def __init__(
        self,
        provider: Provider,
        *,
        name: str = "agent",
        instructions: str | None = None,
        tools: Sequence[AnyTool] = (),
        max_rounds: int = MAX_ROUNDS,
        output_type: object = None,
        options: AgentRunOptions | None = None,
        poll: PollPolicy | None = None,
        stream: StreamPolicy | None = None,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        if max_rounds < 1:
            raise UsageError(f"max_rounds is how many rounds of calls a run may take: at least 1, not {max_rounds}.")

        self.provider = provider
        self.name = name
        self.instructions = instructions
        self._options = check_defaults(options or AgentRunOptions())
        self._background = AgentRunOptions(allow_background_responses=True).over(self._options)
        self.tools = Toolset(tools)
        self.max_rounds = max_rounds
        self._rules = {
            tool.name: ToolRule(tool.requires_approval, tool.idempotent) for tool in self.tools.by_name.values()
        }
        self._output: Output[T] | None = None if output_type in (None, str) else Output(output_type)
        self.read_partial: ReadPartial | None = None if self._output is None else self._output.partial
        """How a text that may not be whole yet is read."""
        self.parse: Callable[[str], T] | None = None if self._output is None else self._output.parse
        """Makes the output type's instance of a final text, or raises pydantic's ValidationError."""
        self._stateless = Cap.PREVIOUS not in provider.caps
        self._toolings = {whole: Tooling(self._rules, max_rounds, self._follow_up(whole)) for whole in (True, False)}
        self._poll, self._stream = poll or PollPolicy(), stream or StreamPolicy()
        self._retry = retry or RetryPolicy()
        self._clock = clock or SystemClock()

    def __repr__(self) -> str:
        return f"Agent({self.provider!r}, name={self.name!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Release the provider's connections. Runs go on at the service."""
        await self.provider.aclose()

    def get_new_thread(self, *, conversation: str | None = None) -> AgentThread:
        """A new conversation; `conversation` is the id of one that the service keeps.

        Raises UsageError for an id where the service keeps no conversations.
        """
        if conversation is not None and Cap.PREVIOUS not in self.provider.caps:
            raise UsageError(f"{self.provider!r} keeps no conversations: call get_new_thread() without an id.")

        return AgentThread(conversation)

    async def run(
        self,
        input: Asked | None = None,
        thread: AgentThread | None = None,
        options: AgentRunOptions | None = None,
    ) -> AgentRunResponse[T]:
        """Start a run and return its first response; or, with a token, poll once; or go on with the user's answers.

        With background responses allowed, `response.continuation_token` is not None while the run goes on: wait a
        little, put the token into the options, call again. When the model calls functions, they are made in here, and
        the run goes on in the background, with a new token. A run that failed is a response with that status, not an
        exception; one that waits for its user is INPUT_REQUIRED, without a token: answer it by calling `run` with what
        the methods of its `requests` give, and the same thread. Cancelling the call leaves the remote run alive; a
        start whose answer is lost this way may exist, and a call of a tool that is cut off counts as made.

        Raises UsageError for input together with a token, for neither, for a background run without a thread, and for
        a thread whose last run goes on; TokenError for a token that is not this service's; ProviderError when the
        service refuses, or stays unavailable over several tries (the token is still good then); SubmitUnknown when a
        start's answer was lost.
        """
        return cast("AgentRunResponse[T]", await self._asking(input, thread, options).response())

    def run_streaming(
        self,
        input: Asked | None = None,
        thread: AgentThread | None = None,
        options: AgentRunOptions | None = None,
        *,
        partial: bool = False,
    ) -> ResumableStream:
        """Start a run and stream its updates; or, with a token, go on exactly after the update that carried it; or go
        on with the user's answers.

        A cut connection is taken up again from the last update; when the service no longer streams the run, it is
        polled, and what is missing comes at the end. With background responses allowed, every update but the last
        carries its own token. Functions that the model calls are made in here, and the stream goes on after them.

        With `partial`, for agents with an output type, `update.partial` is what of the value has come so far. A token
        brings no text: a stream that goes on in the middle of an answer has no partials (None) until a RESET, the next
        round of tools, or the END.

        Raises UsageError and TokenError at once, as `run` does; nothing is sent before the first update is asked for.
        Iterating raises ProviderError when the service refuses, SubmitUnknown when a start's answer was lost. A failed
        run is an END update with that `response`, one that waits for its user a WAITING update. Closing the stream, or
        cancelling who iterates, leaves the remote run alive, and cancels calls under way.
        """
        asking = self._asking(input, thread, options)
        if not partial:
            return ResumableStream(asking.updates())

        return ResumableStream(Partials(self.read_partial, asking.updates))

    # --- what the runtime asks an agent for ---

    def calls(self, idle: float | None = None, gate: Gate | None = None) -> Calls:
        """The calls to this agent's provider; a stream that is silent for `idle` seconds is dead."""
        return Calls(self.provider, random.random, self._stream.idle if idle is None else idle, self._retry, gate)

    def request(
        self, input: Input, thread: AgentThread | None = None, options: AgentRunOptions | None = None
    ) -> StartRequest:
        """What to send to start a run; without options, in the background. Raises UsageError for what cannot be sent:
        nothing, or what is no JSON."""
        messages = read_input(input)
        options = options.over(self._options) if options is not None else self._background
        if "stream" in options.extra:
            raise UsageError("Whether a run is streamed is said by the call: run_streaming, or submit(…, stream=True).")

        if thread is not None:
            thread.require_idle()

        whole = not self._keeps(thread, options)
        before = thread.items if thread is not None and whole else ()
        request = self._request(
            [*before, *(message.item for message in messages)],
            thread,
            options,
            whole=whole,
            background=bool(options.extra.get("background", options.allow_background_responses)),
            previous=thread.last if thread is not None and not whole else None,
        )
        require_json([request.input, request.tools, request.extra, request.metadata])
        return request

    def tooling(
        self,
        thread: AgentThread | None = None,
        request: StartRequest | None = None,
        options: AgentRunOptions | None = None,
    ) -> Tooling:
        """What a run's machine is to know of this agent: its tools' rules, and how its runs go on.

        That follows from the `request` that the run was started with, as the runtime or the thread knows it; else from
        these options.
        """
        if request is not None:
            return self._toolings[request.whole]

        template = thread.request if thread is not None else None
        if template is None:
            options = options.over(self._options) if options is not None else self._background
            said = [*thread.items, *thread.pending] if thread is not None else ()
            template = self._request(said, thread, options, whole=not self._keeps(thread, options))

        return replace(self._toolings[template.whole], template=template)

    def record(self, token: ContinuationToken | None, wall: float, request: StartRequest | None) -> RunRecord:
        """A new record: of a run to be started by `request`, or of one that a token stands for."""
        record = RunRecord(
            id=new_run_id(),
            agent=self.name,
            provider=self.provider.name,
            endpoint=self.provider.endpoint,
            stream=True,
            created_at=wall,
            request=request,
            refused=self.provider.resume is Resume.NONE,
        )
        if token is not None:
            record.ref, record.position, record.stream = token.ref, token.position, token.streamed
            record.created_at = min(token.issued_at or wall, wall)

        return record

    # --- small parts ---

    def _request(
        self,
        input: Sequence[JSON],
        thread: AgentThread | None,
        options: AgentRunOptions,
        *,
        whole: bool,
        background: bool = True,
        previous: RunRef | None = None,
    ) -> StartRequest:
        kept = thread is not None and thread.conversation is not None and not thread.client_side
        return StartRequest(
            input=input,
            instructions=self.instructions,
            tools=self.tools.definitions,
            output_schema=self._output.schema if self._output else None,
            output_strict=self._output is not None and self._output.strict,
            extra={"conversation": thread.conversation, **options.extra} if thread and kept else options.extra,
            whole=whole,
            reasoning_effort=options.reasoning_effort,
            max_output_tokens=positive(options.max_output_tokens),
            service_tier=options.service_tier,
            completion_window=options.completion_window,
            metadata=options.metadata,
            include=options.include,
            background=background,
            previous=previous,
        )

    def _follow_up(self, whole: bool) -> FollowUp:
        if Cap.RESPOND in self.provider.caps:
            return FollowUp.SAME

        return FollowUp.WHOLE if whole or self._stateless else FollowUp.PREVIOUS

    def _keeps(self, thread: AgentThread | None, options: AgentRunOptions) -> bool:
        """True when the service has what was said in the thread so far, under a name, and keeps what is said now."""
        unstored = self._stateless or options.extra.get("store") is False
        if unstored or (thread is not None and thread.client_side):
            return False

        if thread is None or thread.answer is None or thread.conversation is not None:
            return True

        here, ref = (self.provider.name, self.provider.endpoint), thread.last
        return ref is not None and (ref.provider, ref.endpoint) == here

    def _asking(self, input: Asked | None, thread: AgentThread | None, options: AgentRunOptions | None) -> Asking:
        """What a call is about. Raises UsageError and TokenError for one that cannot be right."""
        options = options or AgentRunOptions()
        tooling = self.tooling(thread, options=options)
        means = Means(self.calls(), self.tools, tooling, self._poll, self._stream, self._clock, self.parse)
        if options.allow_background_responses and thread is None:
            raise UsageError("A background run needs a thread to belong to: pass thread=agent.get_new_thread().")

        wall = self._clock.wall()
        if options.continuation_token is not None:
            token = self._token(options.continuation_token, input)
            if thread is not None and thread.find(token.ref) is None:
                thread.require_idle()

            return Asking(means, self.record(token, wall, None), thread, token=token)

        if input is None:
            raise UsageError("There is nothing to run: pass an input, or options with a continuation token.")

        answers = read_answers(input)
        if answers or (answers is not None and thread is not None and thread.current is not None):
            if thread is None:
                raise UsageError("Answers go to the run of a thread: pass the thread that the run was started with.")

            thread.awaiting()
            return Asking(means, self.record(None, wall, None), thread, answers=answers)

        request = self.request(cast("Input", input), thread, options)
        messages = read_input(cast("Input", input))
        turns = len(thread.turns) if thread is not None else 0
        return Asking(means, self.record(None, wall, request), thread, request=request, messages=messages, turns=turns)

    def _token(self, token: ContinuationToken | str, input: object) -> ContinuationToken:
        if not isinstance(token, ContinuationToken):
            token = ContinuationToken.parse(token)

        if input is not None:
            raise UsageError(
                "No input may come with a continuation token: the token continues the run as it was started."
            )

        token.check(provider=self.provider.name, endpoint=self.provider.endpoint)
        token.check_age(self._clock.wall(), self.provider.retention)
        return token


def resume_stream(
    agent: Agent[Any],
    token: ContinuationToken | str,
    *,
    thread: AgentThread | None = None,
    options: AgentRunOptions | None = None,
    partial: bool = False,
) -> ResumableStream:
    """The stream of a run, exactly after the update that carried `token`, or from a response's on: the same as
    `agent.run_streaming` with the token in its options. It needs no runtime, and no store.

    `thread` is the conversation that the run belongs to, if you have it: it gets the answer. `options` are those of
    `run_streaming`, for the run's later rounds, and `partial` is, too.

    Raises UsageError for options that bring a token of their own, TokenError for a token that is damaged, expired, or
    of another service than the agent's; both at once. Iterating raises, and leaving the stream does, what
    `run_streaming` says.
    """
    options = options or AgentRunOptions()
    if options.continuation_token is not None:
        raise UsageError("resume_stream takes its token as an argument: pass options without a continuation token.")

    return agent.run_streaming(None, thread, replace(options, continuation_token=token), partial=partial)


def new_run_id() -> str:
    """An id for a run: ours, unique, and no secret."""
    return f"run_{token_hex(16)}"
