"""What streams meet in the wild, as far as no other test has it; and that each case of the table has its test.

Where nobody knows what a service does, each thing that it may do is a case.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from agentbg import (
    AgentRunOptions,
    AgentRunResponseUpdate,
    AgentRuntime,
    RequestRejected,
    RunNotFound,
    RunStatus,
    SubmitUnknown,
    UpdateType,
)
from agentbg.testing.server import (
    CorruptEvent,
    CutAfterEvent,
    DeadAtEnd,
    DropStart,
    EmptyBody,
    ErrorEvent,
    Exchange,
    Fault,
    FullReplay,
    HtmlInsteadOfSse,
    JsonInsteadOfSse,
    Keepalives,
    NoTerminalEvent,
    PollHint,
    Reply,
    ResponsesServer,
    Run,
    Script,
    Stall,
    Status,
    Step,
    StreamFault,
    TooOld,
)
from agentbg.testing.server.fault import Serve
from agentbg.testing.server.wire import TERMINAL_EVENTS, encode, error_body, new_id

from .helpers import POLL, RESTLESS, ROOT, STREAM, agent_of, background, bounded, check, joined
from .stream_cases import CASES

STORY = Script.story(40)
WORDS = "".join(STORY.items[0].pieces)
EVENTS = 49
FOR_EVER = STORY.lasting(running=math.inf)

Way = Callable[..., Awaitable[Sequence[AgentRunResponseUpdate]]]


async def by_runtime(server: ResponsesServer, **policies: Any) -> Sequence[AgentRunResponseUpdate]:
    policies = {"poll": POLL, "stream": STREAM, **policies}
    async with agent_of(server) as agent, AgentRuntime(**policies) as runtime, bounded():
        handle = await runtime.submit(agent, "a story", stream=True)
        updates = [update async for update in handle.stream()]
        assert updates == [update async for update in handle.stream()], "the store holds what was seen"
        return updates


async def by_agent(server: ResponsesServer, **policies: Any) -> Sequence[AgentRunResponseUpdate]:
    async with agent_of(server, **policies) as agent, bounded():
        return [update async for update in agent.run_streaming("a story", agent.get_new_thread(), background())]


ways = pytest.mark.parametrize("way", [by_runtime, by_agent])
on_both_wires = pytest.mark.usefixtures("wire")


def status_of(updates: Sequence[AgentRunResponseUpdate]) -> RunStatus:
    response = updates[-1].response
    assert response is not None
    return response.status


# --- faults that only these tests need ---


@dataclass(frozen=True)
class EndNumbered(StreamFault):
    """The terminal event has a number of its own."""

    number: int | None = 0
    times: int | None = field(default=None, kw_only=True)

    def rewrite(self, exchange: Exchange, run: Run, steps: Iterator[Step]) -> Iterator[Step]:
        for step in steps:
            ends = isinstance(step, dict) and step["type"] in TERMINAL_EVENTS
            yield {**step, "sequence_number": self.number} if ends and isinstance(step, dict) else step


@dataclass(frozen=True)
class SecondLife(StreamFault):
    """After `n` events the run begins again on the same connection, with the same numbers, or going on from `n`."""

    n: int = 0
    renumbered: bool = False
    first_says: str = ""
    """What every delta says before that, if it is something else."""

    def rewrite(self, exchange: Exchange, run: Run, steps: Iterator[Step]) -> Iterator[Step]:
        for event in run.events[: self.n]:
            yield {**event, "delta": self.first_says} if self.first_says and "delta" in event else event

        for number, event in enumerate(run.events, self.n if self.renumbered else 0):
            yield {**event, "sequence_number": number}


@dataclass(frozen=True)
class AnotherId(Fault):
    """Each answer to a GET gives the run another id."""

    on: str = field(default="GET", kw_only=True)
    times: int | None = field(default=None, kw_only=True)

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        reply, run, name = serve(), exchange.run, new_id("resp")
        if run is None:
            return reply

        if isinstance(reply.body, bytes):
            return reply.with_body(reply.body.replace(run.id.encode(), name.encode()))

        return reply.with_body(self._renamed(reply.body, name))

    def _renamed(self, steps: Iterator[Step], name: str) -> Iterator[Step]:
        for step in steps:
            named = isinstance(step, dict) and "response" in step
            yield {**step, "response": {**step["response"], "id": name}} if named and isinstance(step, dict) else step


@dataclass(frozen=True)
class CancelIgnored(Fault):
    """A cancel is answered with a good status, and the run goes on all the same."""

    status: str = "cancelled"
    on: str = field(default="cancel", kw_only=True)

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        assert exchange.run is not None
        return Reply(encode({"id": exchange.run.id, "status": self.status, "output": []}))


@dataclass(frozen=True)
class OnlyAnError(Fault):
    """The whole stream is one error, in one of its shapes."""

    nested: bool = False

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        error = {"code": "server_error", "message": "No."}
        event = {"type": "error", "sequence_number": 0, **({"error": error} if self.nested else error)}
        return Reply.stream(iter((event,)))


def refusal(message: str, status: int = 400, **fields: str | None) -> Status:
    return Status(status, body=error_body(message, **fields), on="attach", times=None)


# --- the table ---


def collect(files: Iterable[str]) -> set[tuple[str, str]]:
    """The tests in these files, as pytest finds them: file and function, and the parameters."""
    paths = [f"tests/{file}" for file in sorted(files)]
    command = [sys.executable, "-m", "pytest", "--collect-only", "--verbosity=-1", "-p", "no:cacheprovider", *paths]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    node = re.compile(r"^tests/([\w/]+\.py)(?:::Test\w+)?::(\w+)(?:\[(.*)\])?$", re.MULTILINE)
    return {(f"{file}::{function}", parameters or "") for file, function, parameters in node.findall(listed)}


def exists(name: str, tests: Iterable[tuple[str, str]]) -> bool:
    """Whether there is a test that a name of the table stands for."""
    function, _, parameter = name.removesuffix("]").partition("[")
    return any(function == each and f"-{parameter}-" in f"-{of_each}--" for each, of_each in tests)


def test_every_case_of_the_table_has_its_tests_and_the_readme_counts_them() -> None:
    named = {name for case in CASES.values() for name in case.tests}
    functions = {name.partition("[")[0] for name in named}
    tests = collect({name.partition("::")[0] for name in named})
    assert [name for name in sorted(named) if not exists(name, tests)] == [], "there is no such test"
    assert [name for name, case in CASES.items() if not case.tests] == [], "these have no test"

    here = {function for function, _ in tests if function.startswith("e2e/test_stream_cases.py")}
    assert [function for function in here - functions if "of_the_table" not in function] == [], "of no case"

    print(f"{len(CASES)} cases; {len(named)} names of tests, which are {len(functions)} functions")
    (count,) = re.findall(r"(\d+) ways in which a stream", (ROOT / "README.md").read_text("utf-8"))
    assert int(count) == len(CASES), "the README is to say how many there are"


# --- streams that arrive exactly, whatever the service does ---

EXACT: dict[str, Sequence[Fault]] = {
    "an end below the cursor": [EndNumbered(0)],
    "an end below the cursor, after a cut": [CutAfterEvent(30), EndNumbered(0)],
    "an end without a number": [EndNumbered(None)],
    "two lives with the same numbers": [SecondLife(20)],
    "two lives with the same numbers, the first nearly whole": [SecondLife(EVENTS - 1)],
    "another id on every answer": [CutAfterEvent(20), CutAfterEvent(9, on="attach"), AnotherId()],
    "polls that say queued for ever": [
        CutAfterEvent(20, "clean"),
        EmptyBody(on="attach", times=2),
        Status(200, body={"status": "queued", "output": []}, on="poll", times=None),
    ],
    "the connection stays open after the end": [Stall(None)],
}


@on_both_wires
@ways
@pytest.mark.parametrize("name", EXACT)
async def test_oddities_that_cost_a_consumer_nothing(way: Way, name: str) -> None:
    async with ResponsesServer(script=STORY, faults=EXACT[name]) as server:
        updates = await way(server)
        check(updates, WORDS)

        assert status_of(updates) is RunStatus.COMPLETED
        assert [update.text for update in updates if update.type is UpdateType.TEXT] == list(STORY.items[0].pieces)
        assert UpdateType.RESET not in [update.type for update in updates]
        assert server.count("create") == 1


# --- streams that say something that does not stand ---


@on_both_wires
@ways
@pytest.mark.parametrize("renumbered", [True, False])
async def test_a_second_life_that_says_something_else_takes_the_first_back(way: Way, renumbered: bool) -> None:
    fault = SecondLife(20, renumbered=renumbered, first_says="No. ")
    async with ResponsesServer(script=STORY, faults=[fault]) as server:
        updates = await way(server)
        check(updates, WORDS)
        assert UpdateType.RESET in [update.type for update in updates]


@on_both_wires
@ways
async def test_a_run_that_completes_with_nothing_after_it_was_streamed_takes_it_back(way: Way) -> None:
    empty = Status(200, body={"status": "completed", "output": [], "usage": None}, on="poll", times=None)
    faults = [CutAfterEvent(20), refusal("Gone."), empty]
    async with ResponsesServer(script=STORY, faults=faults) as server:
        updates = await way(server)
        check(updates, "")
        assert UpdateType.RESET in [update.type for update in updates]
        assert status_of(updates) is RunStatus.COMPLETED


# --- cursors at the end, and streams that are refused ---

AT_THE_END: dict[str, Fault] = {
    "nothing": EmptyBody(on="attach", times=None),
    "silence": Stall(0, on="attach", times=None),
    "silence at the end only": DeadAtEnd(),
    "everything again": FullReplay(),
    "json": JsonInsteadOfSse(on="attach", times=None),
    "html": HtmlInsteadOfSse(on="attach", times=None),
    "a connection that breaks": CutAfterEvent(0, "fin", on="attach", times=None),
    "400": refusal("Invalid 'starting_after'.", param="starting_after"),
    "404": Status(404, on="attach", times=None),
    "409": refusal("The cursor has expired.", 409, code="stream_cursor_expired"),
    "410": Status(410, on="attach", times=None),
    "416": Status(416, on="attach", times=None),
}


@on_both_wires
@ways
@pytest.mark.parametrize("name", AT_THE_END)
async def test_a_cursor_at_the_end_brings_the_end_whatever_it_is_answered(way: Way, name: str) -> None:
    """All events but the last have come."""
    async with ResponsesServer(script=STORY, faults=[CutAfterEvent(EVENTS - 1, "clean"), AT_THE_END[name]]) as server:
        updates = await way(server, stream=RESTLESS if "silence" in name else STREAM)
        check(updates, WORDS)
        assert status_of(updates) is RunStatus.COMPLETED
        assert [update.text for update in updates if update.type is UpdateType.TEXT] == list(STORY.items[0].pieces)


@on_both_wires
@ways
@pytest.mark.parametrize("how", ["clean", "hang"])
async def test_a_last_event_that_is_broken_is_asked_for_again(way: Way, how: Any) -> None:
    faults = [CorruptEvent(EVENTS - 1), NoTerminalEvent(how, on="attach", times=None)]
    async with ResponsesServer(script=STORY, faults=faults) as server:
        check(await way(server, stream=RESTLESS), WORDS)


TOO_OLD = "This response can no longer be streamed because it is more than 5 minutes old."
REFUSALS: dict[str, Fault] = {
    "too old": TooOld(),
    "too old, another code": refusal(TOO_OLD, param="stream", code="stream_expired"),
    "too old, another param": refusal(TOO_OLD, param="starting_after", code="invalid_value"),
    "too old, no code and no param": refusal(TOO_OLD),
    "not of the background": refusal(
        "This response cannot be streamed because it was not created with background=true.",
        param="stream",
        code="invalid_request_error",
    ),
    "not created with stream": refusal(
        "This response cannot be streamed because it was not created with stream=true.", param="stream"
    ),
    "kept no longer": refusal(
        "This response cannot be streamed because it was not created with stream=true or the stream TTL has expired."
    ),
    "no json": Status(400, body=b"Bad Request", on="attach", times=None),
    "405": Status(405, on="attach", times=None),
    "422": Status(422, on="attach", times=None),
}


@on_both_wires
@ways
@pytest.mark.parametrize("name", REFUSALS)
async def test_a_stream_that_is_refused_is_polled_and_not_asked_for_again(way: Way, name: str) -> None:
    script = STORY.lasting(running=0.05)
    async with ResponsesServer(script=script, faults=[CutAfterEvent(20), REFUSALS[name], PollHint(20)]) as server:
        updates = await way(server)
        check(updates, WORDS)
        assert status_of(updates) is RunStatus.COMPLETED
        assert UpdateType.RESET not in [update.type for update in updates]
        assert server.count("attach") == 1
        assert 1 <= server.count("poll") <= 6


@on_both_wires
@ways
async def test_a_reconnect_names_the_cursor_and_nothing_else(way: Way) -> None:
    async with ResponsesServer(script=STORY, faults=[CutAfterEvent(20)]) as server:
        check(await way(server), WORDS)
        gets = [request for request in server.requests if request.method == "GET"]
        assert [request.query for request in gets] == [{"stream": "true", "starting_after": "19"}]


async def test_what_a_start_asks_to_be_shown_is_not_asked_of_polls_and_reconnects() -> None:
    faults = [CutAfterEvent(20), CutAfterEvent(9, on="attach"), TooOld(after=1)]
    options = AgentRunOptions(include=["reasoning.encrypted_content"])
    async with ResponsesServer(script=STORY, faults=faults) as server:
        async with agent_of(server) as agent, AgentRuntime(poll=POLL, stream=STREAM) as runtime, bounded():
            handle = await runtime.submit(agent, "a story", stream=True, options=options)
            check([update async for update in handle.stream()], WORDS)

        assert server.requests[0].json is not None
        assert server.requests[0].json["include"] == ["reasoning.encrypted_content"]
        gets = [request for request in server.requests if request.method == "GET"]
        assert {name for request in gets for name in request.query} == {"stream", "starting_after"}
        assert server.count("poll") == 1


# --- streams that there are none of ---


async def test_a_run_that_was_started_without_a_stream_is_never_attached_to() -> None:
    async with ResponsesServer(script=STORY.lasting(running=0.05)) as server:
        async with agent_of(server) as agent, AgentRuntime(poll=POLL) as runtime, bounded():
            handle = await runtime.submit(agent, "a story")
            check([update async for update in handle.stream()], WORDS)

            first = await agent.run("a story", agent.get_new_thread(), background())
            assert first.continuation_token is not None
            options = AgentRunOptions(continuation_token=str(first.continuation_token))
            check([update async for update in agent.run_streaming(options=options)], WORDS, after=first_seq(first))

        assert server.count("attach") == 0


def first_seq(response: Any) -> int:
    """The number of the last update that a response stands for."""
    return int(response.continuation_token.position.seq)


@on_both_wires
async def test_a_foreground_stream_that_is_cut_never_looks_finished() -> None:
    """A run in the foreground cannot be read while it runs, nor be streamed again."""
    poll = replace(POLL, missing_grace=0.05)
    async with ResponsesServer(script=FOR_EVER, faults=[CutAfterEvent(20)]) as server, bounded():
        async with agent_of(server, poll=poll) as agent:
            updates = [update async for update in agent.run_streaming("a story")]

        assert joined(updates)
        assert WORDS.startswith(joined(updates))
        check(updates, joined(updates))
        assert status_of(updates) is RunStatus.EXPIRED
        assert server.count("create") == 1


# --- starts ---


@on_both_wires
@ways
@pytest.mark.parametrize("nested", [True, False])
async def test_a_stream_that_is_nothing_but_an_error_is_a_failed_run(way: Way, nested: bool) -> None:
    async with ResponsesServer(script=STORY, faults=[OnlyAnError(nested, on="create")]) as server:
        updates = await way(server)
        check(updates, "")
        assert status_of(updates) is RunStatus.FAILED
        assert server.count("create") == 1


@ways
async def test_a_service_that_has_no_streams_in_the_background_says_so_at_the_start(way: Way) -> None:
    body = error_body("background and stream cannot be used together.")
    async with ResponsesServer(script=STORY, faults=[Status(400, body=body, on="create")]) as server:
        with pytest.raises(RequestRejected, match="cannot be used together"):
            await way(server)

        assert server.count("create") == 1


@ways
@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_lost_start_is_not_sent_again_whether_or_not_the_service_knows_keys(way: Way, idempotent: bool) -> None:
    async with ResponsesServer(script=STORY, faults=[DropStart("after")], idempotent=idempotent) as server:
        with pytest.raises(SubmitUnknown):
            await way(server)

        assert server.count("create") == 1


@pytest.mark.parametrize("locks", [True, False])
async def test_the_next_turn_is_streamed_whether_or_not_a_run_locks_its_conversation(locks: bool) -> None:
    scripts = [STORY.lasting(running=0.1), Script.text("The end.")]
    async with ResponsesServer(script=scripts, background_locks=locks) as server, agent_of(server) as agent, bounded():
        first = agent.get_new_thread(conversation="conv_1")
        await agent.run("a story", first, background())
        second = agent.get_new_thread(conversation="conv_1")
        updates = [update async for update in agent.run_streaming("and then?", second, background())]
        check(updates, "The end.")
        assert len(server.runs) == 2
        assert (server.count("create") > 2) is locks


# --- runs that do not get on ---


@pytest.mark.parametrize("then", ["silence", "nothing", "400", "404"])
async def test_a_run_that_is_queued_for_ever_after_its_stream_was_cut_ends_at_its_deadline(then: str) -> None:
    faults = [CutAfterEvent(1), AT_THE_END[then]]
    async with ResponsesServer(script=STORY.lasting(queued=math.inf), faults=faults) as server:
        async with agent_of(server) as agent, AgentRuntime(poll=POLL, stream=RESTLESS) as runtime, bounded():
            handle = await runtime.submit(agent, "a story", stream=True, deadline=0.4)
            assert await handle.wait() is RunStatus.EXPIRED
            check([update async for update in handle.stream()], "")

        assert server.count("create") == 1


@on_both_wires
@ways
@pytest.mark.parametrize("shape", ["nested", "flat"])
async def test_a_start_that_stalls_under_keepalives_and_then_fails_has_failed(way: Way, shape: Any) -> None:
    faults = [Keepalives(first=10), ErrorEvent(12, shape, then_failed=True)]
    async with ResponsesServer(script=STORY, faults=faults) as server:
        updates = await way(server)
        check(updates, "")
        assert status_of(updates) is RunStatus.FAILED
        assert server.count("create") == 1


@ways
@pytest.mark.parametrize("fault", [None, Keepalives(every=0.1)], ids=["in silence", "with keepalives"])
async def test_a_run_that_is_slow_to_begin_is_waited_for(way: Way, fault: Fault | None) -> None:
    script = STORY.lasting(queued=0.5)
    async with ResponsesServer(script=script, faults=[fault] if fault else []) as server:
        check(await way(server, stream=replace(RESTLESS, attempts=50)), WORDS)
        assert server.count("create") == 1


async def test_a_run_whose_service_was_killed_keeps_its_text_and_ends_at_its_deadline() -> None:
    faults = [CutAfterEvent(20, "rst"), EmptyBody(on="attach", times=None), Status(404, on="cancel")]
    async with (
        ResponsesServer(script=FOR_EVER, faults=faults) as server,
        agent_of(server) as agent,
        AgentRuntime(poll=POLL, stream=STREAM) as runtime,
        bounded(),
    ):
        handle = await runtime.submit(agent, "a story", stream=True, deadline=0.5)
        with pytest.raises(RunNotFound):
            await handle.cancel()

        assert await handle.wait() is RunStatus.EXPIRED
        updates = [update async for update in handle.stream()]
        check(updates, handle.response.text)
        assert joined(updates)
        assert WORDS.startswith(joined(updates))


@on_both_wires
@ways
async def test_a_run_that_is_deleted_while_it_is_streamed_expires_and_keeps_its_text(way: Way) -> None:
    faults = [CutAfterEvent(20), Status(404, times=None)]
    async with ResponsesServer(script=STORY, faults=faults) as server:
        updates = await way(server, poll=replace(POLL, missing_grace=0.05))
        assert joined(updates)
        assert WORDS.startswith(joined(updates))
        check(updates, joined(updates))
        assert status_of(updates) is RunStatus.EXPIRED


# --- ends of every kind ---

ENDS: dict[str, tuple[Script, RunStatus, str]] = {
    "completed": (STORY, RunStatus.COMPLETED, WORDS),
    "completed with nothing": (Script(), RunStatus.COMPLETED, ""),
    "incomplete": (Script.incomplete("Once upon a"), RunStatus.INCOMPLETE, "Once upon a"),
    "incomplete with nothing": (Script((), "incomplete", reason="content_filter"), RunStatus.INCOMPLETE, ""),
    "failed": (Script.failed(after="Once upon a"), RunStatus.FAILED, "Once upon a"),
    "cancelled": (replace(Script.text("Once upon a"), status="cancelled"), RunStatus.CANCELLED, "Once upon a"),
}


@on_both_wires
@ways
@pytest.mark.parametrize("how", ["shown", "cut before it", "not shown", "silence instead"])
@pytest.mark.parametrize("end", ENDS)
async def test_every_end_is_seen_be_it_shown_or_not(way: Way, end: str, how: str) -> None:
    script, status, text = ENDS[end]
    faults: dict[str, Sequence[Fault]] = {
        "shown": [],
        "cut before it": [NoTerminalEvent("fin")],
        "not shown": [NoTerminalEvent("clean", times=None)],
        "silence instead": [NoTerminalEvent("hang", times=None)],
    }
    stream = RESTLESS if how == "silence instead" else STREAM
    async with ResponsesServer(script=script, faults=faults[how]) as server:
        updates = await way(server, stream=stream)
        check(updates, text)
        assert status_of(updates) is status
        assert UpdateType.RESET not in [update.type for update in updates]


# --- after a cancel ---

AFTER_A_CANCEL: dict[str, Sequence[Fault]] = {
    "a failure that says cancelled": [],
    "no end": [NoTerminalEvent("clean", times=None)],
    "a broken connection": [NoTerminalEvent("fin", times=None)],
    "silence": [NoTerminalEvent("hang", times=None)],
    "the run goes on": [CancelIgnored("cancelled")],
    "the run goes on, as the answer says": [CancelIgnored("in_progress")],
    "no more streams": [NoTerminalEvent("clean", times=None), TooOld(times=None)],
    "its answer is lost": [DropStart("after", on="cancel")],
    "its answer is lost, and no end": [DropStart("after", on="cancel"), NoTerminalEvent("clean", times=None)],
}


@on_both_wires
@pytest.mark.parametrize("name", AFTER_A_CANCEL)
async def test_a_cancel_ends_the_stream_whatever_the_service_does_with_it(name: str) -> None:
    script = STORY.lasting(delay=0.01)
    async with (
        ResponsesServer(script=script, faults=AFTER_A_CANCEL[name]) as server,
        agent_of(server) as agent,
        AgentRuntime(poll=POLL, stream=RESTLESS) as runtime,
        bounded(),
    ):
        handle = await runtime.submit(agent, "a story", stream=True)
        updates: list[AgentRunResponseUpdate] = []
        async with handle.stream() as stream:
            async for update in stream:
                updates.append(update)
                if len(updates) == 15:
                    await handle.cancel()

    goes_on = name == "the run goes on, as the answer says"
    assert status_of(updates) is (RunStatus.COMPLETED if goes_on else RunStatus.CANCELLED)
    check(updates, WORDS if goes_on else joined(updates))
    assert WORDS.startswith(joined(updates))
