"""The README's Python runs as it stands there, against a server that breaks."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

from agentbg.testing.server import CutAfterEvent, ResponsesServer, Script, Status

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


async def test_the_readme_runs(tmp_path, monkeypatch, capsys):
    script = Script.story(deltas=40).lasting(queued=0.2, delay=0.01)
    async with ResponsesServer(script=script, faults=[CutAfterEvent(9), Status(503, on="poll")]) as server:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "any")
        names = {"last_seen_seq": 7}  # what a reader brings
        try:
            # The first block is there to be seen first, and uses what the second imports and makes.
            for block in reversed(BLOCKS):
                code = compile(block, str(README), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                if inspect.isawaitable(running := eval(code, names)):
                    await running
        finally:
            await names["agent"].aclose()

        story = server.run(0).text
        printed = capsys.readouterr().out
        assert printed.startswith(story), "every update once"
        assert printed.endswith(f"{story}\n"), "the result"
        assert re.findall(r"run_\w+ (\w+)", printed).count("cancelled") == 1
        assert (server.count("create"), server.count("cancel")) == (4, 1)
