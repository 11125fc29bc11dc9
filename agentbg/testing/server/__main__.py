"""Run the server as its own process: `python -m agentbg.testing.server --port 0`.

It prints one line, `READY http://127.0.0.1:PORT/v1`, and stops at SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import asyncio
import signal

from .script import Script, echo
from .server import ResponsesServer
from .wire import JSON


async def main(options: argparse.Namespace) -> None:
    """Serve until a signal comes."""
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)

    def script(request: JSON) -> Script:
        script = Script.story(options.deltas) if options.deltas else echo(request)
        return script.lasting(queued=options.queued, running=options.running, delay=options.delay)

    async with ResponsesServer(script=script, port=options.port, log=False) as server:
        print(f"READY {server.base_url}", flush=True)
        await stop.wait()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m agentbg.testing.server", description="A Responses API for tests.")
    parser.add_argument("--port", type=int, default=0, help="0 for any free port")
    parser.add_argument("--deltas", type=int, default=0, help="tell a story of so many deltas; 0: say back the input")
    parser.add_argument("--queued", type=float, default=0.0, help="seconds that a run is queued")
    parser.add_argument("--running", type=float, default=0.0, help="seconds that a run runs at least")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds between events")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(parse()))
