"""Azure OpenAI's Responses API: OpenAI's, at another address and with other credentials."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

import openai

from ..errors import AuthenticationFailed, ProviderError, ServiceUnavailable, UsageError
from .base import Cap
from .openai import OpenAIResponses, fingerprint

TokenProvider = Callable[[], str | Awaitable[str]]
"""Gives an Entra ID token, such as what `azure.identity.get_bearer_token_provider` makes, or its asynchronous twin."""

_API = re.compile(r"/openai(/v1|/deployments/[^/]*)?/*$")


class AzureOpenAIResponses(OpenAIResponses):
    """A provider for Azure OpenAI's Responses API in background mode. `model` is the name of your deployment.

    Give either `client`, your own `AsyncAzureOpenAI` or `AsyncOpenAI`, or what one is made of: `azure_endpoint`
    (`https://NAME.openai.azure.com`; default: AZURE_OPENAI_ENDPOINT) and one of `api_key` (default:
    AZURE_OPENAI_API_KEY) and `token_provider`, which is asked for an Entra ID token before each request: in a thread,
    unless it is asynchronous. The v1 endpoint is used, or with `api_version` the older one of that version.

    The protocol is OpenAI's, so the name in tokens is "openai", too; the endpoint's fingerprint is the resource's own,
    whichever of its addresses is used: a token or a stored run outlives a change from one to the other.

    `timeout` is as for OpenAIResponses. Raises AuthenticationFailed when there is no credential, UsageError when there
    is no endpoint, or too much is given.
    """

    caps = OpenAIResponses.caps & ~Cap.WEBHOOKS
    """No webhooks of Azure's are known."""

    def __init__(
        self,
        model: str,
        *,
        client: openai.AsyncOpenAI | None = None,
        azure_endpoint: str | None = None,
        api_key: str | None = None,
        token_provider: TokenProvider | None = None,
        api_version: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        if client is not None and (azure_endpoint or api_key or token_provider or api_version):
            raise UsageError("A client of your own has its endpoint and credentials: give either it, or those.")

        made = client or _make_client(azure_endpoint, api_key, token_provider, api_version)
        super().__init__(model, client=made, timeout=timeout)
        self._owned = client is None
        self.endpoint = fingerprint(_resource(str(made.base_url)) + "/openai/v1")


def _make_client(
    endpoint: str | None, api_key: str | None, token_provider: TokenProvider | None, api_version: str | None
) -> openai.AsyncOpenAI:
    endpoint = endpoint or os.environ.get("AZURE_OPENAI_ENDPOINT")
    if not endpoint:
        raise UsageError("No endpoint: set the environment variable AZURE_OPENAI_ENDPOINT, or pass azure_endpoint=…")

    if api_key and token_provider:
        raise UsageError("Give an API key or a token provider, not both.")

    key = None if token_provider else api_key or os.environ.get("AZURE_OPENAI_API_KEY")
    token = _asking(token_provider) if token_provider else None
    if not key and token is None:
        raise AuthenticationFailed(
            "No credential for Azure: set the environment variable AZURE_OPENAI_API_KEY, or pass api_key=… or "
            "token_provider=…"
        )

    resource = _resource(endpoint)
    if api_version is None:
        return openai.AsyncOpenAI(base_url=f"{resource}/openai/v1/", api_key=token or key)

    return openai.AsyncAzureOpenAI(
        azure_endpoint=resource, api_version=api_version, api_key=key, azure_ad_token_provider=token
    )


def _resource(url: str) -> str:
    """The address that all APIs of a resource begin with."""
    return _API.sub("", url.rstrip("/"))


def _asking(provider: TokenProvider) -> Callable[[], Awaitable[str]]:
    """A token provider that never blocks the loop, and whose troubles are ours: nothing was sent yet."""
    calls = (provider, getattr(provider, "__call__", None))  # noqa: B004 (the method itself, not whether there is one)
    asynchronous = any(map(inspect.iscoroutinefunction, calls))

    async def ask() -> str:
        try:
            answer = provider() if asynchronous else await asyncio.to_thread(provider)
            token: Any = await answer if inspect.isawaitable(answer) else answer
        except Exception as error:
            raise _no_token(error) from error

        if not isinstance(token, str) or not token:
            raise AuthenticationFailed(f"The token provider gave {type(token).__name__} instead of a token.")

        return token

    return ask


def _no_token(error: Exception) -> ProviderError:
    """By name, as azure-identity need not be installed. It may be the network, too, that a provider fails at."""
    message = f"The token provider failed: {type(error).__name__}: {error}"
    if any(kind.__name__ == "ClientAuthenticationError" for kind in type(error).__mro__):
        return AuthenticationFailed(message)

    return ServiceUnavailable(message, unsent=True)
