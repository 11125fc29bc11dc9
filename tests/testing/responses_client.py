"""How the tests of the server talk to it: the real SDK, and bare bytes."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from openai import AsyncOpenAI

JOB = {"model": "gpt-5", "input": "Tell me a story", "background": True}
STREAM = {**JOB, "stream": True}


@asynccontextmanager
async def sdk(server, api_key="any"):
    async with AsyncOpenAI(base_url=server.base_url, api_key=api_key, max_retries=0, timeout=5) as client:
        yield client


@dataclass
class Raw:
    """A whole answer, to the byte; `end` is how the connection ended after it."""

    status: int
    headers: dict[str, str]
    body: bytes
    end: str

    @property
    def json(self):
        return json.loads(self.text)

    @property
    def text(self) -> bytes:
        """The body without the framing of its chunks, as far as it is whole."""
        if self.headers.get("transfer-encoding") != "chunked":
            return self.body

        text, rest = b"", self.body
        while b"\r\n" in rest:
            size, rest = rest.split(b"\r\n", 1)
            text, rest = text + rest[: int(size, 16)], rest[int(size, 16) + 2 :]

        return text

    @property
    def whole(self) -> bool:
        """Whether the last chunk came."""
        return self.body.endswith(b"0\r\n\r\n")

    @property
    def events(self) -> list[dict]:
        return [json.loads(line[6:]) for line in self.text.split(b"\n") if line.startswith(b"data: ")]

    @property
    def numbers(self) -> list[int]:
        return [event["sequence_number"] for event in self.events]


async def ask(server, method="GET", path="/responses", body=None, *, limit=None) -> Raw:
    """One request on a connection of its own, read to its end, or until it holds `limit` bytes of body."""
    url = urlsplit(server.base_url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    payload = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"{method} {url.path}{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(payload)}\r\n\r\n"
    )
    writer.write(head.encode() + payload)
    data, end = b"", "fin"
    try:
        while chunk := await reader.read(65536):
            data += chunk
            if limit is not None and len(data.partition(b"\r\n\r\n")[2]) >= limit:
                end = "open"
                break
    except ConnectionResetError:
        end = "rst"
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass

    return _parse(data, end)


def _parse(data: bytes, end: str) -> Raw:
    head, _, body = data.partition(b"\r\n\r\n")
    if not head:
        return Raw(0, {}, b"", end)

    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Raw(int(first.split()[1]), headers, body, end)


async def create(server, **body) -> Raw:
    return await ask(server, "POST", "/responses", {**JOB, **body})


async def poll(server, run=None) -> Raw:
    return await ask(server, "GET", f"/responses/{(run or server.run()).id}")


async def attach(server, after=None, run=None, **options) -> Raw:
    cursor = "" if after is None else f"&starting_after={after}"
    return await ask(server, "GET", f"/responses/{(run or server.run()).id}?stream=true{cursor}", **options)


def text_of(events) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
