"""A picture of the main job, drawn from the same run that the terminal showed."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from .board import TICK, Board

WIDTH = 122  # columns


class Picture:
    """Collects what is to be seen, and writes it as an SVG."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.console = Console(
            record=True, file=io.StringIO(), width=WIDTH, force_terminal=True, color_system="truecolor"
        )
        self.console.print(Text.assemble(("$ ", "green"), ("make run", "bold")))

    @asynccontextmanager
    async def watching(self, board: Board) -> AsyncIterator[None]:
        """Catch the board in the middle of it: as soon as one run is done and others still go on."""
        catching = asyncio.create_task(self._catch(board))
        try:
            yield
        finally:
            catching.cancel()

    async def _catch(self, board: Board) -> None:
        while not any(row.handle and row.handle.done() for row in board.rows):
            await asyncio.sleep(TICK)

        self.console.print()
        self.console.print(board)

    def save(self, board: Board, verdict: Text) -> None:
        """The board at the end, and the verdict. The file loads no font from the web: any monospace font will do."""
        self.console.print()
        self.console.print(board)
        self.console.print(verdict)
        svg = self.console.export_svg(title="agentbg", unique_id="main-job")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL))
