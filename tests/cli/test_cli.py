"""The command line: what it prints where, what its exit codes mean, and that no run is lost with a terminal."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from agentbg import Agent, AgentRuntime, __version__, tool
from agentbg.cli.agents import AgentSpec
from agentbg.cli.exits import Exit
from agentbg.core.model import RunRef
from agentbg.core.record import RunRecord
from agentbg.core.status import RunStatus
from agentbg.providers import OpenAIResponses
from agentbg.stores import SQLiteStore
from agentbg.testing.server import (
    CutAfterEvent,
    DropStart,
    FunctionCall,
    McpApprovalRequest,
    Message,
    Renumber,
    Script,
    Turns,
)

from .conftest import KEY

ENDLESS = Script.text("Never said.").lasting(running=math.inf)
SLOW = Script.story(40).lasting(delay=0.02)


class TestInterrupt:
    def test_ctrl_c_leaves_the_run_alive_and_says_how_to_take_it_up(self, serve, cli, spawn):
        server = serve(ENDLESS)
        process = spawn("run", "Hello?")
        run_id = process.stderr.readline().split()[-1]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == Exit.INTERRUPTED
        assert out == ""
        assert err.strip() == f"Interrupted. Run {run_id} goes on: agentbg result {run_id}"
        assert server.count("cancel") == 0
        assert server.count("create") == 1
        assert cli("result", run_id, "--timeout", "0").exit_code == Exit.TIMED_OUT

    def test_ctrl_c_while_watching_does_no_more_harm(self, serve, cli, spawn):
        server = serve(Script.story(10).lasting(running=math.inf))
        run_id = cli.detach("Hello?", "--stream")
        process = spawn("watch", run_id)
        assert process.stdout.read(4) == "Once"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == Exit.INTERRUPTED
        assert server.count("cancel") == 0

    def test_a_killed_process_loses_nothing(self, serve, cli, spawn):
        server = serve(SLOW)
        process = spawn("run", "Hello?", "--stream")
        run_id = process.stderr.readline().split()[-1]
        process.kill()
        process.wait()
        taken_up = cli("result", run_id)
        assert taken_up.stdout == f"{SLOW.items[0].text}\n"
        assert server.count("create") == 1


class TestExits:
    @pytest.mark.parametrize(
        ("script", "code", "out", "err"),
        [
            (Script.text("Hello."), Exit.COMPLETED, "Hello.\n", ""),
            (Script.failed("server_error", "Boom."), Exit.FAILED, "", "failed: server_error: Boom."),
            (Script.incomplete("Hel"), Exit.INCOMPLETE, "Hel\n", "max_output_tokens"),
            (Script.call("look_up", {}), Exit.INPUT_REQUIRED, "", "waits for its user"),
            (Script.of(McpApprovalRequest("delete")), Exit.INPUT_REQUIRED, "", "waits for its user"),
        ],
    )
    @pytest.mark.parametrize("options", [(), ("--stream",)])
    def test_a_run_exits_by_its_end(self, serve, cli, script, code, out, err, options):
        serve(script)
        result = cli("run", "Hello?", *options)
        assert (result.exit_code, result.stdout) == (code, out)
        assert err in result.stderr
        run_id = result.stderr.split()[1]
        again = cli("result", run_id)
        assert (again.exit_code, again.stdout) == (code, out)
        assert "Traceback" not in result.stderr + again.stderr

    def test_a_cancelled_run(self, serve, cli):
        server = serve(ENDLESS)
        run_id = cli.detach()
        cancelled = cli("cancel", run_id, "--reason", "superseded")
        assert (cancelled.exit_code, cancelled.stdout) == (Exit.COMPLETED, "cancelled\n")
        assert server.count("cancel") == 1
        assert cli("result", run_id).exit_code == Exit.CANCELLED
        assert cli("cancel", run_id).stdout == "cancelled\n"
        assert server.count("cancel") == 1

    def test_a_run_that_is_over_keeps_its_end(self, serve, cli):
        server = serve(Script.text("Hello."))
        run_id = cli.json("run", "Hello?")["id"]
        assert cli("cancel", run_id).stdout == "completed\n"
        assert server.count("cancel") == 0

    def test_a_run_that_the_service_has_forgotten(self, serve, cli, store):
        run_id = put(store, stored(serve(), created_at=time.time() - 3600))
        result = cli("result", run_id)
        assert result.exit_code == Exit.EXPIRED
        assert "no longer has the run" in result.stderr

    def test_a_run_that_is_older_than_the_service_keeps_any(self, serve, cli, store):
        run_id = put(store, stored(serve(), created_at=time.time() - 31 * 86_400))
        assert cli("result", run_id).exit_code == Exit.EXPIRED

    @pytest.mark.parametrize("options", [(), ("--stream",)])
    def test_a_time_out_prints_what_takes_the_run_up(self, serve, cli, options):
        serve(ENDLESS)
        result = cli("run", "Hello?", "--timeout", "0.05", *options)
        run_id = result.stderr.split()[1]
        assert result.exit_code == Exit.TIMED_OUT
        assert f"agentbg result {run_id}" in result.stderr
        assert "Token: abg1." in result.stderr

    def test_a_time_out_in_json(self, serve, cli):
        serve(ENDLESS)
        answer = cli.json("run", "Hello?", "--timeout", "0.05")
        assert answer["status"] in ("queued", "running")
        assert answer["token"].startswith("abg1.")

    def test_a_service_that_cannot_be_reached(self, cli):
        result = cli("run", "Hello?", "--base-url", "http://127.0.0.1:9/v1")
        assert result.exit_code == Exit.SERVICE
        assert one_line(result.stderr).startswith("Error: ")

    def test_a_service_that_refuses_the_key(self, serve, cli):
        serve(api_key="another")
        result = cli("run", "Hello?")
        assert result.exit_code == Exit.SERVICE
        assert "Incorrect API key" in one_line(result.stderr)

    def test_no_key(self, cli, monkeypatch):
        monkeypatch.delenv("OPENAI_API_KEY")
        result = cli("run", "Hello?")
        assert result.exit_code == Exit.SERVICE
        assert "OPENAI_API_KEY" in one_line(result.stderr)

    def test_a_start_whose_answer_was_lost(self, serve, cli):
        serve(faults=[DropStart()])
        result = cli("run", "Hello?")
        assert result.exit_code == Exit.SUBMIT_UNKNOWN
        assert "may exist" in one_line(result.stderr)
        (listed,) = cli.lines("list")
        assert cli("result", listed["id"]).exit_code == Exit.SUBMIT_UNKNOWN

    def test_a_start_that_nobody_has_heard_of_since(self, serve, cli, store):
        record = stored(serve(), created_at=time.time())
        record.ref = None
        run_id = put(store, record)
        assert cli("result", run_id).exit_code == Exit.SUBMIT_UNKNOWN

    @pytest.mark.parametrize("command", ["result", "watch", "cancel"])
    def test_an_unknown_run(self, serve, cli, command):
        serve()
        cli("run", "Hello?")
        result = cli(command, "run_x")
        assert result.exit_code == Exit.STORE
        assert "run_x" in one_line(result.stderr)

    def test_no_store_and_what_is_no_store(self, cli, store):
        assert "There is no store" in one_line(cli("list").stderr)
        store.parent.mkdir()
        store.write_text("Not a store, but long enough to be taken for something. " * 9)
        for args in (("list",), ("run", "Hello?"), ("result", "run_x")):
            result = cli(*args)
            assert result.exit_code == Exit.STORE
            assert "not an agentbg store" in one_line(result.stderr)

    def test_a_folder_that_cannot_be_made(self, serve, cli, store):
        serve()
        store.parent.write_text("A file where the folder should be.")
        result = cli("run", "Hello?")
        assert result.exit_code == Exit.STORE
        assert "--store" in one_line(result.stderr)

    @pytest.mark.parametrize("args", [("run",), ("run", ""), ("run", "-"), ("list", "--status", "odd"), ("sing",)])
    def test_a_wrong_command_line(self, serve, cli, args):
        server = serve()
        assert cli(*args, input=" \n").exit_code == Exit.USAGE
        assert not server.requests

    def test_no_model(self, serve, cli, monkeypatch):
        monkeypatch.delenv("AGENTBG_MODEL")
        result = cli("run", "Hello?")
        assert result.exit_code == Exit.USAGE
        assert "AGENTBG_MODEL" in result.stderr


class TestOwners:
    """Another process owns the store."""

    def test_everything_can_be_read_and_nothing_is_written(self, serve, cli, store):
        serve(Script.text("Hello."), SLOW)
        ended, live = cli.json("run", "Hello?")["id"], cli.detach("And now?", "--stream")
        before = dump(store)
        with owned(store):
            assert [run["id"] for run in cli.lines("list")] == [live, ended]
            assert cli("result", ended).stdout == "Hello.\n"
            assert cli("watch", ended).stdout == "Hello.\n"
            assert cli("result", live).stdout == f"{SLOW.items[0].text}\n"
            assert cli("watch", live).stdout == f"{SLOW.items[0].text}\n"

        assert dump(store) == before

    @pytest.mark.parametrize("mode", [{"flush": "pipelined"}, {"journal": "checkpoint"}, {"journal": "off"}])
    def test_a_run_is_watched_however_little_of_its_updates_is_kept(self, serve, cli, store, mode):
        told = Turns([ASKS, Script.text(" It is paid back. " * 20, deltas=20).lasting(delay=0.05)])
        serve(told)
        text = "A moment." + " It is paid back. " * 20
        run_id = asyncio.run(leave(store, "input_required", **mode))
        assert cli("watch", run_id).stdout == "A moment.\n"
        asyncio.run(leave(store, None, run_id, answer=True))
        with owned(store):
            assert written(cli.lines("watch", run_id)) == text

        asyncio.run(leave(store, "completed", run_id))
        assert written(cli.lines("watch", run_id)) == text
        (last,) = cli.lines("watch", run_id, "--after", str(cli.lines("watch", run_id)[-2]["seq"]))[-1:]
        assert last["type"] == "end"

    def test_a_live_run_can_be_cancelled(self, serve, cli, store):
        server = serve(ENDLESS)
        run_id = cli.detach("Hello?", "--stream")
        with owned(store):
            assert cli("cancel", run_id).stdout == "cancelled\n"

        assert server.count("cancel") == 1
        assert cli("result", run_id).exit_code == Exit.CANCELLED

    def test_a_live_run_is_watched_from_where_its_journal_ends_or_from_later(self, serve, cli, store, spawn):
        serve(SLOW)
        process = spawn("run", "Hello?", "--stream")
        run_id = process.stderr.readline().split()[-1]
        process.stdout.read(20)
        lines = cli.lines("watch", run_id)
        assert [line["seq"] for line in lines] == [*range(1, len(lines) + 1)]
        assert "".join(line["text"] for line in lines) == SLOW.items[0].text
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert SLOW.items[0].text.endswith(out.rstrip("\n"))

    def test_a_second_run_says_who_is_in_the_way(self, serve, cli, store):
        server = serve()
        cli("run", "Hello?")
        with owned(store):
            result = cli("run", "Hello?")

        assert result.exit_code == Exit.STORE
        assert "in use" in one_line(result.stderr)
        assert server.count("create") == 1


class TestOutput:
    def test_the_answer_is_on_stdout_and_nothing_else(self, serve, cli):
        serve(Script.text("Line one.\nLine two.\n"))
        result = cli("run", "Hello?", "--stream")
        assert result.stdout == "Line one.\nLine two.\n"
        assert result.stderr.startswith("Run run_")

    def test_json_says_it_all_in_one_object(self, serve, cli):
        serve(Script.text("Grüße 🌍"))
        answer = cli.json("run", "Hello?")
        assert (answer["status"], answer["text"], answer["error"], answer["token"]) == (
            "completed",
            "Grüße 🌍",
            None,
            None,
        )
        assert answer["usage"]["total_tokens"] > 0
        assert answer["response_id"].startswith("resp_")
        assert cli.json("result", answer["id"]) == answer

    def test_json_streams_are_a_line_per_update(self, serve, cli):
        serve(SLOW)
        lines = cli.lines("run", "Hello?", "--stream")
        assert [line["seq"] for line in lines] == [*range(1, len(lines) + 1)]
        assert "".join(line["text"] for line in lines) == SLOW.items[0].text
        assert lines[-1]["type"] == "end"
        assert lines[-1]["status"] == "completed"

    def test_watching_goes_on_after_a_place(self, serve, cli):
        serve(SLOW)
        run_id = cli.detach("Hello?", "--stream")
        lines = cli.lines("watch", run_id)
        assert cli.lines("watch", run_id, "--after", "10") == lines[10:]

    def test_an_answer_that_is_taken_back_is_written_anew(self, serve, cli):
        serve(Script.story(30).lasting(delay=0.01), faults=[CutAfterEvent(12), Renumber()])
        result = cli("run", "Hello?", "--stream")
        assert "begins again" in result.stderr
        assert result.stdout.splitlines()[-1] == Script.story(30).items[0].text

    def test_the_prompt_can_come_from_stdin(self, serve, cli):
        serve()
        assert cli("run", "-", input="from a pipe").stdout == "You said: from a pipe\n"

    def test_a_terminal_that_cannot_show_a_character_is_no_reason_to_lose_an_answer(self, serve, spawn, monkeypatch):
        serve(Script.text("Earth 🌍"))
        monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
        out, err = spawn("run", "Hello?").communicate(timeout=60)
        assert out == "Earth \\U0001f30d\n", err

    def test_instructions_and_the_model_reach_the_service(self, serve, cli):
        server = serve()
        cli("run", "Hello?", "--model", "gpt-other", "--instructions", "Be brief.")
        body = server.requests[0].json
        assert (body["model"], body["instructions"], body["background"]) == ("gpt-other", "Be brief.", True)

    def test_a_hint_names_the_store_that_was_named(self, serve, cli, tmp_path):
        serve(ENDLESS)
        result = cli("run", "Hello?", "--timeout", "0", "--store", str(tmp_path / "other runs.db"))
        assert f"--store '{tmp_path}/other runs.db'" in result.stderr

    def test_lists_are_lines_of_json_in_a_pipe(self, serve, cli):
        serve(Script.text("Hello."), Script.failed())
        cli("run", "First?")
        cli("run", "Second?")
        second, first = cli.lines("list")
        assert (first["input"], first["status"], first["model"]) == ("First?", "completed", "gpt-test")
        assert (second["input"], second["status"]) == ("Second?", "failed")
        assert [run["id"] for run in cli.lines("list", "--status", "failed")] == [second["id"]]
        assert [run["id"] for run in cli.lines("list", "--limit", "1")] == [second["id"]]
        assert cli("list").stdout == cli("list", "--json").stdout


class TestTerminal:
    def test_people_get_a_table_with_whole_ids(self, serve, cli, terminal):
        serve(Script.text("Hello."))
        run_id = cli.json("run", "Hello?")["id"]
        table = terminal("list")
        assert f"{run_id}  completed" in table
        assert "started (UTC)" in table

    @pytest.mark.parametrize("wanted", [True, False])
    def test_an_error_is_red_unless_no_color_is_wanted(self, terminal, monkeypatch, wanted):
        monkeypatch.setenv("NO_COLOR", "" if wanted else "1")
        shown = terminal("result", "run_1")
        assert "Error: There is no store" in shown
        assert ("\x1b[31m" in shown) is wanted

    def test_people_see_that_something_goes_on_and_then_the_answer_alone(self, serve, cli, terminal):
        serve(SLOW)
        shown = terminal("run", "Hello?", "--stream")
        assert "0:00:00" in shown
        assert shown.rstrip().endswith(SLOW.items[0].text)


class TestSecrets:
    def test_no_key_is_ever_stored(self, serve, cli, store, monkeypatch):
        server = serve(Script.text("Hello."))
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url.replace("//", "//user:s3cret@"))
        run_id = cli.detach()
        assert cli("result", run_id).exit_code == 0
        kept = b"".join(path.read_bytes() for path in store.parent.iterdir())
        assert KEY.encode() not in kept
        assert b"s3cret" not in kept
        assert b"gpt-test" in kept

    def test_a_url_with_credentials_is_found_again_in_the_environment(self, monkeypatch):
        record = RunRecord("run_1", "cli", "openai", "e", True, 0.0)
        record.metadata = AgentSpec.given("m", "https://user:s3cret@host/v1", None).metadata
        assert AgentSpec.of(record).base_url == "https://host/v1"
        monkeypatch.setenv("OPENAI_BASE_URL", "https://user:s3cret@host/v1")
        assert AgentSpec.of(record).base_url == "https://user:s3cret@host/v1"

    def test_the_store_is_the_users_own(self, serve, cli, store):
        serve()
        cli("run", "Hello?")
        assert store.parent.stat().st_mode & 0o077 == 0


ASKS = Script.of(Message("A moment."), FunctionCall("refund", '{"order": 17}', "call_1"))


@tool(requires_approval=True)
def refund(order: int) -> str:
    return f"Order {order} is paid back."


def written(lines) -> str:
    text = ""
    for line in lines:
        text = line["text"] if line["type"] == "reset" else text + line["text"]

    return text


async def leave(store, status, run_id=None, answer=False, **mode):
    """A program with a tool of its own drives a run until it waits, or to its end, or not at all; its id."""
    store.parent.mkdir(exist_ok=True)
    async with (
        Agent(OpenAIResponses("gpt-test"), name="clerk", tools=[refund]) as agent,
        AgentRuntime(SQLiteStore(store), agents=[agent], **mode) as runtime,
    ):
        asked = {"stream": True} if mode else {}
        handle = await (runtime.get(run_id) if run_id else runtime.submit(agent, "Order 17 came torn.", **asked))
        if answer:
            await handle.respond(*[request.approve() for request in handle.response.requests])
            async for update in handle.stream():
                if "paid" in update.text:
                    break

        while status is not None and await handle.wait() != status:
            await handle.respond(*[request.approve() for request in handle.response.requests])

        return handle.id


class TestForeign:
    def test_a_run_of_another_program_is_taken_up_at_the_service_of_the_environment(self, serve, cli, store):
        server = serve(Script.text("Hello."))
        run_id = cli.detach()
        with closing(sqlite3.connect(store)) as file:
            assert file.execute("SELECT agent FROM runs").fetchone() == ("cli",)

        record = asyncio.run(load(store, run_id))
        record.id, record.agent, record.metadata = "run_of_a_backend", "researcher", {}
        asyncio.run(forget(store, run_id))
        put(store, record)
        assert cli("result", "run_of_a_backend").stdout == "Hello.\n"
        assert server.count("create") == 1

    def test_a_run_that_waits_says_what_for_and_what_it_has_said(self, serve, cli, store):
        serve(ASKS)
        run_id = asyncio.run(leave(store, "input_required"))
        result = cli("result", run_id)
        assert (result.exit_code, result.stdout) == (Exit.INPUT_REQUIRED, "A moment.\n")
        assert result.stderr.splitlines() == [
            f"Run {run_id} waits for its user.",
            '- approval call_1: refund {"order": 17}',
        ]
        asked = {"id": "call_1", "kind": "approval", "name": "refund", "arguments": '{"order": 17}'}
        assert cli.json("result", run_id)["requests"] == [asked]
        *_, last = cli.lines("watch", run_id)
        assert (last["type"], last["status"], last["requests"]) == ("waiting", "input_required", [asked])
        assert [run["status"] for run in cli.lines("list", "--status", "input_required")] == ["input_required"]

    def test_a_run_that_waits_can_be_cancelled_unless_another_process_owns_it(self, serve, cli, store):
        server = serve(ASKS)
        run_id = asyncio.run(leave(store, "input_required"))
        with owned(store):
            assert cli("cancel", run_id).exit_code == Exit.STORE

        assert cli("cancel", run_id).stdout == "cancelled\n"
        assert cli("result", run_id).exit_code == Exit.CANCELLED
        assert server.count("cancel") == 0, "there is nothing at the service"

    def test_the_text_of_all_rounds_is_there(self, serve, cli, store):
        serve(Turns([ASKS, Script.text(" It is paid back.")]))
        run_id = asyncio.run(leave(store, "completed"))
        assert cli("result", run_id).stdout == "A moment. It is paid back.\n"
        assert cli("watch", run_id).stdout == "A moment. It is paid back.\n"

    def test_a_live_run_with_functions_is_left_to_its_program(self, serve, cli, store):
        server = serve(Turns([ASKS.lasting(running=1.0), Script.text(" It is paid back.")]))
        run_id = asyncio.run(leave(store, None))
        before = dump(store)
        assert cli("result", run_id).exit_code == Exit.INPUT_REQUIRED
        assert dump(store) == before
        assert asyncio.run(leave(store, "completed", run_id)) == run_id
        assert cli("result", run_id).stdout == "A moment. It is paid back.\n"
        assert server.count("create") == 2

    def test_a_run_at_another_service_is_not_asked_for_here(self, serve, cli, store, monkeypatch):
        record = stored(serve(), created_at=time.time())
        run_id = put(store, record)
        elsewhere = serve()
        result = cli("result", run_id)
        assert result.exit_code == Exit.USAGE
        assert "another endpoint" in one_line(result.stderr)
        assert not elsewhere.requests


class TestStdout:
    def test_an_answer_that_cannot_be_written_stays_in_the_store(self, serve, cli, spawn):
        serve(Script.text("Hello."))
        run_id = cli.detach()
        with open("/dev/full", "w") as full:
            result = spawn("result", run_id, stdout=full)
            _, stderr = result.communicate(timeout=60)

        assert result.returncode == Exit.OUTPUT
        assert f"could not be written: No space left on device. It is in the store: agentbg result {run_id}" in stderr
        assert "Traceback" not in stderr
        assert cli("result", run_id).stdout == "Hello.\n"

    def test_a_reader_that_has_enough_is_no_error_to_talk_about(self, serve, cli, spawn):
        serve(SLOW)
        result = spawn("run", "Hello?", "--stream")
        result.stdout.close()
        assert result.wait(timeout=60) == Exit.OUTPUT
        assert "Traceback" not in result.stderr.read()


class TestHelp:
    def test_it_documents_every_exit_code(self, cli):
        text = cli("--help").stdout
        for code in Exit:
            assert f"{code.value:>3}  {code.meaning}" in text

    def test_the_version(self, cli):
        assert cli("--version").stdout == f"agentbg {__version__}\n"

    def test_no_command_shows_the_help(self, cli):
        assert "Exit codes" in cli().output

    def test_it_loads_no_sdk(self):
        code = "import sys, agentbg.cli.app; print(*(name in sys.modules for name in ('openai', 'rich.progress')))"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert out.split() == ["False", "False"]


def one_line(text: str) -> str:
    (line,) = text.splitlines()[-1:] if text.startswith("Run ") else text.splitlines()
    assert line.startswith("Error: ")
    return line


def stored(server, *, created_at: float) -> RunRecord:
    """The record of a live run that the server does not know."""
    endpoint = OpenAIResponses("m", base_url=server.base_url, api_key="k").endpoint
    record = RunRecord("run_stored", "backend", "openai", endpoint, False, created_at)
    record.ref = RunRef("openai", endpoint, {"response": "resp_" + "0" * 48})
    record.status = RunStatus.RUNNING
    return record


def put(path, record: RunRecord) -> str:
    async def create() -> None:
        path.parent.mkdir(exist_ok=True)
        store = SQLiteStore(path)
        await store.open()
        await store.create(record)
        await store.aclose()

    asyncio.run(create())
    return record.id


async def load(path, run_id: str) -> RunRecord:
    store = SQLiteStore(path)
    await store.open(readonly=True)
    try:
        return await store.load(run_id)
    finally:
        await store.aclose()


async def forget(path, run_id: str) -> None:
    store = SQLiteStore(path)
    await store.open()
    await store.delete(run_id)
    await store.aclose()


class owned:  # noqa: N801 - read as a word
    """Own a store in another process for a while."""

    CODE = (
        "import asyncio, sys\n"
        "from agentbg.stores.sqlite import SQLiteStore\n"
        "asyncio.run(SQLiteStore(sys.argv[1]).open())\n"
        "print('owned', flush=True)\n"
        "sys.stdin.read()\n"
    )

    def __init__(self, path) -> None:
        self.path = path

    def __enter__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, str(self.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "owned\n"

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def dump(path) -> list[str]:
    with closing(sqlite3.connect(path)) as file:
        return [line for line in file.iterdump() if "'owner'" not in line]


def test_exit_codes_are_what_the_documents_say():
    assert json.loads(json.dumps(list(Exit))) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 130]
