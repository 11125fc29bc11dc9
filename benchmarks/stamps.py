"""A service whose streams tell when they were sent: each delta is the time at which it was written, and a blank.

`python -m benchmarks.stamps --streams=50 --rate=40 --seconds=5` prints `READY` and its base URL. When so many streams
are open, each gets so many deltas a second, each in its own packet. The time is `time.monotonic()`, which all processes
of a machine share. The server of `agentbg.testing` is exact where this one is fast, so that what is
measured is the reader.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from typing import ClassVar

CALM = 0.5
"""Seconds from the last stream's opening to the first delta."""
HEAD = b"\r\n".join(
    (
        b"HTTP/1.1 200 OK",
        b"content-type: text/event-stream",
        b"transfer-encoding: chunked",
        b"connection: close",
        b"\r\n",
    )
)


class Telling(asyncio.Protocol):
    """One connection: a request, and a run's stream."""

    opened: ClassVar[list[Telling]] = []

    def __init__(self, options: argparse.Namespace, draw: random.Random) -> None:
        self._options, self._draw = options, draw
        self._received = bytearray()
        self._number = 0
        self._text: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank or len(body) < _length(head):
            return

        self.opened.append(self)
        self._run, self._message = f"resp_{len(self.opened):048x}", f"msg_{len(self.opened):048x}"
        self._transport.write(HEAD)
        self._open()
        if len(self.opened) == self._options.streams:
            for each in self.opened:
                each._begin(asyncio.get_running_loop().time() + CALM)

    def _open(self) -> None:
        self._send("response.created", response=self._response("queued"))
        self._send("response.in_progress", response=self._response("in_progress"))
        self._send("response.output_item.added", output_index=0, item=self._item("in_progress"))
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._send("response.content_part.added", **self._place(), part=part)

    def _begin(self, at: float) -> None:
        interval, phase = 1 / self._options.rate, self._draw.random()
        count = int(self._options.seconds * self._options.rate)
        self._times = iter([at + (place + phase) * interval for place in range(count)])
        asyncio.get_running_loop().call_at(next(self._times), self._tell)

    def _tell(self) -> None:
        if self._transport.is_closing():
            return

        stamp = f"{time.monotonic():.6f} "
        self._text.append(stamp)
        self._send("response.output_text.delta", **self._place(), delta=stamp, logprobs=[])
        at = next(self._times, None)
        if at is None:
            self._end()
        else:
            asyncio.get_running_loop().call_at(at, self._tell)

    def _end(self) -> None:
        self._send("response.output_text.done", **self._place(), text="".join(self._text), logprobs=[])
        self._send("response.output_item.done", output_index=0, item=self._item("completed"))
        self._send("response.completed", response=self._response("completed"))
        self._transport.write(b"0\r\n\r\n")
        self._transport.close()

    def _send(self, kind: str, **fields: object) -> None:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        data = f"event: {kind}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n".encode()
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _place(self) -> dict[str, object]:
        return {"item_id": self._message, "output_index": 0, "content_index": 0}

    def _item(self, status: str) -> dict[str, object]:
        part = {"type": "output_text", "text": "".join(self._text), "annotations": [], "logprobs": []}
        content = [part] if status == "completed" else []
        return {"id": self._message, "type": "message", "status": status, "role": "assistant", "content": content}

    def _response(self, status: str) -> dict[str, object]:
        output = [self._item(status)] if status == "completed" else []
        body = {"id": self._run, "object": "response", "created_at": int(time.time()), "model": "m", "error": None}
        return {**body, "status": status, "background": True, "output": output, "usage": None, "metadata": {}}


def _length(head: bytes | bytearray) -> int:
    lines = bytes(head).lower().split(b"\r\n")
    return next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), 0)


async def main(options: argparse.Namespace) -> None:
    draw = random.Random(options.seed)
    server = await asyncio.get_running_loop().create_server(
        lambda: Telling(options, draw), "127.0.0.1", 0, backlog=1024
    )
    print(f"READY http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=50, help="to wait for before the first delta")
    parser.add_argument("--rate", type=float, default=40.0, help="deltas a second, per stream")
    parser.add_argument("--seconds", type=float, default=5.0, help="for so long")
    parser.add_argument("--seed", type=int, default=1, help="of the streams' phases")
    asyncio.run(main(parser.parse_args()))
