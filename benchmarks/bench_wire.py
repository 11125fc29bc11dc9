"""CPU per poll and per stream event at the provider alone: the bare SDK, the provider over the SDK, and its lean wire.

An event of the bare SDK is a pydantic object, ours a `StreamEvent`. The last rows show what of it is the provider's own
work on bytes that are there already.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import openai

from agentbg.core.model import RunRef, StartRequest
from agentbg.providers import OpenAIResponses
from agentbg.providers._shapes import Shapes
from agentbg.providers.responses_events import EventReader

from .measure import KEY, MICRO, ROUNDS, Comparison, Figure, Measure, compare, cpu_of, sdk, server

ASK = StartRequest(input=[{"type": "message", "role": "user", "content": "x"}])
AT_ONCE = 50
Make = Callable[[str], OpenAIResponses]


def over_the_sdk(base_url: str) -> OpenAIResponses:
    """With an http client of the caller's own, which is used for everything."""
    http = openai.DefaultAsyncHttpxClient()
    return OpenAIResponses("m", client=openai.AsyncOpenAI(base_url=base_url, api_key=KEY, http_client=http))


def lean(base_url: str) -> OpenAIResponses:
    return OpenAIResponses("m", base_url=base_url, api_key=KEY)


WIRES: dict[str, Make] = {"provider, over the SDK": over_the_sdk, "provider, lean wire": lean}


@dataclass(frozen=True)
class Results:
    """Microseconds of CPU."""

    comparisons: list[Comparison]
    bytes_alone: list[Figure]


async def repeated(call: Callable[[], Awaitable[object]], count: int) -> float:
    async def some() -> None:
        for _ in range(count // AT_ONCE):
            await call()

    await call()
    return await cpu_of([some() for _ in range(AT_ONCE)]) / (count // AT_ONCE * AT_ONCE) * MICRO


async def sdk_polls(base_url: str, count: int) -> float:
    async with sdk(base_url) as client:
        run_id = (await client.responses.create(model="m", input="x", background=True)).id
        return await repeated(lambda: client.responses.retrieve(run_id), count)


async def sdk_events(base_url: str) -> float:
    async with sdk(base_url) as client:
        began = time.process_time()
        stream = await client.responses.create(model="m", input="x", background=True, stream=True)
        count = sum([1 async for _ in stream])
        return (time.process_time() - began) / count * MICRO


async def provider_polls(provider: OpenAIResponses, count: int) -> float:
    async with AsyncExitStack() as stack:
        stack.push_async_callback(provider.aclose)
        ref = (await provider.start(ASK)).ref
        assert ref is not None
        return await repeated(lambda: provider.poll(ref), count)


async def aiohttp_polls(base_url: str, count: int) -> float:
    """The floor: no settings, no errors, no snapshot."""
    provider = lean(base_url)
    ref = (await provider.start(ASK)).ref
    assert ref is not None
    await provider.aclose()
    async with aiohttp.ClientSession() as session:

        async def poll() -> None:
            async with session.get(f"{base_url}/responses/{ref.id}") as answer:
                json.loads(await answer.read())

        return await repeated(poll, count)


async def provider_events(provider: OpenAIResponses) -> float:
    began = time.process_time()
    count = sum([len(events) async for events in provider.open(ASK)])
    cpu = time.process_time() - began
    await provider.aclose()
    return cpu / count * MICRO


def deltas(count: int) -> bytes:
    event = {
        "type": "response.output_text.delta",
        "item_id": "msg_0af0123456789abcdef0123456789",
        "output_index": 0,
        "content_index": 0,
        "delta": " word",
        "logprobs": [],
        "obfuscation": "abcdefgh",
    }
    texts = (json.dumps({**event, "sequence_number": number}) for number in range(count))
    return "".join(f"event: {event['type']}\ndata: {text}\n\n" for text in texts).encode()


def read(count: int, size: int) -> float:
    """Bytes to `StreamEvent`s, in chunks of a size."""
    body = deltas(count)
    reader = EventReader(Shapes(), lambda run_id: RunRef("openai", "here", {"response": run_id}))
    began = time.process_time()
    found = sum(len(reader.feed(body[at : at + size])) for at in range(0, len(body), size))
    reader.check()
    return (time.process_time() - began) / found * MICRO


async def polls(count: int, rounds: int) -> Comparison:
    async with server(deltas=1, running=3600) as service:
        url = service.url
        ways: dict[str, Measure] = {"bare SDK": lambda: sdk_polls(url, count)}
        ways |= {way: lambda make=make: provider_polls(make(url), count) for way, make in WIRES.items()}
        return await compare("polls, 50 at once", {**ways, "aiohttp alone": lambda: aiohttp_polls(url, count)}, rounds)


async def events(count: int, rounds: int) -> Comparison:
    async with server(deltas=count) as service:
        url = service.url
        ways: dict[str, Measure] = {"bare SDK": lambda: sdk_events(url)}
        ways |= {way: lambda make=make: provider_events(make(url)) for way, make in WIRES.items()}
        return await compare("stream events, replay", ways, rounds)


def bytes_alone(count: int, rounds: int) -> list[Figure]:
    sizes = (("64 kB at a time", 65_536), ("one event at a time", len(deltas(1))))
    return [
        Figure(f"bytes to StreamEvents, {name}", statistics.median(read(count, size) for _ in range(rounds)), "µs")
        for name, size in sizes
    ]


async def results(quick: bool) -> Results:
    rounds = 1 if quick else ROUNDS
    comparisons = [await polls(200 if quick else 1000, rounds), await events(1000 if quick else 5000, rounds)]
    return Results(comparisons, bytes_alone(1000 if quick else 20_000, rounds))
