"""Every bad input gets an error that says what to do, and loses nothing."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
from pathlib import Path

import pytest

from agentbg import (
    Agent,
    AgentRunOptions,
    AgentRuntime,
    AuthenticationFailed,
    ContinuationToken,
    InputRequired,
    RequestRejected,
    RunCancelled,
    RunExpired,
    RunFailed,
    RunIncomplete,
    RunStatus,
    RuntimeClosed,
    RunUnknown,
    ServiceUnavailable,
    StoreInUse,
    StoreInvalid,
    StoreNewer,
    TokenForeign,
    TokenMalformed,
    TokenTampered,
    UsageError,
)
from agentbg.providers import OpenAIResponses
from agentbg.stores import SQLiteStore
from agentbg.testing.server import McpApprovalRequest, ResponsesServer, Script

from .helpers import POLL, STREAM, agent_of, background, bounded

LONG = Script.story(5).lasting(running=60)

both = pytest.mark.parametrize("streamed", [False, True])


def runtime_of(store: SQLiteStore | None = None, **settings: object) -> AgentRuntime:
    return AgentRuntime(store, poll=POLL, stream=STREAM, **settings)


# --- keys, models, hosts ---


def test_no_key_is_said_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(AuthenticationFailed, match=r"OPENAI_API_KEY, or pass api_key="):
        OpenAIResponses("test")


@both
async def test_a_wrong_key_is_said_at_the_start(streamed: bool) -> None:
    async with ResponsesServer(api_key="right") as server, agent_of(server, key="wrong") as agent, bounded():
        async with runtime_of() as runtime:
            with pytest.raises(AuthenticationFailed, match=r"Incorrect API key.*check the API key") as refused:
                await runtime.submit(agent, "go", stream=streamed)

        assert refused.value.status_code == 401
        with pytest.raises(AuthenticationFailed):
            await agent.run("go")

        with pytest.raises(AuthenticationFailed):
            await anext(agent.run_streaming("go"))

        assert server.count("create") == 3
        assert not server.runs


@both
async def test_a_wrong_key_on_a_resumed_run_is_told_to_those_who_wait_and_the_run_stays_alive(streamed: bool) -> None:
    async with ResponsesServer(api_key="right", script=LONG) as server, bounded():
        async with agent_of(server, key="right") as agent, runtime_of() as runtime:
            token = str((await runtime.submit(agent, "go", stream=streamed)).token)

        async with agent_of(server, key="wrong") as agent, runtime_of() as runtime:
            handle = await runtime.resume(token, agent=agent)
            waiters = [handle.result(), handle.wait(), anext(handle.stream(after=10_000))]
            for outcome in await asyncio.gather(*waiters, return_exceptions=True):
                assert isinstance(outcome, AuthenticationFailed)

            assert handle.status.live
            assert str(handle.token) == token
            with pytest.raises(AuthenticationFailed):
                await agent.run(thread=agent.get_new_thread(), options=background(token))

            with pytest.raises(AuthenticationFailed):
                await anext(agent.run_streaming(thread=agent.get_new_thread(), options=background(token)))

        assert server.run().status == "in_progress"
        server.run().finish()
        async with agent_of(server, key="right") as agent, runtime_of() as runtime:
            assert (await (await runtime.resume(token, agent=agent)).result()).text == server.run().text


@both
async def test_an_unknown_model_is_refused_by_name(streamed: bool) -> None:
    async with ResponsesServer(models=["known"]) as server, agent_of(server, model="unknown") as agent, bounded():
        async with runtime_of() as runtime:
            with pytest.raises(RequestRejected, match="The model 'unknown' does not exist") as refused:
                await runtime.submit(agent, "go", stream=streamed)

        assert (refused.value.status_code, refused.value.code) == (404, "model_not_found")
        assert refused.value.request_id is not None


@both
async def test_an_unreachable_host_is_tried_again_and_then_named(streamed: bool) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # taken, and nobody listens
        url = f"http://127.0.0.1:{unheard.getsockname()[1]}/v1"
        async with agent_of(url) as agent, runtime_of() as runtime, bounded():
            with pytest.raises(
                ServiceUnavailable, match=r"no answer from http://127\.0\.0\.1.*check the base URL"
            ) as no:
                await runtime.submit(agent, "go", stream=streamed)

            assert no.value.unsent
            (handle,) = await runtime.list()
            assert handle.status is RunStatus.FAILED


# --- tokens and arguments ---


async def test_a_token_that_is_none_is_refused_before_anything_is_sent() -> None:
    async with (
        ResponsesServer(script=LONG) as server,
        ResponsesServer() as other,
        agent_of(server) as agent,
        agent_of(other) as foreign,
        runtime_of() as runtime,
        bounded(),
    ):
        token = str((await runtime.submit(agent, "go")).token)
        server.requests.clear()
        signed = ContinuationToken.parse(token).sign(b"key")
        at = len(token) // 2
        cases: list[tuple[str, Agent[str], type[Exception], str]] = [
            ("", agent, TokenMalformed, "not a continuation token"),
            ("resp_123", agent, TokenMalformed, "not a continuation token"),
            (token[:-3], agent, TokenMalformed, "damaged"),
            (token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :], agent, TokenMalformed, "damaged"),
            (signed, agent, TokenTampered, "pass the key it was signed with"),
            (token, foreign, TokenForeign, "another endpoint"),
        ]
        for text, user, kind, words in cases:
            thread, options = user.get_new_thread(), background(text)
            with pytest.raises(kind, match=words):
                await user.run(thread=thread, options=options)

            with pytest.raises(kind, match=words):
                user.run_streaming(thread=thread, options=options)

            with pytest.raises(kind, match=words):
                await runtime.resume(text, agent=user)

        assert server.count("POST") == other.count("POST") == other.count("GET") == 0


async def test_calls_that_cannot_be_right_are_refused_before_anything_is_sent() -> None:
    async with ResponsesServer(script=LONG) as server, agent_of(server) as agent, runtime_of() as runtime, bounded():
        handle = await runtime.submit(agent, "go")
        server.requests.clear()
        thread, token = agent.get_new_thread(), handle.token
        for words, asked, options in [
            ("No input may come with a continuation token", "go", background(token)),
            ("nothing to run", None, background()),
            ("nothing to run", None, None),
            ("input is empty", [], background()),
        ]:
            with pytest.raises(UsageError, match=words):
                await agent.run(asked, thread, options)

            with pytest.raises(UsageError, match=words):
                agent.run_streaming(asked, thread, options)

        for call in (agent.run, agent.run_streaming):
            with pytest.raises(UsageError, match="needs a thread"):
                await call("go", options=AgentRunOptions(allow_background_responses=True))

        with pytest.raises(UsageError, match="resume"):
            await runtime.submit(agent, "go", options=background(token))

        with pytest.raises(UsageError, match="above 0"):
            await runtime.submit(agent, "go", deadline=0)

        with pytest.raises(UsageError, match="0 for none; not -1"):
            handle.stream(after=-1)

        with pytest.raises(UsageError, match="The statuses are: queued, running"):
            await runtime.list(status="sleeping")

        with pytest.raises(RunUnknown, match="run_of_nobody"):
            await runtime.get("run_of_nobody")

        assert server.count("POST") == 0


# --- runtimes that are not open ---


async def test_a_runtime_that_is_not_open_says_how_to_open_it() -> None:
    async with ResponsesServer(script=LONG) as server, agent_of(server) as agent, bounded():
        runtime = runtime_of()
        with pytest.raises(RuntimeClosed, match="Use it inside `async with"):
            await runtime.submit(agent, "go")

        async with runtime:
            handle = await runtime.submit(agent, "go")

        server.requests.clear()
        for call in (
            lambda: runtime.submit(agent, "go"),
            lambda: runtime.get(handle.id),
            lambda: runtime.list(),
            lambda: runtime.resume(str(handle.token), agent=agent),
            lambda: anext(handle.stream()),
            lambda: handle.cancel(),
            lambda: handle.result(),
            lambda: handle.wait(),
        ):
            with pytest.raises(RuntimeClosed):
                await call()

        with pytest.raises(UsageError, match="entered once"):
            await runtime.__aenter__()

        assert server.requests == []


# --- results that are none ---


@both
async def test_a_run_without_a_result_says_why(streamed: bool) -> None:
    approval = Script.of(McpApprovalRequest("delete_everything", "{}", "files"))
    scripts = {
        "failed": (Script.failed("server_error", "It broke.", after="Once"), RunFailed, "server_error: It broke"),
        "incomplete": (Script.incomplete("Once"), RunIncomplete, "max_output_tokens"),
        "approval": (approval, InputRequired, "waits for its user"),
    }
    for script, kind, words in scripts.values():
        async with (
            ResponsesServer(script=script) as server,
            agent_of(server) as agent,
            runtime_of() as runtime,
            bounded(),
        ):
            handle = await runtime.submit(agent, "go", stream=streamed)
            with pytest.raises(kind, match=words) as ended:
                await handle

            assert ended.value.handle is handle
            assert ended.value.response.response_id == server.run().id
            assert ended.value.token is None
            assert await handle.wait() is handle.status


@both
async def test_a_cancelled_run_and_an_expired_one_say_so(streamed: bool) -> None:
    async with ResponsesServer(script=LONG) as server, agent_of(server) as agent, runtime_of() as runtime, bounded():
        handle = await runtime.submit(agent, "go", stream=streamed)
        await handle.cancel("superseded")
        with pytest.raises(RunCancelled, match="was cancelled"):
            await handle.result()

        handle = await runtime.submit(agent, "go", stream=streamed, deadline=0.1)
        with pytest.raises(RunExpired, match="deadline passed"):
            await handle.result()


# --- stores ---


async def test_two_runtimes_on_one_file_are_one_too_many(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    async with ResponsesServer(script=LONG) as server, agent_of(server) as agent, bounded():
        async with runtime_of(SQLiteStore(path)) as runtime:
            handle = await runtime.submit(agent, "go")
            with pytest.raises(StoreInUse):
                await runtime_of(SQLiteStore(path)).__aenter__()

            assert handle.status.live
            server.run().finish()
            assert (await handle.result()).text == server.run().text

        async with runtime_of(SQLiteStore(path)) as runtime:
            assert (await runtime.get(handle.id)).done()


async def test_a_file_that_is_no_store_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    letter, base = tmp_path / "letter", tmp_path / "base"
    letter.write_text("Dear Sir or Madam, " * 1000)
    with sqlite3.connect(base) as connection:
        connection.execute("CREATE TABLE guests (name TEXT)")

    connection.close()
    for path in (letter, base):
        before = path.read_bytes()
        with pytest.raises(StoreInvalid, match=path.name):
            await runtime_of(SQLiteStore(path)).__aenter__()

        assert path.read_bytes() == before


async def test_a_store_of_a_newer_agentbg_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    async with runtime_of(SQLiteStore(path)):
        pass

    connection = sqlite3.connect(path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version = {version + 1}")
    connection.close()
    with pytest.raises(StoreNewer, match="newer"):
        await runtime_of(SQLiteStore(path)).__aenter__()


async def test_a_run_of_an_agent_that_nobody_knows_says_whose_it_is(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    async with ResponsesServer(script=LONG) as server, agent_of(server, name="poet") as agent, bounded():
        async with runtime_of(SQLiteStore(path)) as runtime:
            run_id = (await runtime.submit(agent, "go")).id

        async with runtime_of(SQLiteStore(path)) as runtime:
            handle = await runtime.get(run_id)
            for call in (handle.result, handle.wait, handle.cancel, lambda: anext(handle.stream())):
                with pytest.raises(UsageError, match=r"'poet'.*agents=\["):
                    await call()

            with pytest.raises(UsageError, match="'poet'"):
                async for _ in runtime.as_completed([handle]):
                    pass

            assert handle.status.live


async def test_metadata_that_is_no_json_is_refused_before_anything_is_sent() -> None:
    async with ResponsesServer(script=LONG) as server, agent_of(server) as agent, runtime_of() as runtime, bounded():
        with pytest.raises(UsageError, match=r"(?i)json"):
            await runtime.submit(agent, "go", metadata={"when": object()})

        assert server.requests == []
        handle = await runtime.submit(agent, "go", metadata={"user": 7})
        assert json.dumps(handle.metadata) == '{"user": 7}'
