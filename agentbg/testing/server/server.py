"""The server: a socket, a service, and faults between them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Self

from ..loopback import Listener
from .connection import Connection
from .exchange import Request
from .fault import Fault, Faults
from .history import Conversation
from .reply import Reply
from .run import Run
from .script import ScriptSource, echo
from .service import Chaining, Service


class ResponsesServer:
    """A Responses API over real HTTP on 127.0.0.1, for tests: it does what a script says, and breaks as faults say.

        async with ResponsesServer(script=Script.text("Hello"), faults=[CutAfterEvent(5)]) as server:
            client = AsyncOpenAI(base_url=server.base_url, api_key="any")

    Leaving the block closes the port and all connections, and waits for them. If a script or a fault of your own has
    raised an error, its client has got no answer, and the error is raised there.
    """

    def __init__(
        self,
        *,
        script: ScriptSource = echo,
        faults: Iterable[Fault] = (),
        api_key: str | None = None,
        models: Collection[str] | None = None,
        stream_window: float = 300.0,
        retention: float = math.inf,
        settling: float = 0.0,
        chaining: Chaining = "kept",
        background_locks: bool = True,
        idempotent: bool = False,
        port: int = 0,
        log: bool = True,
    ) -> None:
        """Prepare a server.

        Args:
            script: What runs do: a `Script`, a function that makes one from the JSON body of the request, a list of
                these in the order of the runs (the last one repeats), or `Turns` for the turns of each conversation.
                The default says back what it was told.
            faults: What goes wrong; see `Fault` for the order.
            api_key: If given, requests without exactly this bearer token, or Azure's `api-key`, get a 401.
            models: If given, other models get a 404.
            stream_window: For how many seconds after its creation a run can be streamed.
            retention: For how many seconds after its creation a run is kept; then it is a 404.
            settling: For how many seconds after its end a streamed run is a 404, as at Azure (5 to 33 s).
            chaining: Whether `previous_response_id` is "kept" to, "refused" (400, by a service that stores nothing), or
                "ignored" without a word, together with the rule that each call has its output.
            background_locks: Whether a background run locks its conversation until its end. Foreground runs always do.
            idempotent: Whether a create with the `Idempotency-Key` of an earlier one is answered with that one's run.
            port: 0 for any free one.
            log: Whether to keep `requests`.
        """
        self.requests: list[Request] = []
        """All requests since the start, or since `reset`, in order."""
        self.faults = Faults(list(faults))
        self.service = Service(
            script,
            self._now,
            api_key=api_key,
            models=models,
            stream_window=stream_window,
            retention=retention,
            settling=settling,
            chaining=chaining,
            background_locks=background_locks,
            idempotent=idempotent,
        )
        self._log = log
        self._clock = time.monotonic
        self._ahead = 0.0
        self._listener = Listener(self._serve, port)

    @property
    def base_url(self) -> str:
        """What a client takes as its `base_url`. Raises `RuntimeError` unless the server is running."""
        return f"http://127.0.0.1:{self._listener.port}/v1"

    @property
    def runs(self) -> Mapping[str, Run]:
        """The runs by id, in the order of their creation, without the deleted ones."""
        return self.service.runs

    def run(self, index: int = -1) -> Run:
        """A run by its place in the order of creation; the newest one by default."""
        return list(self.runs.values())[index]

    def count(self, kind: str) -> int:
        """How many requests of a kind there were: a method, or a role such as create, poll, attach, stream, cancel."""
        return sum(kind in request.kinds for request in self.requests)

    @property
    def conversations(self) -> Mapping[str, Conversation]:
        """The conversations by id, the deleted ones too."""
        return self.service.conversations

    def advance(self, seconds: float) -> None:
        """Let all runs be older by so many seconds, at once: they go on, become too old to stream, expire."""
        self._ahead += seconds
        for run in self.runs.values():
            run.wake()

    def inject(self, *faults: Fault) -> None:
        """Add faults, after those that are there."""
        self.faults.add(*faults)

    def reset(self) -> None:
        """Forget all requests and runs, and make all faults new again. Open streams go on."""
        self.requests.clear()
        self.service.forget()
        self.faults.reset()

    async def __aenter__(self) -> Self:
        self._clock = asyncio.get_running_loop().time
        await self._listener.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._listener.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Connection(reader, writer, self._answer).serve()

    def _now(self) -> float:
        return self._clock() + self._ahead

    def _answer(self, request: Request) -> Reply:
        if self._log:
            self.requests.append(request)

        return self.faults.answer(self.service.exchange(request), self.service.answer)
