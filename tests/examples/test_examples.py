"""The examples run as they stand, each in a process of its own, against a server that breaks."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from example_runs import EXAMPLES, NAMES, WAIT, run_example, start_example

from agentbg import ContinuationToken
from agentbg.testing.server import CutAfterEvent, ResponsesServer, Script, Status, TooOld, Turns, answers
from agentbg.testing.server.wire import JSON, input_text

JOKE = "Why are pirates called pirates? Because they arrr."


async def run(
    server: ResponsesServer, folder: Path, name: str, *arguments: str, said: str = "", **environment: str | None
) -> str:
    """What an example prints with this server. It must end well, and complain of nothing."""
    return await run_example(server.base_url, folder, name, *arguments, said=said, **environment)


async def test_poll_prints_the_answer(tmp_path: Path):
    script = Script.text("Windy, with showers.").lasting(running=1.0)
    async with ResponsesServer(script=script, models=["gpt-5-mini"], faults=[Status(503, on="poll")]) as server:
        assert await run(server, tmp_path, "poll.py") == "Windy, with showers.\n"
        assert server.count("create") == 1
        assert server.count("poll") == 2, "a poll that failed is asked again"


async def test_poll_says_why_a_run_failed(tmp_path: Path):
    async with ResponsesServer(script=Script.failed("server_error", "Out of tea.")) as server:
        assert "failed" in (said := await run(server, tmp_path, "poll.py"))
        assert "Out of tea." in said


@pytest.mark.parametrize("fault", [None, CutAfterEvent(3, on="attach"), TooOld()], ids=["well", "cut again", "too old"])
async def test_stream_and_resume_prints_the_answer_once(tmp_path: Path, fault: CutAfterEvent | TooOld | None):
    script = Script.text(JOKE).lasting(delay=0.02)
    async with ResponsesServer(script=script, faults=[fault] if fault else []) as server:
        said = await run(server, tmp_path, "stream_and_resume.py")
        before, _, after = said.partition("|")
        assert (before + after, before) == (JOKE + "\n", "Why")
        assert server.count("create") == 1


async def test_quickstart_prints_the_report(tmp_path: Path):
    script = Script.json({"title": "Batteries", "findings": ["solid", "dear", "soon"]}).lasting(running=0.5)
    async with ResponsesServer(script=script) as server:
        first, *rest = (await run(server, tmp_path, "quickstart.py")).splitlines()
        assert first.startswith("run_")
        assert first.endswith("is queued")
        assert rest == ["Batteries", "- solid", "- dear", "- soon"]


async def test_a_run_is_taken_up_by_its_id_and_by_its_token_in_other_processes(tmp_path: Path):
    script = Script.story(30).lasting(delay=0.05)
    async with ResponsesServer(script=script, faults=[CutAfterEvent(20, on="attach", times=2)]) as server:
        run_id, token = (await run(server, tmp_path, "across_processes.py", "submit", "A story, please.")).split()
        assert ContinuationToken.parse(token).ref.id == server.run().id

        *story, end = (await run(server, tmp_path, "across_processes.py", "get", run_id)).splitlines()
        assert "\n".join(story) == server.run().text
        assert end.startswith("completed after")

        *tail, end = (await run(server, tmp_path, "across_processes.py", "resume", token)).splitlines()
        assert server.run().text.endswith("\n".join(tail))
        assert end.startswith("completed after")
        assert server.count("create") == 1


async def test_many_runs_prints_each_as_it_comes_and_goes_on_past_a_failure(tmp_path: Path):
    def script(request: JSON) -> Script:
        city = input_text(request).split()[-1].rstrip(".")
        return Script.failed("server_error", "Rained off.") if city == "Bergen" else Script.text(f"{city} is nice.")

    async with ResponsesServer(script=script) as server:
        lines = (await run(server, tmp_path, "many_runs.py")).splitlines()
        assert [line.split()[0] for line in lines] == [f"[{n}/8]" for n in range(1, 9)]
        assert sum("is nice." in line for line in lines) == 7
        [failed] = [line for line in lines if "Bergen" in line]
        assert "Rained off." in failed
        assert server.count("create") == 8


async def test_local_agent_needs_no_service(tmp_path: Path):
    async with ResponsesServer() as server:
        story, report, end = (await run(server, tmp_path, "local_agent.py")).splitlines()
        assert story == "Once upon a time there was an octopus. "
        assert report == "topic='eight arms' words=2"
        assert end == "cancelled"
        assert not server.requests


async def test_structured_report_prints_the_tree(tmp_path: Path):
    finding = {"claim": "They are solid", "confidence": "high", "year": None}
    report = {"title": "Batteries", "sections": [{"heading": "Now", "findings": [finding, {**finding, "year": 2024}]}]}
    async with ResponsesServer(script=Script.json(report)) as server:
        assert (await run(server, tmp_path, "structured_report.py")).splitlines() == [
            *("Batteries", "", "Now"),
            "- They are solid (undated, high confidence)",
            "- They are solid (2024, high confidence)",
        ]


async def test_structured_report_shows_what_is_none(tmp_path: Path):
    async with ResponsesServer(script=Script.text("Batteries are solid.")) as server:
        first, text = (await run(server, tmp_path, "structured_report.py")).splitlines()
        assert first.startswith("No report: ")
        assert text == "Batteries are solid."


@pytest.mark.parametrize("version", [None, "2025-04-01-preview"], ids=["v1", "api-version"])
async def test_azure_openai_goes_there_with_a_key(tmp_path: Path, version: str | None):
    async with ResponsesServer(script=Script.text("Flat."), api_key="the key", faults=[CutAfterEvent(4)]) as server:
        key = {"AZURE_OPENAI_API_KEY": "the key", "OPENAI_API_VERSION": version}
        answer, end = (await run(server, tmp_path, "azure_openai.py", **key)).splitlines()
        assert answer == "Flat."
        assert end.startswith("completed after")
        assert server.requests[0].path == ("/openai/v1/responses" if version is None else "/openai/responses")


async def test_azure_openai_goes_there_with_a_token(tmp_path: Path):
    # azure-identity asks the command line tool that the user has logged in with: here, one of ours.
    tool = tmp_path / "az"
    tool.write_text('#!/bin/sh\necho \'{"accessToken": "the token", "expires_on": 4102444800}\'\n')
    tool.chmod(0o755)
    signed_in = {"AZURE_TOKEN_CREDENTIALS": "AzureCliCredential", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    async with ResponsesServer(script=Script.text("Flat."), api_key="the token") as server:
        said = await run(server, tmp_path, "azure_openai.py", AZURE_OPENAI_API_KEY=None, **signed_in)
        assert said.startswith("Flat.\n")


@pytest.mark.parametrize("fault", [None, CutAfterEvent(8)], ids=["well", "cut"])
async def test_an_agent_of_agent_framework_calls_its_tool_and_prints_the_answer(
    tmp_path: Path, fault: CutAfterEvent | None
):
    pytest.importorskip("agent_framework_openai", reason="needs agent-framework-core and agent-framework-openai")
    script = [Script.call("wind", {"city": "Amsterdam"}), Script.text("Quite windy: 5 Beaufort.")]
    async with ResponsesServer(script=script, faults=[fault] if fault else []) as server:
        answer, end = (await run(server, tmp_path, "agent_framework_agent.py")).splitlines()
        assert answer == "Quite windy: 5 Beaufort."
        assert end.startswith("completed, tokens: ")
        sent = [request.json["input"] for request in server.requests if request.json]
        assert len(sent) == 2
        assert "5 Beaufort, from the west" in sent[1][-1]["output"]


def clerk() -> Turns:
    """A model that looks the order up, asks for the refund, and says what it is told of it."""
    return Turns(
        [
            Script.call("look_up", {"order": 17}),
            Script.call("refund", {"order": 17}, "call_refund"),
            lambda request: Script.text(answers(request)["call_refund"]),
        ]
    )


ALLOW = 'refund {"order": 17}: allow it? [y/N] '
PAID = "Order 17 is paid back, with the reference call_refund.\n"
UNPAID = "The user did not allow this call. Ask the customer for a photo first.\n"


@pytest.mark.parametrize(
    ("said", "answer"), [("y\n", PAID), ("n\n", UNPAID), ("", UNPAID)], ids=["yes", "no", "nobody"]
)
async def test_tools_with_approval_makes_the_call_only_when_it_is_allowed(tmp_path: Path, said: str, answer: str):
    async with ResponsesServer(script=clerk(), faults=[Status(503, on="poll")]) as server:
        assert await run(server, tmp_path, "tools_with_approval.py", said=said) == ALLOW + answer
        assert server.count("create") == 3


async def test_tools_with_approval_still_waits_after_it_was_killed_at_the_question(tmp_path: Path):
    async with ResponsesServer(script=clerk()) as server:
        process = await start_example(server.base_url, tmp_path, "tools_with_approval.py")
        assert process.stdout is not None
        assert (await asyncio.wait_for(process.stdout.readexactly(len(ALLOW)), WAIT)).decode() == ALLOW
        process.kill()
        await process.communicate()

        assert await run(server, tmp_path, "tools_with_approval.py", said="y\n") == ALLOW + PAID
        assert server.count("create") == 3


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short(name: str):
    assert len((EXAMPLES / name).read_text("utf-8").splitlines()) < 60
