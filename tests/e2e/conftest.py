from __future__ import annotations

import asyncio
import functools
import logging
import ssl
from collections.abc import AsyncIterator, Iterator

import pytest

from agentbg.providers import _lean_wire
from agentbg.testing.server import ResponsesServer
from tests.peers.conftest import azure_url as azure_url

from .helpers import agent_of


@pytest.fixture(scope="session", autouse=True)
def warm() -> Iterator[None]:
    """The first call loads half of the SDK: no test's clock is to run meanwhile. Nor is each client to read all
    certificates of the world, for a server on the loopback."""
    patch = pytest.MonkeyPatch()
    patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))

    async def call() -> None:
        async with ResponsesServer() as server, agent_of(server) as agent:
            await agent.run("warm up")

    asyncio.run(call())
    yield
    patch.undo()


@pytest.fixture(params=["lean", "sdk"])
def wire(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to the service: as a client of settings alone goes, and as any other."""
    if request.param == "sdk":
        monkeypatch.setattr(_lean_wire, "plain_http", lambda _: None)


@pytest.fixture(autouse=True)
async def quiet(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """No test leaves a task, or an error that only a log would show."""
    before = asyncio.all_tasks()
    yield
    for _ in range(3):
        await asyncio.sleep(0)

    assert [task for task in asyncio.all_tasks() - before if task.get_name().startswith("agentbg")] == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
