"""The commands. What they do is in `work`, which is imported only when there is something to do."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from ..core.status import RunStatus
from .exits import describe_exits

if TYPE_CHECKING:
    from .screen import Screen

HELP = f"""Background agent runs: start one here, take its answer there.

The key comes from OPENAI_API_KEY. Answers go to stdout, all else to stderr.

\b
[bold]Exit codes[/bold]
{describe_exits()}
"""

app = typer.Typer(
    name="agentbg",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunId = Annotated[str, typer.Argument(metavar="ID", help="The run's id, as `run` and `list` print it.")]
StorePath = Annotated[
    Path | None,
    typer.Option(
        "--store", envvar="AGENTBG_STORE", help="The store's file; by default ~/.local/state/agentbg/runs.db."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]
Timeout = Annotated[
    float | None, typer.Option(min=0, help="Stop waiting after so many seconds. The run goes on.", metavar="SECONDS")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"agentbg {__version__}")
        raise typer.Exit


@app.callback()
def _agentbg(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


@app.command()
def run(
    prompt: Annotated[str, typer.Argument(help="What to ask; `-` reads it from stdin.")],
    model: Annotated[str, typer.Option(envvar="AGENTBG_MODEL", help="The model.")],
    base_url: Annotated[
        str | None, typer.Option(envvar="OPENAI_BASE_URL", help="The service; OpenAI by default.")
    ] = None,
    instructions: Annotated[str | None, typer.Option(help="What the model should be.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Write the answer as it comes.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Start the run, print its id, and return.")] = False,
    timeout: Timeout = None,
    store: StorePath = None,
    json: AsJson = False,
) -> None:
    """Start a run in the background, and wait for its answer."""
    from .agents import AgentSpec
    from .work import Order, perform, submit

    order = Order(
        prompt=sys.stdin.read() if prompt == "-" else prompt,
        spec=AgentSpec.given(model, base_url, instructions),
        store=_store(store),
        stream=stream,
        detach=detach,
        timeout=timeout,
    )
    screen = _screen(store, json=json, stream=stream)
    raise typer.Exit(perform(lambda: submit(order, screen), screen))


@app.command()
def result(run_id: RunId, timeout: Timeout = None, store: StorePath = None, json: AsJson = False) -> None:
    """Print a run's answer, once it is there."""
    from .work import perform, take_up

    screen = _screen(store, json=json)
    raise typer.Exit(perform(lambda: take_up(_store(store), run_id, screen, timeout=timeout), screen))


@app.command()
def watch(
    run_id: RunId,
    after: Annotated[
        int, typer.Option(min=0, metavar="SEQ", help="Leave out the updates up to this `seq`; --json shows them.")
    ] = 0,
    timeout: Timeout = None,
    store: StorePath = None,
    json: AsJson = False,
) -> None:
    """Write a run's answer as it comes, from its beginning or from a place in it."""
    from .work import perform, take_up

    screen = _screen(store, json=json, stream=True)
    raise typer.Exit(perform(lambda: take_up(_store(store), run_id, screen, after=after, timeout=timeout), screen))


@app.command(name="list")
def list_(
    status: Annotated[list[RunStatus] | None, typer.Option(help="Only runs of this status. Can be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many runs.")] = 50,
    store: StorePath = None,
    json: AsJson = False,
) -> None:
    """List the runs in the store, the newest first: a table, or in a pipe a line of JSON for each."""
    from .work import list_runs, perform

    screen = _screen(store, json=json)
    raise typer.Exit(perform(lambda: list_runs(_store(store), status or (), limit, screen), screen))


@app.command()
def cancel(
    run_id: RunId,
    reason: Annotated[str | None, typer.Option(help="Why; kept in the store.")] = None,
    store: StorePath = None,
    json: AsJson = False,
) -> None:
    """Cancel a run at its service, and print how it ended. A run that was over keeps its end."""
    from .work import cancel, perform

    screen = _screen(store, json=json)
    raise typer.Exit(perform(lambda: cancel(_store(store), run_id, reason, screen), screen))


def _store(given: Path | None) -> Path:
    return given or Path.home() / ".local" / "state" / "agentbg" / "runs.db"


def _screen(store: Path | None, *, json: bool, stream: bool = False) -> Screen:
    from .screen import Screen

    named = store is not None and os.environ.get("AGENTBG_STORE") != str(store)
    return Screen(json=json, stream=stream, options=f" --store {shlex.quote(str(store))}" if named else "")
