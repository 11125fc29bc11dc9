"""The examples run as they stand, each in a process of its own, against a server that breaks."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_runs import EXAMPLES, NAMES, run_example

from agentbg import ContinuationToken
from agentbg.testing.server import CutAfterEvent, ResponsesServer, Script, Status, TooOld
from agentbg.testing.server.wire import JSON, input_text

JOKE = "Why are pirates called pirates? Because they arrr."


async def run(server: ResponsesServer, folder: Path, name: str, *arguments: str, **environment: str | None) -> str:
    """What an example prints with this server. It must end well, and complain of nothing."""
    return await run_example(server.base_url, folder, name, *arguments, **environment)


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


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short(name: str):
    assert len((EXAMPLES / name).read_text("utf-8").splitlines()) < 60
