"""The examples in docs/testing.md run as they stand there."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "testing.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_an_example_runs(code):
    names = {}
    exec(compile(code, str(DOCUMENT), "exec"), names)
    for name, test in names.items():
        if name.startswith("test_") and inspect.isawaitable(running := test()):  # virtual time runs its own loop
            asyncio.run(running)
