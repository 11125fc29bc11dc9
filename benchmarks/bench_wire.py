"""CPU per poll and per stream event at the provider alone: the bare SDK, the provider over the SDK, and its lean wire.

    python -m benchmarks.bench_wire [--repeat 5] [--quick]

The server is `agentbg.testing.server` in a process of its own; CPU is this process's. Figures are medians of the
repeats; the ways take turns. An event of the bare SDK is a pydantic object, ours a `StreamEvent`. The last rows show
what of it is the provider's own work on bytes that are there already.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp
import openai

from agentbg.core.model import StartRequest
from agentbg.core.sse import EventDecoder
from agentbg.providers import OpenAIResponses

from .bench_client import Sample, compare, sdk_events, server

ASK = StartRequest(input=[{"type": "message", "role": "user", "content": "x"}])
AT_ONCE = 50
Make = Callable[[str], OpenAIResponses]


def over_the_sdk(base_url: str) -> OpenAIResponses:
    """With an http client of the caller's own, which is used for everything."""
    http = openai.DefaultAsyncHttpxClient()
    return OpenAIResponses("m", client=openai.AsyncOpenAI(base_url=base_url, api_key="none", http_client=http))


def lean(base_url: str) -> OpenAIResponses:
    return OpenAIResponses("m", base_url=base_url, api_key="none")


WIRES: dict[str, Make] = {"provider, SDK": over_the_sdk, "provider, lean": lean}


async def repeated(call: Callable[[], Awaitable[object]], count: int) -> Sample:
    async def some() -> None:
        for _ in range(count // AT_ONCE):
            await call()

    await call()
    began = time.process_time()
    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return Sample(time.process_time() - began, count // AT_ONCE * AT_ONCE)


async def sdk_polls(base_url: str, count: int) -> Sample:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        run_id = (await client.responses.create(model="m", input="x", background=True)).id
        return await repeated(lambda: client.responses.retrieve(run_id), count)


async def provider_polls(provider: OpenAIResponses, count: int) -> Sample:
    async with AsyncExitStack() as stack:
        stack.push_async_callback(provider.aclose)
        ref = (await provider.start(ASK)).ref
        assert ref is not None
        return await repeated(lambda: provider.poll(ref), count)


async def aiohttp_polls(base_url: str, count: int) -> Sample:
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


async def provider_events(provider: OpenAIResponses, streams: int) -> Sample:
    async def read() -> int:
        return sum([len(events) async for events in provider.open(ASK)])

    began = time.process_time()
    counts = await asyncio.gather(*(read() for _ in range(streams)))
    sample = Sample(time.process_time() - began, sum(counts))
    await provider.aclose()
    return sample


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


async def decoded(count: int, size: int) -> Sample:
    """Bytes to data lines, in chunks of a size."""
    body, decoder = deltas(count), EventDecoder()
    began = time.process_time()
    found = sum(len(decoder.feed(body[at : at + size])) for at in range(0, len(body), size))
    return Sample(time.process_time() - began, found)


async def read(count: int, size: int) -> Sample:
    """Bytes to `StreamEvent`s."""
    body = deltas(count)
    provider = lean("http://127.0.0.1/v1")

    async def chunks():
        for at in range(0, len(body), size):
            yield body[at : at + size]

    began = time.process_time()
    found = sum([len(events) async for events in provider._events({"content-type": "text/event-stream"}, chunks())])
    sample = Sample(time.process_time() - began, found)
    await provider.aclose()
    return sample


async def run(repeat: int, quick: bool) -> None:
    print(f"Python {platform.python_version()}, openai {openai.__version__}, medians of {repeat}\n")
    polls = 200 if quick else 2000
    with server(deltas=1, running=3600) as url:
        ways = {way: lambda make=make: provider_polls(make(url), polls) for way, make in WIRES.items()}
        ways["aiohttp alone"] = lambda: aiohttp_polls(url, polls)
        await compare("CPU per poll, 50 at once", repeat, lambda: sdk_polls(url, polls), ways)

    for name, streams, options in (
        ("CPU per event, replay", 1, {"deltas": 1000 if quick else 5000}),
        ("CPU per event, live, 50 streams", 50, {"deltas": 20 if quick else 100, "delay": 0.02}),
    ):
        print()
        with server(**options) as url:
            ways = {
                way: lambda make=make, url=url, streams=streams: provider_events(make(url), streams)
                for way, make in WIRES.items()
            }
            await compare(name, repeat, lambda url=url, streams=streams: sdk_events(url, streams), ways)

    count = 1000 if quick else 20_000
    print()
    for name, size in (("in 64 kB", 65_536), ("one by one", len(deltas(1)))):
        for what, measure in (("data lines", decoded), ("StreamEvents", read)):
            samples = [await measure(count, size) for _ in range(repeat)]
            each = sorted(sample.each for sample in samples)[repeat // 2]
            print(f"{'bytes to ' + what:<34} {name:<22} {each:>9.1f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small counts, to see that it runs")
    options = parser.parse_args()
    asyncio.run(run(options.repeat, options.quick))


if __name__ == "__main__":
    main()
