"""Every fault of the server, through the runtime and without one: the answer is right, whole, and paid for once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import openai
import pytest

from agentbg import (
    Agent,
    AgentRunResponseUpdate,
    AgentRuntime,
    AuthenticationFailed,
    RequestRejected,
    RunFailed,
    RunNotFound,
    RunStatus,
    ServiceUnavailable,
    StreamPolicy,
    SubmitUnknown,
    UpdateType,
)
from agentbg.providers import OpenAIResponses
from agentbg.testing.server import (
    BrokenJson,
    Comments,
    CorruptEvent,
    CutAfterByte,
    CutAfterEvent,
    DeadAtEnd,
    DropStart,
    Duplicate,
    EmptyBody,
    ErrorEvent,
    Fault,
    Fragment,
    FullReplay,
    Gap,
    HtmlBody,
    HtmlInsteadOfSse,
    IgnoreCursorAhead,
    JsonInsteadOfSse,
    Keepalives,
    NoTerminalEvent,
    NotFoundAfterCreate,
    PollHint,
    Renumber,
    ResetNumbering,
    ResponsesServer,
    Script,
    SlowBody,
    Stall,
    Status,
    StatusFlip,
    TerminalNamed,
    TooOld,
    UnknownEvent,
    Unsequenced,
)

from .helpers import POLL, RESTLESS, STREAM, agent_of, background, bounded, check, joined

pytestmark = pytest.mark.usefixtures("wire")

STORY = Script.story(40)
EVENTS = 49

Way = Callable[[ResponsesServer], Awaitable[Sequence[AgentRunResponseUpdate]]]


async def by_runtime(server: ResponsesServer) -> Sequence[AgentRunResponseUpdate]:
    async with agent_of(server) as agent, AgentRuntime(poll=POLL, stream=patience(server)) as runtime, bounded():
        handle = await runtime.submit(agent, "a story", stream=True)
        updates = [update async for update in handle.stream()]
        assert updates == [update async for update in handle.stream()], "the store holds what was seen"
        return updates


async def by_agent(server: ResponsesServer) -> Sequence[AgentRunResponseUpdate]:
    async with agent_of(server, stream=patience(server)) as agent, bounded():
        return [update async for update in agent.run_streaming("a story", agent.get_new_thread(), background())]


def patience(server: ResponsesServer) -> StreamPolicy:
    """Short only where something hangs: a busy machine may be slow, too."""
    hangs = any(isinstance(fault, (Stall, NoTerminalEvent, DeadAtEnd)) for fault in server.faults.faults)
    return RESTLESS if hangs else STREAM


ways = pytest.mark.parametrize("way", [by_runtime, by_agent])

# What goes wrong in a stream: so that all events come all the same; so that they come once it has passed; and so that
# what is missing comes at the end.
EXACT: dict[str, Sequence[Fault]] = {
    "no fault": [],
    "duplicate": [Duplicate(20)],
    "every event fragmented": [Fragment(61)],
    "comments": [Comments(times=None)],
    "keepalives first": [Keepalives(first=3)],
    "keepalives first, without numbers": [Keepalives(first=3, numbered=False)],
    "gap": [Gap(20, 5)],
    "gap, and a cut in it": [Gap(20, 5), CutAfterEvent(20)],
    "gap before the end": [Gap(EVENTS - 1, 7)],
    "full replay": [CutAfterEvent(20), FullReplay()],
    "full replay, again and again": [CutAfterEvent(20), CutAfterEvent(30), CutAfterEvent(40), FullReplay()],
    "cursor ahead": [CutAfterEvent(20), IgnoreCursorAhead()],
    "corrupt event": [CorruptEvent(20)],
    "corrupt event on every connection": [CorruptEvent(20, times=None)],
    "stall": [Stall(20)],
    "reset by the peer": [CutAfterEvent(20, "rst")],
    "an end under another name": [TerminalNamed("response.done")],
}
PASSING: dict[str, Sequence[Fault]] = {
    "html instead of the rest": [CutAfterEvent(20), HtmlInsteadOfSse(after=1)],
    "empty 200 instead of the rest": [CutAfterEvent(20), EmptyBody(on="attach", times=2)],
    "stall before anything new": [CutAfterEvent(20), Stall(0, on="attach")],
    "500 on attach": [CutAfterEvent(20), Status(500, on="attach", times=2)],
    "503 with Retry-After on attach": [CutAfterEvent(20), Status(503, 0.01, on="attach", times=2)],
    "429 on attach": [CutAfterEvent(20), Status(429, 0.01, on="attach", times=2)],
    "404 on attach, just after create": [CutAfterEvent(1), NotFoundAfterCreate(times=2)],
    "500 on attach and poll": [CutAfterEvent(20), Status(500, times=5)],
    "html on attach and poll": [CutAfterEvent(20), HtmlInsteadOfSse(after=1), HtmlBody(times=3)],
}
LOOSE: dict[str, Sequence[Fault]] = {
    **PASSING,
    "json instead of the stream": [JsonInsteadOfSse()],
    "json instead of the rest": [CutAfterEvent(20), JsonInsteadOfSse(on="attach")],
    "too old": [CutAfterEvent(20), TooOld()],
    "too old before a word": [CutAfterEvent(1), TooOld()],
    "too old, and polls that fail": [CutAfterEvent(20), TooOld(), Status(500, on="poll", times=3)],
    "not created with stream": [CutAfterEvent(20), Status(400, on="attach")],
    "no end, cleanly": [NoTerminalEvent("clean", times=None)],
    "no end, hanging": [NoTerminalEvent("hang", times=None)],
    "no end, dead at the end": [NoTerminalEvent("hang"), DeadAtEnd()],
    "an end that is never shown to a stream": [NoTerminalEvent("fin", times=None), DeadAtEnd()],
    "numbers reset": [CutAfterEvent(20), ResetNumbering()],
    "numbers reset early": [CutAfterEvent(3), ResetNumbering()],
    "the item again under new numbers": [CutAfterEvent(20), Renumber()],
    "the item again, twice": [CutAfterEvent(20), Renumber(times=2), CutAfterEvent(30, on="attach")],
    "unknown event": [UnknownEvent(20)],
    "no numbers at all": [Unsequenced(times=None)],
    "no numbers at all, and a cut": [Unsequenced(times=None), CutAfterEvent(20)],
    "deltas without numbers, and a cut": [
        Unsequenced(("response.output_text.delta",), times=None),
        CutAfterEvent(20),
    ],
    "deltas without numbers, cut again and again": [
        Unsequenced(("response.output_text.delta",), times=None),
        CutAfterEvent(20, times=None),
    ],
    "error event, nested, and the run goes on": [ErrorEvent(20)],
    "error event, flat, and the run goes on": [ErrorEvent(20, "flat")],
    "keepalives only": [CutAfterEvent(20), *[EmptyBody(on="attach", times=None)]],
    "html for ever instead of the rest": [CutAfterEvent(20), HtmlInsteadOfSse(on="attach", times=None)],
    "nothing but stalls": [Stall(20), Stall(0, on="attach", times=None)],
}


@ways
@pytest.mark.parametrize("name", EXACT)
async def test_a_fault_in_a_stream_changes_nothing_for_its_consumer(way: Way, name: str) -> None:
    async with ResponsesServer(script=STORY, faults=EXACT[name]) as server:
        updates = await way(server)
        check(updates, server.run().text)

        assert updates[-1].response is not None
        assert updates[-1].response.status is RunStatus.COMPLETED
        assert len(updates) == EVENTS
        assert server.count("create") == 1
        assert len(server.runs) == 1


@ways
@pytest.mark.parametrize("name", PASSING)
async def test_a_service_that_comes_back_while_the_run_goes_on_streams_the_rest(way: Way, name: str) -> None:
    async with ResponsesServer(script=STORY.lasting(running=math.inf), faults=PASSING[name]) as server:
        end = asyncio.create_task(end_once_streamed_again(server))
        updates = await way(server)
        await end
        check(updates, server.run().text)

        assert len(updates) in (EVENTS, EVENTS + 1), "at most the poll's word that the run has begun is added"
        assert len([update for update in updates if update.type is UpdateType.TEXT]) == 40
        assert server.count("create") == 1


async def end_once_streamed_again(server: ResponsesServer) -> None:
    """End the run when the faults are used up and the client has come back to the stream."""
    while server.faults.pending:
        await asyncio.sleep(0.002)

    faulty = server.count("attach")
    while server.count("attach") == faulty:
        await asyncio.sleep(0.002)

    server.run().finish()


@ways
@pytest.mark.parametrize("name", LOOSE)
async def test_whatever_a_stream_lacks_its_consumer_gets_in_the_end(way: Way, name: str) -> None:
    async with ResponsesServer(script=STORY, faults=LOOSE[name]) as server:
        updates = await way(server)
        check(updates, server.run().text)

        assert updates[-1].response is not None
        assert updates[-1].response.status is RunStatus.COMPLETED
        assert server.count("create") == 1
        assert server.count("attach") <= 8
        assert server.count("poll") <= 8


@ways
@pytest.mark.parametrize("shape", ["nested", "flat"])
@pytest.mark.parametrize("n", [1, 20])
async def test_a_failure_in_a_stream_is_told_with_its_reason_and_keeps_the_text(way: Way, shape: str, n: int) -> None:
    async with ResponsesServer(script=STORY, faults=[ErrorEvent(n, shape, then_failed=True)]) as server:
        updates = await way(server)
        story = STORY_TEXT[: len(joined(updates))]
        check(updates, story)

        response = updates[-1].response
        assert response is not None
        assert response.status is RunStatus.FAILED
        assert response.error is not None
        assert response.error.code == "server_error"
        assert UpdateType.ERROR in [update.type for update in updates]
        assert server.count("create") == 1


@ways
@pytest.mark.parametrize("error_event", ["nested", "flat", None])
async def test_a_failed_run_fails_in_its_last_update(way: Way, error_event: str) -> None:
    script = Script.failed("rate_limit", "Too much.", after="Once upon a time", error_event=error_event)
    async with ResponsesServer(script=script, faults=[CutAfterEvent(6)]) as server:
        updates = await way(server)
        check(updates, "Once upon a time")
        response = updates[-1].response
        assert response is not None
        assert response.status is RunStatus.FAILED
        assert response.error is not None
        assert (response.error.code, response.error.message) == ("rate_limit", "Too much.")


@ways
async def test_an_incomplete_run_under_the_name_of_a_completed_one_is_incomplete(way: Way) -> None:
    faults = [TerminalNamed(times=None), CutAfterEvent(8)]
    async with ResponsesServer(script=Script.incomplete("Once upon a"), faults=faults) as server:
        updates = await way(server)
        check(updates, "Once upon a")
        assert updates[-1].response is not None
        assert updates[-1].response.status is RunStatus.INCOMPLETE


@ways
async def test_a_slow_run_with_keepalives_in_every_silence_arrives_whole(way: Way) -> None:
    script = Script.story(5).lasting(delay=0.06)
    faults = [Keepalives(every=0.02), CutAfterEvent(8), CutAfterEvent(4, on="attach")]
    async with ResponsesServer(script=script, faults=faults) as server:
        updates = await way(server)
        check(updates, server.run().text)
        assert server.count("poll") == 0


# --- starts ---


@ways
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_streamed_start_whose_answer_is_lost_is_not_sent_again(way: Way, when: str, how: str) -> None:
    async with ResponsesServer(script=STORY, faults=[DropStart(when, how, times=None)]) as server:
        with pytest.raises(SubmitUnknown, match="may exist and may cost money"):
            await way(server)

        assert server.count("create") == 1


LOST = {
    "500": Status(500, on="create"),
    "503 without Retry-After": Status(503, on="create"),
    "html": HtmlBody(on="create"),
    "nothing": EmptyBody(on="create"),
    "cut in the head": CutAfterByte(20, on="create"),
    "cut in the head, cleanly": CutAfterByte(20, "clean", on="create"),
}


@ways
@pytest.mark.parametrize("name", [*LOST, "cut before an event", "keepalives, then a cut", "stall"])
async def test_a_streamed_start_that_names_no_run_is_not_sent_again(way: Way, name: str) -> None:
    more: dict[str, Sequence[Fault]] = {
        "cut before an event": [CutAfterEvent(0, "clean")],
        "keepalives, then a cut": [CutAfterEvent(2), Keepalives(first=2)],
        "stall": [Stall(0)],
    }
    async with ResponsesServer(script=STORY, faults=more.get(name) or [LOST[name]]) as server:
        with pytest.raises(SubmitUnknown):
            await way(server)

        assert server.count("create") == 1


@pytest.mark.parametrize("name", [*LOST, "broken json", "dropped before", "dropped after"])
async def test_a_start_whose_answer_is_lost_leaves_a_trace_and_is_not_sent_again(name: str) -> None:
    more: dict[str, Fault] = {
        "broken json": BrokenJson(on="create"),
        "dropped before": DropStart("before"),
        "dropped after": DropStart("after", "rst"),
    }
    async with ResponsesServer(script=STORY, faults=[more.get(name) or LOST[name]]) as server:
        async with agent_of(server, timeout=0.2) as agent, AgentRuntime(poll=POLL) as runtime, bounded():
            with pytest.raises(SubmitUnknown) as lost:
                await runtime.submit(agent, "a story")

            (handle,) = await runtime.list()
            assert handle.id == lost.value.run_id
            assert handle.done()
            with pytest.raises(SubmitUnknown):
                await handle.result()

            server.faults.reset()
            with pytest.raises(SubmitUnknown):
                await agent.run("a story", agent.get_new_thread(), background())

        assert server.count("create") == 2


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_start_that_takes_longer_than_its_client_allows_is_not_sent_again(streamed: bool) -> None:
    fault = Stall(0) if streamed else SlowBody(60.0, on="create")
    async with (
        ResponsesServer(script=STORY, faults=[fault]) as server,
        openai.AsyncOpenAI(base_url=server.base_url, api_key="any", timeout=0.2) as client,
        AgentRuntime(poll=POLL, stream=STREAM) as runtime,
        bounded(),
    ):
        with pytest.raises(SubmitUnknown):
            await runtime.submit(Agent(OpenAIResponses("test", client=client)), "a story", stream=streamed)

        assert server.count("create") == 1


@ways
@pytest.mark.parametrize("fault", [Status(429, on="create"), Status(503, 0.01, on="create")], ids=["429", "503"])
async def test_a_streamed_start_that_did_no_work_is_sent_again(way: Way, fault: Status) -> None:
    async with ResponsesServer(script=STORY, faults=[replace(fault, times=2)]) as server:
        check(await way(server), server.run().text)
        assert server.count("create") == 3
        assert len(server.runs) == 1


@pytest.mark.parametrize("fault", [Status(429, on="create"), Status(503, 0.01, on="create")], ids=["429", "503"])
async def test_a_start_that_did_no_work_is_sent_again_and_not_for_ever(fault: Status) -> None:
    async with (
        ResponsesServer(script=STORY, faults=[replace(fault, times=2)]) as server,
        agent_of(server) as agent,
        AgentRuntime(poll=POLL) as runtime,
        bounded(),
    ):
        handle = await runtime.submit(agent, "a story")
        assert (await handle.result()).text == server.run().text
        assert server.count("create") == 3

        server.inject(replace(fault, times=None))
        with pytest.raises(ServiceUnavailable) as refused:
            await runtime.submit(agent, "a story")

        assert refused.value.status_code == fault.status
        assert server.count("create") == 3 + 4


async def test_a_service_that_asks_for_long_patience_is_not_waited_for() -> None:
    async with (
        ResponsesServer(script=STORY, faults=[Status(429, 3600, on="create")]) as server,
        agent_of(server) as agent,
        AgentRuntime(poll=POLL) as runtime,
        bounded(5),
    ):
        with pytest.raises(ServiceUnavailable) as refused:
            await runtime.submit(agent, "a story")

        assert refused.value.retry_after == 3600
        assert server.count("create") == 1


async def test_a_start_that_is_refused_is_refused_at_once() -> None:
    async with (
        ResponsesServer(script=STORY, faults=[Status(400, on="create"), Status(403, on="create")]) as server,
        agent_of(server) as agent,
        AgentRuntime(poll=POLL) as runtime,
        bounded(),
    ):
        for streamed in (False, True):
            with pytest.raises(RequestRejected):
                await runtime.submit(agent, "a story", stream=streamed)

        assert server.count("create") == 2
        assert [handle.status for handle in await runtime.list()] == [RunStatus.FAILED] * 2


# --- polls ---

POLLS: dict[str, Sequence[Fault]] = {
    "429": [Status(429, times=3)],
    "429 with Retry-After": [Status(429, 0.02, times=3)],
    "500": [Status(500, times=3)],
    "503 with Retry-After": [Status(503, 0.02, times=3)],
    "408": [Status(408, times=3)],
    "409": [Status(409, times=3)],
    "404 just after create": [NotFoundAfterCreate(times=3)],
    "html": [HtmlBody(times=3)],
    "html with an error status": [Status(502, body=b"<html>Bad Gateway</html>", times=3)],
    "broken json": [BrokenJson(times=3)],
    "nothing": [EmptyBody(times=3)],
    "json that is no response": [Status(200, body=b'{"ok": true}', times=3)],
    "json that is no object": [Status(200, body=b"[]", times=3)],
    "cut": [CutAfterByte(30, on="poll", times=3)],
    "cut cleanly": [CutAfterByte(30, "clean", on="poll", times=3)],
    "reset": [CutAfterByte(0, "rst", on="poll", times=3)],
    "slow body": [SlowBody(0.05)],
    "body that never comes": [SlowBody(60.0)],
    "hint": [PollHint(20)],
    "a cocktail": [Status(500), HtmlBody(), BrokenJson(), EmptyBody(), Status(429, 0.01), NotFoundAfterCreate()],
}


@pytest.mark.parametrize("name", POLLS)
async def test_a_failed_poll_is_not_a_failed_run(name: str) -> None:
    async with ResponsesServer(script=STORY, faults=POLLS[name]) as server:
        async with agent_of(server, timeout=0.2) as agent, AgentRuntime(poll=POLL) as runtime, bounded():
            handle = await runtime.submit(agent, "a story")
            response = await handle.result()
            updates = [update async for update in handle.stream()]

        assert response.text == server.run().text
        check(updates, response.text)
        assert server.count("create") == 1
        assert name == "hint" or server.faults.pending == []


@pytest.mark.parametrize("name", POLLS)
async def test_a_failed_poll_leaves_the_token_good(name: str) -> None:
    async with (
        ResponsesServer(script=STORY, faults=POLLS[name]) as server,
        agent_of(server, timeout=0.2) as agent,
        bounded(),
    ):
        thread, options = agent.get_new_thread(), background()
        response = await agent.run("a story", thread, options)
        while response.continuation_token is not None:
            await asyncio.sleep(0)
            options.continuation_token = str(response.continuation_token)
            response = await agent.run(thread=thread, options=options)

        assert response.text == server.run().text
        assert [message.role for message in thread.messages] == ["user", "assistant"]
        assert server.count("create") == 1


async def test_a_run_that_the_service_has_forgotten_expires_and_says_so() -> None:
    poll = replace(POLL, missing_grace=0.05)
    async with (
        ResponsesServer(script=STORY.lasting(running=60), faults=[Status(404, times=None)]) as server,
        agent_of(server) as agent,
        AgentRuntime(poll=poll) as runtime,
        bounded(),
    ):
        handle = await runtime.submit(agent, "a story")
        assert await handle.wait() is RunStatus.EXPIRED
        assert handle.response.error is not None
        assert "no longer has the run" in handle.response.error.message


async def test_a_deadline_ends_a_run_whose_service_is_down() -> None:
    async with (
        ResponsesServer(script=STORY.lasting(running=60), faults=[Status(500, times=None)]) as server,
        agent_of(server) as agent,
        AgentRuntime(poll=POLL) as runtime,
        bounded(),
    ):
        handle = await runtime.submit(agent, "a story", deadline=0.1)
        assert await handle.wait() is RunStatus.EXPIRED


# --- cancels ---


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "fault",
    [
        Status(429, on="cancel", times=2),
        Status(500, on="cancel", times=2),
        Status(503, 0.01, on="cancel", times=2),
        HtmlBody(on="cancel"),
        EmptyBody(on="cancel"),
        CutAfterByte(10, "rst", on="cancel"),
    ],
    ids=repr,
)
async def test_a_cancel_that_is_not_answered_is_asked_again(fault: Fault, streamed: bool) -> None:
    async with (
        ResponsesServer(script=STORY.lasting(running=60), faults=[fault]) as server,
        agent_of(server) as agent,
        AgentRuntime(poll=POLL) as runtime,
        bounded(),
    ):
        handle = await runtime.submit(agent, "a story", stream=streamed)
        assert await handle.cancel("enough") is RunStatus.CANCELLED
        assert await handle.wait() is RunStatus.CANCELLED
        assert server.run().status == "cancelled"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cancel_that_is_never_answered_raises_and_the_run_goes_on(streamed: bool) -> None:
    script = STORY.lasting(running=0.3)
    async with (
        ResponsesServer(script=script, faults=[Status(500, on="cancel", times=None)]) as server,
        agent_of(server) as agent,
        AgentRuntime(poll=POLL) as runtime,
        bounded(),
    ):
        handle = await runtime.submit(agent, "a story", stream=streamed)
        with pytest.raises(ServiceUnavailable):
            await handle.cancel()

        assert (await handle.result()).text == server.run().text
        check([update async for update in handle.stream()], server.run().text)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("status", [400, 409])
async def test_a_cancel_that_comes_too_late_gives_the_runs_true_end(streamed: bool, status: int) -> None:
    script = STORY.lasting(running=0.1)
    async with (
        ResponsesServer(script=script, faults=[Status(status, on="cancel", times=None)]) as server,
        agent_of(server) as agent,
        AgentRuntime(poll=POLL) as runtime,
        bounded(),
    ):
        handle = await runtime.submit(agent, "a story", stream=streamed)
        await handle.cancel()
        assert (await handle.result()).text == server.run().text


async def test_a_cancelled_run_that_the_service_revives_stays_cancelled() -> None:
    async with (
        ResponsesServer(script=STORY.lasting(running=60), faults=[StatusFlip(0.01)]) as server,
        agent_of(server) as agent,
        AgentRuntime(poll=POLL) as runtime,
        bounded(),
    ):
        handle = await runtime.submit(agent, "a story")
        await handle.cancel()
        polls = server.count("poll")
        await asyncio.sleep(0.03)
        assert handle.status is RunStatus.CANCELLED
        assert server.count("poll") <= polls + 1, "one may have been on its way"


async def test_a_cancel_of_a_run_whose_key_is_refused_says_so_and_leaves_it_alive() -> None:
    faults = [Status(401, on="cancel"), Status(404, on="cancel")]
    async with (
        ResponsesServer(script=STORY.lasting(running=60), faults=faults) as server,
        agent_of(server) as agent,
        AgentRuntime(poll=POLL) as runtime,
        bounded(),
    ):
        handle = await runtime.submit(agent, "a story")
        with pytest.raises(AuthenticationFailed):
            await handle.cancel()

        with pytest.raises(RunNotFound):
            await handle.cancel()

        assert handle.status.live
        assert await handle.cancel() is RunStatus.CANCELLED


async def test_a_failed_run_raises_what_the_service_said() -> None:
    async with (
        ResponsesServer(script=Script.failed("rate_limit", "Too much.")) as server,
        agent_of(server) as agent,
        AgentRuntime(poll=POLL) as runtime,
        bounded(),
    ):
        handle = await runtime.submit(agent, "a story")
        with pytest.raises(RunFailed, match=r"rate_limit: Too much\.") as failed:
            await handle.result()

        assert failed.value.handle is handle
        assert failed.value.token is None


STORY_TEXT = "".join(STORY.items[0].pieces)
