"""Several runs in the background at once, and one more over a line that breaks: nothing lost, nothing repeated.

make run                               with a model on this machine: no key, no network
make run PROMPT="Why do cats purr?"    your own question, streamed
OPENAI_API_KEY=… make run              with OpenAI, or what OPENAI_BASE_URL and AGENTBG_MODEL name
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from openai import AsyncOpenAI
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from agentbg import Agent, AgentRuntime, BackgroundHandle, PollPolicy, RunStatus, UpdateType
from agentbg.providers import OpenAIResponses
from agentbg.stores import SQLiteStore
from agentbg.testing.proxy import CuttingProxy, ResponseCut

from .board import Board, Row
from .picture import Picture
from .service import Service, find_service

POLLED = ["What is photosynthesis?", "What is gravity?", "What causes tides?", "What is TCP?"]
STREAMED = "What is a database transaction?"
INSTRUCTIONS = "Answer in two or three short sentences."
CUTS = [
    ResponseCut(events=9),
    ResponseCut(bytes=4000, how="rst"),
    ResponseCut(events=15),
    ResponseCut(bytes=6000, how="rst"),
    ResponseCut(events=20),
]
PATIENCE = 600  # seconds that anyone here waits for a run


@dataclass
class Stream:
    """What a stream brought: the text, and the numbers that the service gave the events."""

    text: str = ""
    numbers: set[int] = field(default_factory=set[int])


async def read(handle: BackgroundHandle[str]) -> Stream:
    """Read a run's stream to its end. It reconnects by itself."""
    seen = Stream()
    async with handle.stream() as updates:
        async for update in updates:
            seen.text = update.text if update.type is UpdateType.RESET else seen.text + update.text
            if update.raw and "sequence_number" in update.raw:
                seen.numbers.add(update.raw["sequence_number"])

    return seen


async def ask_service(service: Service, response_id: str) -> Stream:
    """The same from the service itself: the text by a plain GET, the events by a replay on a line that holds."""
    async with AsyncOpenAI(base_url=service.base_url, api_key=service.api_key) as client:
        text = (await client.responses.retrieve(response_id)).output_text
        async with await client.responses.retrieve(response_id, stream=True) as events:
            return Stream(text, {event.sequence_number async for event in events})


class Job:
    """The runs, and what there is to say about them."""

    def __init__(self, service: Service, prompt: str) -> None:
        self.service = service
        self.streamed = Row(prompt, streamed=True)
        self.rows = [*map(Row, POLLED), self.streamed]
        self.board = Board(self.rows, self.note)
        self.proxy = CuttingProxy(service.base_url, CUTS) if service.plain else None
        self.stream = Stream()

    @property
    def cuts(self) -> int:
        return self.proxy.cuts_made if self.proxy else 0

    def note(self) -> str:
        return (
            f"\nThe last run is streamed over a connection that breaks; cuts so far: {self.cuts}" if self.proxy else ""
        )

    async def run(self, store: Path) -> None:
        """Submit all, wait for all."""
        async with AsyncExitStack() as stack:
            bad_line = (await stack.enter_async_context(self.proxy)).base_url if self.proxy else self.service.base_url
            patient = await stack.enter_async_context(self.agent("patient", self.service.base_url))
            live = await stack.enter_async_context(self.agent("live", bad_line))
            runtime = await stack.enter_async_context(AgentRuntime(SQLiteStore(store), poll=PollPolicy()))
            polls = [self.poll_one(runtime, patient, row) for row in self.rows if not row.streamed]
            await asyncio.gather(*polls, self.stream_one(runtime, live, self.streamed))

    def agent(self, name: str, base_url: str) -> Agent[str]:
        provider = OpenAIResponses(self.service.model, base_url=base_url, api_key=self.service.api_key)
        return Agent(provider, name=name, instructions=INSTRUCTIONS)

    async def poll_one(self, runtime: AgentRuntime, agent: Agent[str], row: Row) -> None:
        with row.reporting():
            row.handle = await runtime.submit(agent, row.question)
            await row.handle.wait(PATIENCE)

    async def stream_one(self, runtime: AgentRuntime, agent: Agent[str], row: Row) -> None:
        with row.reporting():
            row.handle = await runtime.submit(agent, row.question, stream=True)
            self.stream = await asyncio.wait_for(read(row.handle), PATIENCE)

    def print_answers(self, console: Console) -> None:
        for row in self.rows:
            console.print(Text(f"\n{row.question}", "bold"))
            if row.handle is not None:
                console.print(Padding(Text(row.handle.response.text.strip()), (0, 0, 0, 2), expand=False))

            if row.remark:
                console.print(Padding(Text(row.remark, "red"), (0, 0, 0, 2), expand=False))

    async def account(self) -> tuple[bool, str]:
        """Whether all is well, and in one line what it took."""
        handles = [row.handle for row in self.rows if row.handle is not None]
        answered = sum(handle.status in (RunStatus.COMPLETED, RunStatus.INCOMPLETE) for handle in handles)
        run = self.streamed.handle
        if run is None or run.response.response_id is None:
            return False, f"{answered} of {len(self.rows)} runs · there is no stream to compare"

        own = await ask_service(self.service, run.response.response_id)
        lost, same = len(own.numbers - self.stream.numbers), self.stream.text == own.text
        figures = (
            f"{answered} of {len(self.rows)} runs",
            f"{sum(handle.polls for handle in handles)} polls",
            f"{self.cuts} cuts",
            f"{run.dropped} events received again and dropped",
            f"{lost} lost",
            f"streamed text {'equals' if same else 'DIFFERS FROM'} the service's own",
        )
        return answered == len(self.rows) and same and not lost, " · ".join(figures)


async def main(prompt: str, picture: Picture | None) -> int:
    console = Console()
    async with AsyncExitStack() as stack:
        with console.status("Loading the model …"):
            service = await stack.enter_async_context(find_service())

        job = Job(service, prompt)
        store = Path(stack.enter_context(TemporaryDirectory())) / "runs.db"
        async with job.board.shown(console), picture.watching(job.board) if picture else nullcontext():
            await job.run(store)

        job.print_answers(console)
        good, figures = await job.account()

    verdict = Text(f"\n{figures}", "bold green" if good else "bold red")
    console.print(verdict, soft_wrap=True)
    if picture is not None:
        picture.save(job.board, verdict)

    return 0 if good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make run", description="Background runs, live.")
    parser.add_argument("prompt", nargs="?", default=STREAMED, help="your own question, streamed")
    parser.add_argument("--svg", type=Path, help="write a picture of it to this file")
    options = parser.parse_args()
    try:
        sys.exit(asyncio.run(main(options.prompt, Picture(options.svg) if options.svg else None)))
    except KeyboardInterrupt:
        print("\nStopped. Runs that a service is working on go on there.", file=sys.stderr)
        sys.exit(130)
