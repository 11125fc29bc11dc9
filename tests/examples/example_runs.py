"""Runs an example as it stands, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.py"))
WAIT = 120  # seconds; with a real model on a busy machine the longest takes half of it


async def run_example(
    base_url: str, folder: Path, name: str, *arguments: str, said: str = "", **environment: str | None
) -> str:
    """What an example prints with the service at `base_url`. It must end well, and complain of nothing.

    `said` is what its user types. `environment` is beside the usual; None takes a variable away.
    """
    process = await start_example(base_url, folder, name, *arguments, **environment)
    out, err = await asyncio.wait_for(process.communicate(said.encode()), WAIT)
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode()


async def start_example(
    base_url: str, folder: Path, name: str, *arguments: str, **environment: str | None
) -> asyncio.subprocess.Process:
    """An example under way."""
    wanted = {
        **os.environ,
        "OPENAI_BASE_URL": base_url,
        "OPENAI_API_KEY": "any",
        "AZURE_OPENAI_ENDPOINT": base_url.removesuffix("/v1"),
        "AZURE_OPENAI_API_KEY": "any",
        "OPENAI_API_VERSION": None,
        "AGENTBG_MODEL": None,
        "PYTHONPATH": str(EXAMPLES.parent),
        "PYTHONWARNINGS": "error",  # also of what was left open
        **environment,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        EXAMPLES / name,
        *arguments,
        cwd=folder,
        env={key: value for key, value in wanted.items() if value is not None},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
