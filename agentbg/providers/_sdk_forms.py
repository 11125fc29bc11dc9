"""Requests as openai-python writes them, with blanks for what differs from one to the next.

A client's settings are all in them: address, query, headers, time-outs. So whoever fills in a form and sends it has
honoured the settings without knowing any of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import openai

from ._sdk_private import key_source
from ._wire import SDKWire

_RUN, _CURSOR, _KEY = "run-f2c61ab9", 8_161_442_907_315, "key-5d0e7c31"
"""The blanks: what nobody else would write."""
_OF_A_BODY = ("content-length", "transfer-encoding")


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of request. Time-outs are httpx's four, in seconds: connect, read, write, pool; None for no bound."""

    method: str
    address: str
    headers: Mapping[str, str]
    timeout: Mapping[str, float | None]

    @classmethod
    def of(cls, request: httpx2.Request, http: httpx2.AsyncClient) -> Form:
        """The form that a request with blanks is, without what its http client added: another adds its own."""
        added = http.build_request(request.method, request.url).headers
        headers = {
            name: value
            for name, value in request.headers.items()
            if name not in _OF_A_BODY and value != added.get(name)
        }
        return cls(request.method, str(request.url), headers, request.extensions["timeout"])

    def url(self, run_id: str, after: int | None) -> str:
        """The address, filled in. The run's id goes in as it is."""
        url = self.address.replace(_RUN, run_id)
        return url if after is None else url.replace(str(_CURSOR), str(after))


@dataclass(frozen=True, slots=True)
class Forms:
    """A client's requests that are made often."""

    poll: Form
    attach: Form
    attach_after: Form
    open: Form
    key: Callable[[], Awaitable[str] | str] | None
    """Asked for a key before each request; None where the key is a part of the forms."""

    async def headers(self, form: Form) -> Mapping[str, str]:
        """A form's headers, filled in. Raises what the function that gives the key does."""
        if self.key is None:
            return form.headers

        answer = self.key()
        key: Any = await answer if inspect.isawaitable(answer) else answer
        if not isinstance(key, str) or not key:
            raise openai.OpenAIError(f"the function that gives the key gave {type(key).__name__}, and no key")

        return {name: value.replace(_KEY, key) for name, value in form.headers.items()}


async def forms_of(client: openai.AsyncOpenAI, timeout: float) -> Forms | None:
    """Let the SDK write each request once; none of them is sent. `timeout` bounds a poll.

    None when it does not write them as expected: then only the SDK knows how to send them.
    """
    written: list[httpx2.Request] = []

    def keep(request: httpx2.Request) -> httpx2.Response:
        written.append(request)
        return httpx2.Response(200, json={})

    async def blank() -> str:
        return _KEY

    option, key = key_source(client) or (None, None)
    options: dict[str, Any] = {option: blank} if option else {}
    try:
        async with openai.DefaultAsyncHttpxClient(transport=httpx2.MockTransport(keep)) as http:
            await _write_all(SDKWire(client.with_options(http_client=http, **options), timeout))
            poll, attach, attach_after, start = (Form.of(request, http) for request in written)
    except Exception:  # noqa: BLE001 (whatever it is: the request itself will tell)
        return None

    whole = all(_RUN in form.address for form in (poll, attach, attach_after)) and str(_CURSOR) in attach_after.address
    return Forms(poll, attach, attach_after, start, key) if whole else None


async def _write_all(sdk: SDKWire) -> None:
    await sdk.poll(_RUN)
    for asked in (sdk.attach(_RUN, None), sdk.attach(_RUN, _CURSOR), sdk.open({}, None)):
        async with asked:
            pass
