"""OpenAI's Responses API, and every server that speaks it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import cast
from urllib.parse import urlsplit

import openai

from ..core.model import JSON, Cursor, EventKind, RunRef, Snapshot, StartRequest, StreamEvent
from ..errors import (
    AuthenticationFailed,
    RunNotFound,
    ServiceUnavailable,
    StreamRefused,
    Unsupported,
    UsageError,
    WebhookInvalid,
)
from ._lean_wire import wire_of
from ._sdk_private import key_source
from ._shapes import Shapes
from ._wire import key_header
from .base import Cap, Resume, Webhook
from .openai_errors import poll_after, translated
from .responses_events import EventReader, json_object, start_of
from .responses_wire import read_response, start_body

DAY = 86_400.0
_SALT = secrets.token_bytes(16)
"""Of this process: what is made with it is no secret."""


class OpenAIResponses:
    """A provider for OpenAI's Responses API in background mode.

    Give either `client`, your own `AsyncOpenAI` with all its settings (auth, headers, proxy, time-outs, http client),
    or what one is made of: `api_key` (default: OPENAI_API_KEY) and `base_url` (default: OPENAI_BASE_URL, then OpenAI).
    Your client is used with its retries off, since the core decides what to retry, and is never closed by us.

    Polls and streams are sent over aiohttp, with all of the client's settings: an eighth of the CPU of a poll through
    the SDK. Where something is to stand between the SDK and the network, they go through the SDK: an http client of
    your own, a proxy of the environment, a subclass, a workload's identity, a test's mock, a tracer.

    `timeout` bounds a poll, a cancel and a delete, in seconds. A start may take as long as the client allows (10
    minutes, unless yours says otherwise): a server that ignores `background` answers it when the run has ended, and a
    start given up too soon is a run lost. `webhook_secret` (default: the client's, then OPENAI_WEBHOOK_SECRET) is what
    webhooks are verified with. Raises AuthenticationFailed when no key is to be found.
    """

    name = "openai"
    caps = Cap.STREAM_START | Cap.CANCEL | Cap.DELETE | Cap.PARTIAL_ON_POLL | Cap.PREVIOUS | Cap.WEBHOOKS
    resume = Resume.CURSOR
    retention = 30 * DAY
    """"At least 30 days", as openai-python documents `store`."""

    def __init__(
        self,
        model: str,
        *,
        client: openai.AsyncOpenAI | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float = 60.0,
        webhook_secret: str | None = None,
    ) -> None:
        self.model = model
        self._webhook_secret = webhook_secret
        self._owned = client is None
        self._client = (client or _make_client(api_key, base_url)).with_options(max_retries=0)
        self._timeout = timeout
        self._wire = wire_of(self._client, timeout)
        self._shapes = Shapes()
        self.endpoint = fingerprint(str(self._client.base_url))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self.model!r}, base_url={_address(str(self._client.base_url))!r})"

    @property
    def credential(self) -> str:
        """What the service counts requests by, in this process: a keyed hash of the key, the organization and the
        project. Where a function gives the key, that function stands for it."""
        client, source = self._client, key_source(self._client)
        key = client.api_key if source is None else f"{id(source[1])}"
        named = "\0".join((key, client.organization or "", client.project or ""))
        return hashlib.blake2b(named.encode(), key=_SALT, digest_size=8).hexdigest()

    async def start(self, request: StartRequest, *, key: str | None = None) -> Snapshot:
        body = start_body(request, self.model, stream=False)
        with translated(f"Starting a run of {self.model}"):
            answer = await self._client.responses.with_raw_response.create(
                extra_body=body, extra_headers=key_header(key)
            )
            return self._read(answer.http_response.headers, answer.http_response.content)

    async def open(
        self, request: StartRequest, *, key: str | None = None
    ) -> AsyncGenerator[Sequence[StreamEvent], None]:
        body = start_body(request, self.model, stream=True)
        what = f"Starting a streamed run of {self.model}"
        with translated(what):
            async with self._wire.open(body, key) as answer:
                if _media_type(answer.headers) == "application/json":
                    snapshot = self._read(answer.headers, await answer.read())
                    kind = EventKind.STATUS if snapshot.status.live else EventKind.END
                    yield [StreamEvent(kind, snapshot.raw, snapshot=snapshot)]
                    raise StreamRefused(f"{what}: the service answered without a stream.")

                yield []
                reader = self._reader(answer.headers)
                async for chunk in answer.iter_bytes():
                    yield reader.feed(chunk)
                    reader.check()

    async def poll(self, ref: RunRef) -> Snapshot:
        with translated(f"Polling run {ref.id}", run_id=ref.id):
            headers, content = await self._wire.poll(_id(ref))
            return self._read(headers, content)

    async def attach(self, ref: RunRef, *, after: Cursor | None = None) -> AsyncGenerator[Sequence[StreamEvent], None]:
        what = f"Streaming run {ref.id}"
        with translated(what, run_id=ref.id, attaching=True):
            async with self._wire.attach(_id(ref), after if isinstance(after, int) else None) as answer:
                if _media_type(answer.headers) == "application/json":
                    raise StreamRefused(f"{what}: the service answered JSON instead of a stream.")

                reader = self._reader(answer.headers)
                yield []
                async for chunk in answer.iter_bytes():
                    yield reader.feed(chunk)
                    reader.check()

    async def cancel(self, ref: RunRef) -> Snapshot | None:
        with translated(f"Cancelling run {ref.id}", run_id=ref.id):
            try:
                answer = await self._client.responses.with_raw_response.cancel(_id(ref), timeout=self._timeout)
            except (openai.BadRequestError, openai.ConflictError):
                return None  # it has ended already: 400 at OpenAI and Azure, 409 at OGX

            return self._read(answer.http_response.headers, answer.http_response.content)

    async def respond(self, ref: RunRef, answers: Sequence[JSON]) -> Snapshot:
        raise Unsupported("No run waits at this service: a new one that names it brings the answers.")

    async def delete(self, ref: RunRef) -> None:
        with translated(f"Deleting run {ref.id}", run_id=ref.id):
            try:
                await self._client.responses.delete(_id(ref), timeout=self._timeout)
            except openai.NotFoundError:
                return

    def read_webhook(self, body: bytes, headers: Mapping[str, str]) -> Webhook:
        secret = self._webhook_secret or self._client.webhook_secret
        if not secret:
            raise UsageError(
                "No webhook secret: set the environment variable OPENAI_WEBHOOK_SECRET, or pass webhook_secret=… (it "
                "is shown once, when the webhook's endpoint is made)."
            )

        try:
            self._client.webhooks.unwrap(body, headers, secret=secret)
            event = json_object(body)
        except Exception as error:  # whatever is not genuine may break the SDK where it likes
            raise WebhookInvalid(f"The webhook is not genuine, or damaged: {type(error).__name__}: {error}") from error

        kind, data = str(event.get("type", "")), event.get("data")
        run = cast("JSON", data).get("id") if isinstance(data, Mapping) and kind.startswith("response.") else None
        return Webhook(headers["webhook-id"], kind, run if isinstance(run, str) and run else None)

    async def aclose(self) -> None:
        await self._wire.aclose()
        if self._owned:
            await self._client.close()

    def _ref(self, run_id: str) -> RunRef:
        return RunRef(self.name, self.endpoint, {"response": run_id})

    def _read(self, headers: Mapping[str, str], content: bytes) -> Snapshot:
        body = json_object(content)
        if "status" not in body and "id" not in body:
            raise ServiceUnavailable(f"The service answered something that is no response: {start_of(content)}")

        return read_response(body, self._ref, poll_after(headers))

    def _reader(self, headers: Mapping[str, str]) -> EventReader:
        if _media_type(headers).endswith(("json", "html", "xml")):  # some call a stream text/plain, or anything
            raise ServiceUnavailable(f"The service answered {_media_type(headers)} instead of a stream.")

        return EventReader(self._shapes, self._ref)


def _make_client(api_key: str | None, base_url: str | None) -> openai.AsyncOpenAI:
    try:
        client = openai.AsyncOpenAI(api_key=api_key, base_url=base_url)
    except openai.OpenAIError as error:
        raise AuthenticationFailed(
            "No API key: set the environment variable OPENAI_API_KEY, or pass api_key=… (any text for a local server)."
        ) from error

    if client.base_url.scheme not in ("http", "https") or not client.base_url.host:
        raise UsageError(f"A base URL is like https://api.openai.com/v1; {str(client.base_url)!r} is none.")

    return client


def fingerprint(base_url: str) -> str:
    """Names an endpoint in records and tokens."""
    return hashlib.sha256(_address(base_url).lower().encode()).hexdigest()[:12]


def _address(base_url: str) -> str:
    """A base URL without credentials, query, or trailing slash."""
    parts = urlsplit(base_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def _id(ref: RunRef) -> str:
    """The run's id, for an address: any text but those that would name another address."""
    if ref.id in ("", ".", ".."):
        raise RunNotFound(f"No run can have the id {ref.id!r}.")

    return ref.id


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()
