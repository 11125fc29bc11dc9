"""The service that the runs live at: OpenAI's when there is a key, a model on this machine when there is none."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
START = 120  # seconds for the local model to load; two cores need five
STOP = 10  # seconds for it to end by itself


@dataclass(frozen=True)
class Service:
    """Where to send runs."""

    model: str
    base_url: str
    api_key: str

    @property
    def plain(self) -> bool:
        """True when it speaks plain HTTP, which a proxy can read."""
        return self.base_url.startswith("http://")


@asynccontextmanager
async def find_service() -> AsyncIterator[Service]:
    """OPENAI_API_KEY, OPENAI_BASE_URL and AGENTBG_MODEL say which; without a key, SmolLM2 in a process of its own."""
    if key := os.environ.get("OPENAI_API_KEY"):
        base_url = os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        yield Service(os.environ.get("AGENTBG_MODEL", "gpt-5-mini"), base_url, key)
        return

    async with model_server() as base_url:
        yield Service("SmolLM2-135M-Instruct", base_url, "no key needed")


@asynccontextmanager
async def model_server() -> AsyncIterator[str]:
    """The local model's base URL. A session of its own keeps Ctrl-C from it, so that it ends after its clients."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "examples.main_job.model_server",
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START)
        ready, _, base_url = line.decode().strip().partition(" ")
        if ready != "READY":
            raise RuntimeError(f"The model server ended before it was ready, with code {await process.wait()}.")

        yield base_url
    finally:
        await end(process)


async def end(process: asyncio.subprocess.Process) -> None:
    """Terminate a process; kill it if it does not hear."""
    if process.returncode is not None:
        return

    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP)
    except TimeoutError:
        process.kill()
        await process.wait()
