from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START = 60  # seconds; it takes two, and more on a machine that is busy


@pytest.fixture(scope="session")
def azure_url() -> Iterator[str]:
    """The base URL of an azure-ai-agentserver-responses host, in a process of its own."""
    command = [sys.executable, "-m", "tests.peers.azure_server"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            said, _, _ = select.select([server.stdout], [], [], START)
            ready, _, url = (server.stdout.readline() if said else "").strip().partition(" ")
            assert ready == "READY", f"The peer did not start within {START} s."
            yield url
        finally:
            server.terminate()
