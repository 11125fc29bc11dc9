"""The examples of the scripted provider and of virtual time in docs/testing.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "testing.md"
OURS = DOCUMENT.read_text("utf-8").partition("## Scripted provider")[2]
BLOCKS = re.findall(r"```python\n(.*?)```", OURS, re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_an_example_runs(code):
    names = {}
    exec(compile(code, str(DOCUMENT), "exec"), names)
    for name, test in names.items():
        if name.startswith("test_"):
            test()
