"""What agentbg knows of openai-python beyond its public API: all of it is here, and only ever read.

Each question may be answered "no": when the SDK changes, or when something about a client is out of the ordinary. Then
its requests go through the SDK itself, which is always right, and slower.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import FunctionType
from typing import Any

import httpcore2
import httpx2
import openai
from openai.resources.responses import AsyncResponses

_CLIENTS = (openai.AsyncOpenAI, openai.AsyncAzureOpenAI)


def plain_http(client: openai.AsyncOpenAI) -> httpx2.AsyncClient | None:
    """The http client that an AsyncOpenAI made for itself, when any other http client would serve as well.

    None when the caller gave one, when a proxy of the environment is in the way, and for credentials that are more
    than a key or a token: those of a workload, of a provider, or in the base URL.
    """
    inside: Any = client
    try:
        http = inside._client
        plain = (
            type(client) in _CLIENTS
            and (type(http).__module__, type(http).__name__) == ("openai._base_client", "AsyncHttpxClientWrapper")
            and http._transport_for_url(client.base_url) is http._transport
            and inside._provider is None
            and client.workload_identity is None
            and not client.base_url.userinfo
            and all(hook.__module__.startswith("openai.") for hooks in http.event_hooks.values() for hook in hooks)
        )
    except AttributeError:
        return None

    return http if plain else None


def key_source(client: openai.AsyncOpenAI) -> tuple[str, Callable[[], Awaitable[str] | str]] | None:
    """The function that a plain client asks for a key before each request, and the option that it is given as."""
    for option, attribute in (
        ("api_key", "_api_key_provider"),
        ("azure_ad_token_provider", "_azure_ad_token_provider"),
    ):
        if (source := getattr(client, attribute, None)) is not None:
            return option, source

    return None


def untouched() -> bool:
    """False while somebody stands between the SDK and the network: a mock of a test, or a tracer."""
    return (
        _is_own(AsyncResponses.retrieve, "openai")
        and _is_own(AsyncResponses.create, "openai")
        and _is_own(httpx2.AsyncHTTPTransport.handle_async_request, "httpx2")
        and _is_own(httpcore2.AsyncConnectionPool.handle_async_request, "httpcore2")
    )


def _is_own(function: object, package: str) -> bool:
    """By where its code stands: `functools.wraps` makes a wrapper look like what it wraps."""
    return isinstance(function, FunctionType) and function.__globals__["__name__"].startswith(package)
