from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_httpx2  # noqa: F401 (teaches respx to stand in for httpcore2)
import respx
from openai_wire import BASE
from relay import Relay, resolving_to

from agentbg.providers import OpenAIResponses, _lean_wire


@pytest.fixture(params=["sdk", "lean"])
async def api(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[respx.MockRouter]:
    """The service, in place of the network, on both wires: what no route answers fails the test.

    Where respx mocks the SDK's transport, no request takes the lean wire. So that it does, the mock is not seen, and
    the same routes are behind a port, too.
    """
    with respx.mock(base_url=BASE, using="httpcore2", assert_all_called=False) as router:
        if request.param == "sdk":
            yield router
            return

        relay = Relay(router)
        await relay.start()
        monkeypatch.setattr(_lean_wire, "untouched", lambda: True)
        monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolving_to(relay.port))
        yield router
        await relay.stop()


@pytest.fixture
async def provider(api: respx.MockRouter) -> AsyncIterator[OpenAIResponses]:
    provider = OpenAIResponses("gpt-5", api_key="key", base_url=BASE)
    yield provider
    await provider.aclose()
