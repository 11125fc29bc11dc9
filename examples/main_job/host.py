"""A real Responses server on the loopback: the part that the model server and the tests' peer have in common."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import sys
from typing import Any

from azure.ai.agentserver.responses import InMemoryResponseProvider, ResponsesAgentServerHost, ResponsesServerOptions
from hypercorn.asyncio import serve as serve_asgi
from hypercorn.config import Config

READY = "READY {address}/v1"
EXPORT = """\
# SmolLM2 listens until Ctrl-C. In another terminal, for the examples:
export OPENAI_BASE_URL={address}/v1 OPENAI_API_KEY=none
export AZURE_OPENAI_ENDPOINT={address} AZURE_OPENAI_API_KEY=none"""
AZURES = re.compile(r"^/openai/(v1/)?")
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


async def serve(host: ResponsesAgentServerHost, port: int, greeting: str = READY) -> None:
    """Serve on the loopback until SIGTERM, SIGINT, or the death of the parent process.

    Port 0 takes a free one; one that is not to be had ends the program. Prints the greeting, by default
    `READY <base url>`, once connections are accepted. Azure's two addresses, /openai/v1 and /openai with an
    api-version, are the same service.
    """
    listener = listen(port)
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

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if AZURES.match(scope.get("path", "")):
            scope = {**scope, "path": AZURES.sub("/v1/", scope["path"])}

        await host(scope, receive, send)

    print(greeting.format(address=f"http://{address}:{port}"), flush=True)
    await serve_asgi(app, config, shutdown_trigger=stopped)


def listen(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        sys.exit(f"Cannot listen on port {port} ({error}): name another, or 0 for any free one.")


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event for so long; whether it came."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False

    return True
