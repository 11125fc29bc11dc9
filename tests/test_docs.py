"""The Python in the documents runs as it stands there, top to bottom, against a server on the loopback.

A page's blocks share their names, and may await. An ```output block says what the block before it prints. A block that
cannot run says why in its fence: ```python no-run="the reason". Time is virtual.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import re
import traceback
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import agentbg.stores
from agentbg import Agent
from agentbg.testing.clock import VirtualTimeLoop, announced
from agentbg.testing.server import (
    CutAfterEvent,
    FunctionCall,
    McpApprovalRequest,
    ResponsesServer,
    Script,
    Status,
    answers,
)
from agentbg.testing.server.wire import JSON, input_text

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(r"^```(\w+)(.*)\n((?s:.*?))^```$", re.MULTILINE)
REASON = re.compile(r' no-run="[^"]+"')


@dataclass(frozen=True)
class Block:
    """A block of Python: where its first line is, and what it must print, if that is said."""

    page: str
    line: int
    code: str
    output: str | None = None

    def run(self, runner: asyncio.Runner, names: dict[str, Any]) -> str:
        """Run it, and the tests that it defines; what it printed. Errors show the page's own line."""
        code = "\n" * (self.line - 1) + self.code
        with redirect_stdout(io.StringIO()) as printed:
            finish(runner, eval(compile(code, self.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names))
            for name in [name for name in names if name.startswith("test_")]:
                finish(runner, names.pop(name)())

        if self.output is not None:
            assert printed.getvalue().strip() == self.output.strip(), f"what line {self.line} of {self.page} prints"

        return printed.getvalue()


def finish(runner: asyncio.Runner, running: Any) -> None:
    if inspect.isawaitable(running):
        runner.run(running)


def read(text: str, page: str = "page.md") -> list[Block]:
    """The blocks of a page that run. Raises ValueError for a page that has none, or says of one what nobody knows."""
    blocks: list[Block] = []
    before = None  # the block that an output would be of
    for fence in FENCE.finditer(text):
        language, mark, content = fence.groups()
        line = text.count("\n", 0, fence.start(3)) + 1
        if language == "output":
            if before is None:
                raise ValueError(f"{page}:{line}: this output follows no block that runs")

            blocks[-1] = Block(page, before.line, before.code, content)
        elif language == "python" and mark and not REASON.fullmatch(mark):
            raise ValueError(f'{page}:{line}: {mark.strip()!r} is not no-run="the reason"')

        before = None
        if language == "python" and not mark:
            before = Block(page, line, content)
            blocks.append(before)

    if not blocks:
        raise ValueError(f"{page} has no block that runs")

    return blocks


CALL = re.compile(r"(call|mcp) (\w+) (\{.*?\})")


AT_ONCE = {
    "capital": Script.text("Amsterdam."),
    "live there": Script.text("About 930,000."),
    "report": Script.json({"title": "The tides", "places": ["Den Helder", "Texel"]}),
}


def service(request: JSON) -> Script:
    """What the pages' service answers. It makes the calls that are spelled out in what it reads, be that a question or
    an output; any other output it says back."""
    told = [*answers(request).values()]
    question = "\n".join(map(heard, told)) if told else input_text(request)
    if calls := CALL.findall(question):
        kinds = {"call": FunctionCall, "mcp": McpApprovalRequest}
        return Script.of(*(kinds[kind](*call) for kind, *call in calls)).lasting(running=3)

    if told:
        return Script.text(question).lasting(running=3)

    if "weather" in question:
        return Script.text("Windy, with showers.").lasting(queued=0.5, running=5)

    if "joke" in question:
        return Script.text("Why are pirates called pirates? Because they arrr.").lasting(queued=0.5, delay=0.2)

    for word, script in AT_ONCE.items():
        if word in question:
            return script

    if "by nothing" in question:
        return Script.failed("server_error", "Nothing is too small to divide by.").lasting(running=3)

    if "refund" in question:
        return Script.call("refund", {"order": 17}).lasting(running=3)

    if "Look up" in question:
        return Script.call("look_up", {}).lasting(running=3)

    return Script.story(deltas=40).lasting(queued=0.2, delay=0.01)


def heard(answer: Any) -> str:
    """An answer as the model of the pages reads it."""
    if isinstance(answer, bool):
        return "Allowed." if answer else "Not allowed."

    return answer if isinstance(answer, str) else " ".join(part.get("text", f"[{part['type']}]") for part in answer)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page expects of its reader: an empty folder, and a key. A store's thread is announced to virtual time."""
    store = agentbg.stores.SQLiteStore
    monkeypatch.setattr(agentbg.stores, "SQLiteStore", lambda path: announced(store(path, commit_window=0)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "any")


def run_all(blocks: Iterable[Block], server: ResponsesServer, monkeypatch: pytest.MonkeyPatch, **names: Any) -> str:
    """Run blocks in this order while the server serves; all that they printed."""

    async def close() -> None:
        for agent in names.values():
            if isinstance(agent, Agent):
                await agent.aclose()

        await server.__aexit__(None, None, None)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(server.__aenter__())
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        try:
            return "".join([block.run(runner, names) for block in blocks])
        finally:
            runner.run(close())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_runs_as_it_stands(page: Path, reader: None, monkeypatch: pytest.MonkeyPatch) -> None:
    run_all(read(page.read_text("utf-8"), str(page)), ResponsesServer(script=service), monkeypatch)


def test_the_readme_runs_against_a_server_that_breaks(reader: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first block is there to be seen first, and uses what the others import and make.
    first, *rest = read(README.read_text("utf-8"), str(README))
    server = ResponsesServer(script=service, faults=[CutAfterEvent(9), Status(503, on="poll")])
    printed = run_all([*rest, first], server, monkeypatch, last_seen_seq=7)

    story = server.run(0).text
    assert printed.startswith(story), "every update once"
    assert printed.endswith(f"{story}\n"), "the result"
    assert re.findall(r"run_\w+ (\w+)", printed).count("cancelled") == 1
    assert printed.count("Order 17 is paid back.") == 1
    assert (server.count("create"), server.count("cancel")) == (8, 1)


def fenced(*blocks: str) -> str:
    return "\n".join(f"```{block}\n```\n" for block in blocks)


def test_blocks_share_their_names_and_are_compared_with_what_they_must_print() -> None:
    told, silent = read(fenced("python\nx = 1\nprint(x)", "output\n1", "python\ny = x"))
    names: dict[str, Any] = {}
    with asyncio.Runner() as runner:
        assert told.run(runner, names) == "1\n"
        assert silent.run(runner, names) == ""
        with pytest.raises(AssertionError, match="what line 2 of page"):
            Block("page.md", 2, "print(2)", "1\n").run(runner, names)

    assert (names["x"], names["y"]) == (1, 1)


def test_an_error_shows_the_line_of_the_page() -> None:
    [block] = read("# Title\n\n" + fenced("python\nx = 1\nx / 0"))
    with asyncio.Runner() as runner, pytest.raises(ZeroDivisionError) as caught:
        block.run(runner, {})

    assert traceback.extract_tb(caught.tb)[-1].lineno == 5


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Nothing but words.", "page.md has no block that runs"),
        (fenced('python no-run="half of a program"\nx ='), "page.md has no block that runs"),
        (fenced("python norun\nx = 1"), "page.md:2: 'norun' is not no-run="),
        (fenced('python no-run=""\nx = 1'), "is not no-run="),
        (fenced("python\nx = 1", "console\n$ make", "output\n1"), "page.md:10: this output follows no block"),
    ],
    ids=["no block", "none that runs", "unknown mark", "no reason", "output of nothing"],
)
def test_a_page_that_cannot_be_tested_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read(text)
