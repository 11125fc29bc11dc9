"""A real Responses server on the loopback: the part that the model server and the tests' peer have in common."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket

from azure.ai.agentserver.responses import InMemoryResponseProvider, ResponsesAgentServerHost, ResponsesServerOptions
from hypercorn.asyncio import serve as serve_asgi
from hypercorn.config import Config

GRACE = 1  # seconds that open connections get at shutdown; nobody waits for an answer any more


def new_host() -> ResponsesAgentServerHost:
    """A Responses server under /v1 that keeps everything in memory, logs errors only, and reports to nobody."""
    logging.getLogger("azure.ai.agentserver").setLevel(logging.ERROR)
    return ResponsesAgentServerHost(
        prefix="/v1",
        store=InMemoryResponseProvider(),
        options=ResponsesServerOptions(shutdown_grace_period_seconds=GRACE),
        configure_observability=None,
        access_log=None,
        graceful_shutdown_timeout=GRACE,
    )


async def serve(host: ResponsesAgentServerHost, port: int) -> None:
    """Serve on the loopback until SIGTERM, SIGINT, or the death of the parent process.

    Port 0 takes a free one. Prints `READY <base url>` once connections are accepted.
    """
    listener = socket.create_server(("127.0.0.1", port))
    address, port = listener.getsockname()
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = None
    config.graceful_timeout = GRACE

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def stopped() -> None:
        parent = os.getppid()
        while not stop.is_set() and os.getppid() == parent:
            await wait(stop, 1)

        host.request_shutdown()

    print(f"READY http://{address}:{port}/v1", flush=True)
    await serve_asgi(host, config, shutdown_trigger=stopped)


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event for so long; whether it came."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False

    return True
