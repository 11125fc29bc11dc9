"""A service whose runs take as long as their input says: "17 8.5" is job 17, which takes eight and a half seconds.

`python -m benchmarks.service --factor=1` prints `READY` and its base URL, and, when it is terminated, what it saw as
JSON: of each job when its run ended, by the loop's clock, which runs `factor` times as fast as others, and how often it
was polled. A run whose metadata has a `webhook` tells that address of its end, as OpenAI does, signed with `SECRET`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import signal
import time
from collections import Counter
from dataclasses import dataclass

import aiohttp

from agentbg.testing.server import Exchange, Fault, Reply, ResponsesServer, Run, Script
from agentbg.testing.server.fault import Serve
from agentbg.testing.server.wire import JSON, input_text

from . import haste

KEY = b"a key for benchmarks only"
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


def job(request: JSON) -> tuple[str, float]:
    """A job's number and its length in seconds."""
    number, seconds = input_text(request).split()
    return number, float(seconds)


def script(request: JSON) -> Script:
    return Script.text("Done.").lasting(running=job(request)[1])


@dataclass(frozen=True)
class Notify(Fault):
    """No fault at all: it only sees each run that is created."""

    notifier: Notifier

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        reply = serve()
        if exchange.run is not None:
            self.notifier.watch(exchange.run)

        return reply


class Notifier:
    """Sends a webhook at the end of each run that names an address for it."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._sending: set[asyncio.Task[None]] = set()

    def watch(self, run: Run) -> None:
        if "webhook" in (run.request.get("metadata") or {}):
            asyncio.get_running_loop().call_at(run.ends_at, self._send_soon, run)

    def _send_soon(self, run: Run) -> None:
        task = asyncio.ensure_future(self._send(run))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, run: Run) -> None:
        event = {"id": f"evt_{run.index}", "object": "event", "created_at": int(time.time()), "data": {"id": run.id}}
        body = json.dumps({**event, "type": f"response.{run.status}"}).encode()
        async with self._session.post(
            run.request["metadata"]["webhook"], data=body, headers=signed(f"wh_{run.index}", body)
        ):
            pass


def signed(id: str, body: bytes) -> dict[str, str]:
    """The headers of a Standard Webhook."""
    at = str(int(time.time()))
    digest = hmac.digest(KEY, b".".join((id.encode(), at.encode(), body)), hashlib.sha256)
    seal = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": id, "webhook-timestamp": at, "webhook-signature": seal, "content-type": "application/json"}


def seen(server: ResponsesServer) -> dict[str, tuple[float, int]]:
    """When each job ended, and how often it was polled."""
    polls = Counter(request.route[1] for request in server.requests if "poll" in request.kinds)
    return {job(run.request)[0]: (run.ends_at, polls[run.id]) for run in server.runs.values()}


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with aiohttp.ClientSession() as session:
        notify = Notify(Notifier(session), on="create", times=None)
        async with ResponsesServer(script=script, faults=[notify]) as server:
            print(f"READY {server.base_url}", flush=True)
            await stop.wait()
            print(json.dumps(seen(server)), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factor", type=float, default=1.0, help="how many times as fast its clock runs")
    haste.run(main(), parser.parse_args().factor)
