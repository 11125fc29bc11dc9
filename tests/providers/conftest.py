from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_httpx2  # noqa: F401 (teaches respx to stand in for httpcore2)
import respx
from openai_wire import BASE

from agentbg.providers import OpenAIResponses


@pytest.fixture
def api() -> Iterator[respx.MockRouter]:
    """The service, in place of the network: what no route answers fails the test."""
    with respx.mock(base_url=BASE, using="httpcore2", assert_all_called=False) as router:
        yield router


@pytest.fixture
async def provider(api: respx.MockRouter) -> AsyncIterator[OpenAIResponses]:
    provider = OpenAIResponses("gpt-5", api_key="key", base_url=BASE)
    yield provider
    await provider.aclose()
