"""openai-python's requests over aiohttp, at an eighth of the CPU.

Only where no other http client is wanted: a client of the caller's own, a proxy, a mock or a tracer is used as ever
(`_sdk_private` tells). Redirects and odd ids, which are rare, are left to the SDK, too. A GET whose connection ends
before an answer is sent once more, by aiohttp: an old connection may have been closed meanwhile. A start never is.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import aiohttp
import httpx2
import openai
import pydantic_core
from yarl import URL

from ..errors import ServiceUnavailable
from ._sdk_forms import Form, Forms, forms_of
from ._sdk_private import plain_http, untouched
from ._wire import Headers, SDKWire, Streamed, Wire, key_header

_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]+")
_DONE_WITH = ("content-encoding", "content-length", "transfer-encoding")
"""Headers of a body that are no longer true of what aiohttp made of it."""
_LONG_LINES: Any = {"max_line_size": 65_536, "max_field_size": 65_536}
_ENCODINGS = {"accept-encoding": "gzip, deflate"}
_REDIRECTED = "The service answered the start with a redirect (HTTP {}) to {}; make its address the base URL."


def wire_of(client: openai.AsyncOpenAI, timeout: float) -> Wire:
    """The leanest wire that serves a client. `timeout` bounds a poll, in seconds."""
    sdk, http = SDKWire(client, timeout), plain_http(client)
    return LeanWire(client, http, sdk, timeout) if http else sdk


class LeanWire:
    """A `Wire` over aiohttp. `http` is the client's own http client, with which it shares cookies."""

    def __init__(self, client: openai.AsyncOpenAI, http: httpx2.AsyncClient, sdk: SDKWire, timeout: float) -> None:
        self._client = client
        self._http = http
        self._sdk = sdk
        self._timeout = timeout
        self._learned = False
        self._forms: Forms | None = None
        self._pools: dict[asyncio.AbstractEventLoop, _Pool] = {}

    async def poll(self, run_id: str) -> tuple[Headers, bytes]:
        if forms := await self._ready(run_id):
            response = await self._send(forms, forms.poll, forms.poll.url(run_id, None))
            try:
                if response.status < 300:
                    return response.headers, await response.read()
            finally:
                response.close()

        return await self._sdk.poll(run_id)

    @asynccontextmanager
    async def attach(self, run_id: str, after: int | None) -> AsyncGenerator[Streamed]:
        if forms := await self._ready(run_id):
            form = forms.attach if after is None else forms.attach_after
            response = await self._send(forms, form, form.url(run_id, after))
            try:
                if response.status < 300:
                    yield _Answer(response)
                    return
            finally:
                response.close()

        async with self._sdk.attach(run_id, after) as answer:
            yield answer

    @asynccontextmanager
    async def open(self, body: Mapping[str, Any], key: str | None) -> AsyncGenerator[Streamed]:
        """A redirect that does not ask for the same request again may stand for work that was done."""
        if forms := await self._ready():
            response = await self._send(forms, forms.open, forms.open.address, _json(body), key_header(key))
            try:
                if response.status < 300:
                    yield _Answer(response)
                    return

                if response.status not in (307, 308):
                    raise ServiceUnavailable(_REDIRECTED.format(response.status, response.headers.get("location")))
            finally:
                response.close()

        async with self._sdk.open(body, key) as answer:
            yield answer

    async def aclose(self) -> None:
        if pool := self._pools.pop(asyncio.get_running_loop(), None):
            await pool.session.close()

        self._pools.clear()

    async def _ready(self, run_id: str = "any") -> Forms | None:
        """The forms, when a request goes this way now; else it is the SDK's. A closed client is to say so itself."""
        if _PLAIN_ID.fullmatch(run_id) is None or self._client.is_closed() or not untouched():
            return None

        if not self._learned:
            async with self._pool().learning:  # many first requests may come at once
                if not self._learned:
                    self._forms = await forms_of(self._client, self._timeout)
                    self._learned = True

        return self._forms

    async def _send(
        self, forms: Forms, form: Form, url: str, body: bytes | None = None, more: Headers | None = None
    ) -> aiohttp.ClientResponse:
        """The answer, good or a redirect, whose body is still to come. Raises openai-python's errors."""
        headers = {**_ENCODINGS, **await forms.headers(form), **self._cookie(url), **(more or {})}
        try:
            response = await self._pool().session.request(
                form.method,
                URL(url, encoded=True),
                data=None if body is None else io.BytesIO(body),  # bytes, if many, would be written at once
                headers=headers,
                timeout=_bounds(form),
                allow_redirects=False,
                **_LONG_LINES,
            )
            self._keep_cookies(url, response)
            if response.status >= 400:
                raise await _refusal(response, httpx2.Request(form.method, url))
        except TimeoutError as error:
            raise openai.APITimeoutError(httpx2.Request(form.method, url)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise openai.APIConnectionError(request=httpx2.Request(form.method, url)) from error

        return response

    def _pool(self) -> _Pool:
        """A connection belongs to a loop."""
        loop = asyncio.get_running_loop()
        if (pool := self._pools.get(loop)) is None:
            self._pools = {other: pool for other, pool in self._pools.items() if not other.is_closed()}
            pool = self._pools[loop] = _Pool(loop, secure=self._client.base_url.scheme == "https")

        return pool

    def _cookie(self, url: str) -> Headers:
        """What the service gave with any answer: a balancer may tell by it where a run lives."""
        if not len(self._http.cookies.jar):
            return {}

        request = httpx2.Request("GET", url)
        self._http.cookies.set_cookie_header(request)
        return {"cookie": request.headers["cookie"]} if "cookie" in request.headers else {}

    def _keep_cookies(self, url: str, response: aiohttp.ClientResponse) -> None:
        if given := response.headers.getall("set-cookie", None):
            headers = [("set-cookie", value) for value in given]
            answer = httpx2.Response(response.status, headers=headers, request=httpx2.Request("GET", url))
            self._http.cookies.extract_cookies(answer)


class _Pool:
    """One loop's connections: as many as the SDK's own client keeps, and as long. Dropped, it closes in silence."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, secure: bool) -> None:
        limits = openai.DEFAULT_CONNECTION_LIMITS
        self.learning = asyncio.Lock()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=limits.max_connections or 0,
                keepalive_timeout=limits.keepalive_expiry,
                resolver=aiohttp.ThreadedResolver(),
                ssl=httpx2.create_ssl_context() if secure else True,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
        )
        weakref.finalize(self, _drop, loop, self.session)


def _drop(loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession) -> None:
    """Close what nobody closed. aiohttp's own way with that is a complaint in the log."""
    connector = session.connector
    session.detach()
    if connector is None or connector.closed:
        return

    if loop.is_running() and _running_loop() is not loop:
        loop.call_soon_threadsafe(_close_now, connector)
    else:
        _close_now(connector)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _close_now(connector: aiohttp.BaseConnector) -> None:
    """The first step of a close closes all connections; the rest only waits for them."""
    with suppress(StopIteration):
        next(connector.close().__await__())


class _Answer:
    """An answer of aiohttp's as `Streamed`; also the iterator over its body."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.headers: Headers = response.headers
        self.read = response.read
        self._body = response.content
        self._broken: Exception | None = None

    def iter_bytes(self) -> AsyncIterator[bytes]:
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._broken is not None:
            raise self._broken

        try:
            chunk = await self._body.readany()
        except (aiohttp.ClientError, OSError) as error:
            self._broken = error
            chunk = self._unread()
            if not chunk:
                raise

        if not chunk:
            raise StopAsyncIteration

        return chunk

    def _unread(self) -> bytes:
        """What came before a break and was not yet taken. aiohttp has no public way to it."""
        take: Any = getattr(self._body, "_read_nowait", None)
        return cast("bytes", take(-1)) if take else b""


def _bounds(form: Form) -> aiohttp.ClientTimeout:
    connect, pool = form.timeout["connect"], form.timeout["pool"]
    both = None if connect is None or pool is None else connect + pool
    return aiohttp.ClientTimeout(total=None, connect=both, sock_connect=connect, sock_read=form.timeout["read"])


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


async def _refusal(response: aiohttp.ClientResponse, request: httpx2.Request) -> openai.APIStatusError:
    """A bad status as the SDK raises it."""
    try:
        content = await response.read()
    finally:
        response.close()

    headers = [(name, value) for name, value in response.headers.items() if name.lower() not in _DONE_WITH]
    answer = httpx2.Response(response.status, headers=headers, content=content, request=request)
    try:
        body: Any = pydantic_core.from_json(content)
    except ValueError:
        body = answer.text.strip()

    if isinstance(body, dict):
        body = cast("dict[str, Any]", body).get("error", body)

    return openai.APIStatusError(f"Error code: {response.status}", response=answer, body=body)
