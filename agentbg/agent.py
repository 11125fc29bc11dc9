"""What to ask, and the seed's own way of asking: you hold the token, you drive."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Self, TypeVar, cast, overload
from uuid import uuid4

from .calls import Calls, raise_if_not_started
from .clock import Clock, SystemClock
from .core.messages import Started
from .core.model import JSON, Snapshot, StartRequest
from .core.position import Position
from .core.record import RunRecord
from .core.response import AgentRunResponse, Message, build_response, read_message
from .core.run import Run
from .core.schedule import PollPolicy, RetryPolicy, StreamPolicy
from .core.token import ContinuationToken
from .core.update import AgentRunResponseUpdate, TokenIssuer
from .errors import UsageError
from .follow import follow
from .output import Output
from .providers.base import Cap, Provider, Resume
from .stream import ResumableStream
from .thread import AgentThread

T = TypeVar("T")
Input = str | Message | JSON | Sequence["Message | JSON"]
"""A text, a message, or a list of messages or of raw items in the shape of the Responses API."""


@dataclass(slots=True)
class AgentRunOptions:
    """How to run. With a token, a run is polled or resumed instead of started."""

    allow_background_responses: bool = False
    """Let the service work in the background. It may still answer at once."""
    continuation_token: ContinuationToken | str | None = None
    """Of a response, for `run`; of an update, for `run_streaming`; or such a token's text."""
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Parameters of the service itself, JSON-safe, sent with the start as they are; they win over all else."""
    reasoning_effort: str | None = None
    """How much to think, in the model's own word: "low", "medium", "high"."""
    max_output_tokens: int | None = None
    """An answer that needs more, its reasoning included, is incomplete."""
    service_tier: str | None = None
    """What to pay for: "default", "flex", "priority"."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    """Kept with the run at the service, and shown there. What `submit(metadata=…)` keeps stays in your store."""

    def over(self, defaults: AgentRunOptions) -> AgentRunOptions:
        """These options, with `defaults` where they say nothing. Of two mappings, both count."""
        return replace(
            self,
            extra={**defaults.extra, **self.extra},
            metadata={**defaults.metadata, **self.metadata},
            reasoning_effort=self.reasoning_effort or defaults.reasoning_effort,
            max_output_tokens=defaults.max_output_tokens if self.max_output_tokens is None else self.max_output_tokens,
            service_tier=self.service_tier or defaults.service_tier,
        )


class Agent(Generic[T]):
    """A model at a service, with its instructions, tools and output type. Holds no run; safe to share between tasks.

    `tools` are the service's own tools, as dictionaries: {"type": "web_search"}. `output_type` is any type that
    pydantic can describe; its JSON schema goes with each start, strict where that is possible (see `agentbg.output`),
    and `response.value` is then of this type. UsageError for a type that pydantic cannot describe.
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
        tools: Sequence[JSON] = (),
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
        tools: Sequence[JSON] = (),
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
        tools: Sequence[JSON] = (),
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
        tools: Sequence[JSON] = (),
        output_type: object = None,
        options: AgentRunOptions | None = None,
        poll: PollPolicy | None = None,
        stream: StreamPolicy | None = None,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        for tool in tools:
            if not isinstance(tool, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  not all callers are typed
                raise UsageError(
                    f"Tools are the service's own, as dictionaries such as {{'type': 'web_search'}}; "
                    f"{tool!r} is none. Python functions as tools are not supported yet."
                )

        self.provider = provider
        self.name = name
        self.instructions = instructions
        self._options = _check_defaults(options or AgentRunOptions())
        self.tools = tuple(tools)
        self._output: Output[T] | None = None if output_type in (None, str) else Output(output_type)
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

    def get_new_thread(self) -> AgentThread:
        """A new conversation."""
        return AgentThread()

    async def run(
        self,
        input: Input | None = None,
        thread: AgentThread | None = None,
        options: AgentRunOptions | None = None,
    ) -> AgentRunResponse[T]:
        """Start a run and return its first response; or, with a token, poll once.

        With background responses allowed, `response.continuation_token` is not None while the run goes on: wait a
        little, put the token into the options, call again. A run that failed is a response with that status, not an
        exception. Cancelling the call leaves the remote run alive; a start whose answer is lost this way may exist.

        Raises UsageError for input together with a token, for neither, and for a background run without a thread;
        TokenError for a token that is not this service's; ProviderError when the service refuses, or stays unavailable
        over several tries (the token is still good then); SubmitUnknown when a start's answer was lost.
        """
        options = options or AgentRunOptions()
        token = self._check(input, thread, options)
        calls = self.calls()
        if token is not None:
            young = self._clock.wall() - token.issued_at < self._poll.missing_grace
            snapshot = await calls.poll_patiently(token.ref, young=young)
            return self._answer(snapshot, token, thread)

        assert input is not None, "checked above"
        seen = await calls.start(self.request(input, thread, options), key=new_run_id())
        raise_if_not_started(seen, run_id=None)
        assert isinstance(seen, Started), "raised otherwise"
        snapshot = seen.snapshot
        if thread is not None:
            thread.ask(read_input(input))

        issuer = TokenIssuer(snapshot.ref, self._clock.wall(), streamed=False) if snapshot.ref else None
        return self._answer(snapshot, issuer.issue(Position()) if issuer else None, thread)

    def run_streaming(
        self,
        input: Input | None = None,
        thread: AgentThread | None = None,
        options: AgentRunOptions | None = None,
    ) -> ResumableStream:
        """Start a run and stream its updates; or, with a token, go on exactly after the update that carried it.

        A cut connection is taken up again from the last update; when the service no longer streams the run, it is
        polled, and what is missing comes at the end. With background responses allowed, every update but the last
        carries its own token.

        Raises UsageError and TokenError at once, as `run` does; nothing is sent before the first update is asked for.
        Iterating raises ProviderError when the service refuses, SubmitUnknown when a start's answer was lost. A failed
        run is an END update with that `response`. Closing the stream, or cancelling who iterates, leaves the remote run
        alive.
        """
        options = options or AgentRunOptions()
        token = self._check(input, thread, options)
        record = self.record(token, self._clock.wall(), None if token else self.request(input or "", thread, options))
        return ResumableStream(self._follow(record, read_input(input) if input is not None else [], thread))

    # --- what the runtime asks an agent for ---

    def calls(self, idle: float | None = None) -> Calls:
        """The calls to this agent's provider; a stream that is silent for `idle` seconds is dead."""
        return Calls(self.provider, random.random, self._stream.idle if idle is None else idle, self._retry)

    def request(
        self, input: Input, thread: AgentThread | None = None, options: AgentRunOptions | None = None
    ) -> StartRequest:
        """What to send to start a run. Raises UsageError for what cannot be sent: nothing, or what is no JSON."""
        messages = read_input(input)
        options = (options or AgentRunOptions(allow_background_responses=True)).over(self._options)
        extra = dict(options.extra)
        if "stream" in extra:
            raise UsageError("Whether a run is streamed is said by the call: run_streaming, or submit(…, stream=True).")

        kept = Cap.PREVIOUS in self.provider.caps
        if thread is not None and not kept:
            messages = [*thread.messages, *messages]

        request = StartRequest(
            input=[message.item for message in messages],
            instructions=self.instructions,
            tools=self.tools,
            output_schema=self._output.schema if self._output else None,
            output_strict=self._output is not None and self._output.strict,
            background=bool(extra.get("background", options.allow_background_responses)),
            previous=thread.last if thread is not None and kept else None,
            extra=extra,
            reasoning_effort=options.reasoning_effort,
            max_output_tokens=_positive(options.max_output_tokens),
            service_tier=options.service_tier,
            metadata=options.metadata,
        )
        _require_json([request.input, request.tools, request.extra, request.metadata])
        return request

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

    def parse(self, text: str) -> T:
        """A final text as an instance of the output type. Raises pydantic's ValidationError."""
        return cast("T", text) if self._output is None else self._output.parse(text)

    # --- small parts ---

    def _check(
        self, input: Input | None, thread: AgentThread | None, options: AgentRunOptions
    ) -> ContinuationToken | None:
        token = options.continuation_token
        if token is not None and not isinstance(token, ContinuationToken):
            token = ContinuationToken.parse(token)

        if options.allow_background_responses and thread is None:
            raise UsageError("A background run needs a thread to belong to: pass thread=agent.get_new_thread().")

        if token is None:
            if input is None:
                raise UsageError("There is nothing to run: pass an input, or options with a continuation token.")

            return None

        if input is not None:
            raise UsageError(
                "No input may come with a continuation token: the token continues the run as it was started."
            )

        token.check(provider=self.provider.name, endpoint=self.provider.endpoint)
        token.check_age(self._clock.wall(), self.provider.retention)
        return token

    def _answer(
        self, snapshot: Snapshot, token: ContinuationToken | None, thread: AgentThread | None
    ) -> AgentRunResponse[T]:
        response = build_response(snapshot, token, self.parse)
        if thread is not None:
            thread.conclude(response, snapshot.ref)

        return response

    async def _follow(
        self, record: RunRecord, asked: Sequence[Message], thread: AgentThread | None
    ) -> AsyncGenerator[AgentRunResponseUpdate, None]:
        age = max(self._clock.wall() - record.created_at, 0.0)
        run = Run(
            record,
            poll=self._poll,
            stream=self._stream,
            draw=random.random,
            now=self._clock.now(),
            age=age,
            parse=self.parse,
        )
        async with aclosing(follow(run, self.calls(), self._clock, start=record.request)) as updates:
            async for update in updates:
                if thread is not None:
                    thread.ask(asked)
                    asked = []
                    if update.response is not None:
                        thread.conclude(update.response, record.ref)

                yield update


def new_run_id() -> str:
    """An id for a run: ours, unique, and no secret."""
    return f"run_{uuid4().hex}"


def read_input(input: Input) -> list[Message]:
    """An input as messages."""
    if isinstance(input, str):
        return [Message("user", input)]

    items = [input] if isinstance(input, (Message, Mapping)) else input
    messages = [item if isinstance(item, Message) else read_message(item) for item in items]
    if not messages:
        raise UsageError("The input is empty: pass a text, a message, or a list of at least one.")

    return messages


def _check_defaults(options: AgentRunOptions) -> AgentRunOptions:
    if options.allow_background_responses or options.continuation_token is not None:
        raise UsageError(
            "An agent's options are defaults for all of its runs. Whether a run is in the background, and which one a "
            "token continues, is said with the run."
        )

    return options


def _positive(tokens: int | None) -> int | None:
    if tokens is not None and tokens < 1:
        raise UsageError(f"max_output_tokens must be 1 or more, or None for no bound; not {tokens}.")

    return tokens


def _require_json(value: Any) -> None:
    """Found before it is sent, since a start that breaks on its way could not be told from one that was lost."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"The request cannot be written as JSON: {error}. Use dictionaries, lists, texts that UTF-8 can carry, "
            f"finite numbers, booleans and None."
        ) from error
