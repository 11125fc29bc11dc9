"""What people and pipes get to see: answers and JSON on stdout, all else on stderr."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import typer

from ..core.model import JSON
from ..core.response import AgentRunResponse
from ..core.status import RunStatus
from ..core.update import AgentRunResponseUpdate, UpdateType
from .watched import Watched

if TYPE_CHECKING:
    from rich.progress import Progress

_ENDS = {
    RunStatus.FAILED: "failed",
    RunStatus.CANCELLED: "was cancelled",
    RunStatus.INCOMPLETE: "ended before its answer did",
    RunStatus.INPUT_REQUIRED: "waits for its user",
    RunStatus.EXPIRED: "expired",
}


class Screen:
    """One command's output.

    With `stream`, text is written as it comes, and otherwise at the end. With `json`, each update (or only the end)
    is a line of JSON instead. `options` is what a hint's command line needs so that it finds the same store.
    """

    def __init__(self, *, json: bool = False, stream: bool = False, options: str = "") -> None:
        self.run_id: str | None = None
        """The run that this is about, once it is known."""
        self._json, self._stream, self._options = json, stream, options
        self._spinner: Progress | None = None
        self._column = 0  # characters on the answer's last line
        _never_fail_to_encode()

    # --- a run ---

    @contextmanager
    def watching(self, run_id: str) -> Generator[None]:
        """Show, at a terminal, that something goes on."""
        self.run_id = run_id
        try:
            if sys.stderr.isatty():
                self._spin(run_id)

            yield
        finally:
            self._stop_spinning()

    def show(self, update: AgentRunResponseUpdate) -> None:
        """Something happened in the run."""
        self._tell_spinner(update)
        if not self._stream:
            return

        if self._json:
            self.line(update_as_json(update))
            return

        if update.type is UpdateType.RESET:
            self._end_line()
            self.note("The service takes back what it said; the answer begins again:")

        if update.text:
            self._stop_spinning()
            self._write(update.text)

    def finish(self, run: Watched) -> None:
        """The run is over, or waits for its user."""
        self._stop_spinning()
        response = run.response
        if self._json and not self._stream:
            self.line(response_as_json(run.id, response))

        if not self._json and not self._stream:
            self._write(response.text)

        self._end_line()
        if response.status in _ENDS:
            why = f": {response.error.code}: {response.error.message}" if response.error else "."
            self.note(f"Run {run.id} {_ENDS[response.status]}{why}")

        for request in response.requests:
            self.note(f"- {request.kind} {request.id}: {request.name} {request.arguments}".rstrip())

    def started(self, run: Watched) -> None:
        """The run was started, and is left alone."""
        self.line(response_as_json(run.id, run.response) if self._json else run.id)

    def cancelled(self, run: Watched) -> None:
        """The service has taken the cancel."""
        response = run.response
        self.line(response_as_json(run.id, response) if self._json else str(response.status))
        if response.status.live:
            self.note(f"The service has taken the cancel, and run {run.id} still goes on: {self._hint(run.id)}")

    def gave_up(self, run: Watched, timeout: float) -> None:
        """The waiting is over, and the run is not."""
        self._stop_spinning()
        self._end_line()
        if self._json:
            self.line(response_as_json(run.id, run.response) | {"token": str(run.token) if run.token else None})

        self.note(f"Run {run.id} is not done after {timeout:g} s. It goes on: {self._hint(run.id)}\nToken: {run.token}")

    def unwritten(self, error: OSError) -> None:
        """Stdout takes no more. A pipe that is not read any more, as by `head`, is no news to anybody."""
        self._stop_spinning()
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (what is still buffered must not fail again at the exit)
        if not isinstance(error, BrokenPipeError):
            hint = f" It is in the store: {self._hint(self.run_id)}" if self.run_id is not None else ""
            self.note(f"The answer could not be written: {error.strerror or error}.{hint}")

    def interrupted(self) -> None:
        """Ctrl-C."""
        self._stop_spinning()
        self._end_line()
        if self.run_id is not None:
            self.note(f"Interrupted. Run {self.run_id} goes on: {self._hint(self.run_id)}")
        else:
            self.note(f"Interrupted. What was started goes on, and is in: agentbg list{self._options}")

    # --- many runs ---

    def table(self, rows: Sequence[dict[str, Any]]) -> None:
        """Runs: a table at a terminal, a line of JSON for each in a pipe."""
        if self._json or not sys.stdout.isatty():
            for row in rows:
                self.line(row)

            return

        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for name in ("id", "status", "started (UTC)", "seconds"):
            table.add_column(name, no_wrap=True)  # the others give way in a narrow terminal

        table.add_column("model")
        table.add_column("input")
        for row in rows:
            cells = row | {"created_at": row["created_at"][:16].replace("T", " ")}
            table.add_row(*(Text(" ".join(str(cell or "").split())[:80]) for cell in cells.values()))

        Console().print(table if rows else "No runs.")

    # --- anything ---

    def line(self, value: object) -> None:
        """A line on stdout: text as it is, anything else as JSON."""
        typer.echo(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))

    def note(self, text: str) -> None:
        """Something that the answer's reader should know, on stderr."""
        typer.echo(text, err=True)

    def error(self, error: Exception) -> None:
        """What went wrong and what to do, in one line on stderr."""
        self._stop_spinning()
        self._end_line()
        color = None if os.environ.get("NO_COLOR") else typer.colors.RED
        typer.secho(f"Error: {' '.join(str(error).split())}", fg=color, err=True)

    def _hint(self, run_id: str) -> str:
        return f"agentbg result {run_id}{self._options}"

    # --- the answer ---

    def _write(self, text: str) -> None:
        typer.echo(text, nl=False)
        sys.stdout.flush()
        self._column = len(text) - text.rfind("\n") - 1 if "\n" in text else self._column + len(text)

    def _end_line(self) -> None:
        if self._column:
            self._column = 0
            typer.echo()

    # --- the spinner ---

    def _spin(self, run_id: str) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[now]}"),
        )
        self._spinner = Progress(*columns, console=Console(stderr=True), transient=True)
        self._spinner.add_task(run_id, total=None, now="")
        self._spinner.start()

    def _tell_spinner(self, update: AgentRunResponseUpdate) -> None:
        now = _activity(update)
        if self._spinner is not None and now:
            self._spinner.update(self._spinner.task_ids[0], now=now)

    def _stop_spinning(self) -> None:
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None


def response_as_json(run_id: str, response: AgentRunResponse[Any]) -> dict[str, Any]:
    """A run's response for a pipe."""
    error, usage, token = response.error, response.usage, response.continuation_token
    return {
        "id": run_id,
        "status": response.status,
        "text": response.text,
        "error": {"code": error.code, "message": error.message} if error else None,
        "usage": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        }
        if usage
        else None,
        "requests": _requests(response),
        "response_id": response.response_id,
        "token": str(token) if token else None,
    }


def update_as_json(update: AgentRunResponseUpdate) -> dict[str, Any]:
    """An update for a pipe; the last one with the status of the run."""
    line: dict[str, Any] = {"seq": update.seq, "type": update.type, "text": update.text}
    if update.response is not None:
        error = update.response.error
        line["status"] = update.response.status
        line["error"] = {"code": error.code, "message": error.message} if error else None
        line["requests"] = _requests(update.response)

    return line


def _requests(response: AgentRunResponse[Any]) -> list[dict[str, str]]:
    return [
        {"id": request.id, "kind": request.kind, "name": request.name, "arguments": request.arguments}
        for request in response.requests
    ]


def _activity(update: AgentRunResponseUpdate) -> str:
    """What the run does, for the spinner; empty for nothing new."""
    if update.type is UpdateType.TEXT:
        return f"{update.position.chars:,} characters"

    item = (update.raw or {}).get("item")
    fields: JSON = cast("JSON", item) if isinstance(item, dict) else {}
    return str(fields.get("type", "")).replace("_", " ")


def _never_fail_to_encode() -> None:
    """A terminal that cannot show a character, or half of one, is no reason to lose an answer."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
