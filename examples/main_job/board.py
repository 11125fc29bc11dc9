"""What the terminal shows: a table that updates in place, or plain lines where there is no terminal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agentbg import AgentBGError, BackgroundHandle, RunStatus

TICK = 0.1  # seconds between two looks at the handles: they are local, and cost nothing
RUN, STATUS, AGE, POLLS, SPACES = 32, 10, 7, 5, 12  # the table's columns, and what is between them
STYLES = {RunStatus.RUNNING: "cyan", RunStatus.COMPLETED: "green", RunStatus.INCOMPLETE: "yellow"}


@dataclass
class Row:
    """One run on the board."""

    question: str
    streamed: bool = False
    handle: BackgroundHandle[str] | None = None
    problem: str = ""

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Show an error on the board instead of raising it: the other runs go on."""
        try:
            yield
        except AgentBGError as error:
            self.problem = str(error)

    @property
    def status(self) -> Text:
        if self.problem:
            return Text("error", "red")

        if self.handle is None:
            return Text("submitting", "dim")

        return Text(self.handle.status, STYLES.get(self.handle.status, "red" if self.handle.done() else "dim"))

    @property
    def remark(self) -> str:
        """Why there is no answer, or not the whole of it."""
        error = self.handle.response.error if self.handle else None
        return self.problem or (f"{error.code}: {error.message}" if error else "")

    def text(self, width: int) -> Text:
        """One line: the end of an answer that still grows, the beginning of one that is finished."""
        if self.problem or self.handle is None:
            return Text(self.problem, "red")

        text = " ".join(self.handle.response.text.split())
        if not text:
            return Text("" if self.streamed else "waiting for the result", "dim")

        return Text(text if self.handle.done() or len(text) < width else "…" + text[1 - width :])


class Board:
    """All runs at a glance. `note` gives the line below the table."""

    def __init__(self, rows: list[Row], note: Callable[[], str]) -> None:
        self.rows = rows
        self.note = note

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(options.max_width - RUN - STATUS - AGE - POLLS - SPACES, 10)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.caption, table.caption_justify = self.note(), "left"
        table.add_column("run", no_wrap=True, overflow="ellipsis", width=RUN)
        table.add_column("status", width=STATUS)
        table.add_column("age", justify="right", width=AGE, style="dim")
        table.add_column("polls", justify="right", width=POLLS)
        table.add_column("text so far", no_wrap=True, overflow="ellipsis", width=width)
        for row in self.rows:
            age, polls = (f"{row.handle.elapsed:.1f} s", str(row.handle.polls)) if row.handle else ("", "")
            table.add_row(Text(row.question), row.status, age, polls, row.text(width))

        yield table

    @asynccontextmanager
    async def shown(self, console: Console) -> AsyncIterator[None]:
        """Keep the board on the terminal, or print each change of a status as a line."""
        stop = asyncio.Event()
        show = self._show_live if console.is_terminal else self._show_lines
        showing = asyncio.create_task(show(console, stop))
        try:
            yield
        finally:
            stop.set()
            await showing

    async def _show_live(self, console: Console, stop: asyncio.Event) -> None:
        with Live(self, console=console, auto_refresh=False) as live:
            while not stop.is_set():
                live.refresh()
                await asyncio.sleep(TICK)

    async def _show_lines(self, console: Console, stop: asyncio.Event) -> None:
        seen: list[str] = [""] * len(self.rows)
        last = False
        while not last:
            last = stop.is_set()
            for number, row in enumerate(self.rows):
                if (status := str(row.status)) != seen[number]:
                    seen[number] = status
                    age = row.handle.elapsed if row.handle else 0.0
                    console.print(f"{age:6.1f} s  {status:<12}{row.question}", markup=False, soft_wrap=True)

            await asyncio.sleep(TICK)
