"""What each command does. Every one returns an exit code; errors come out as the exceptions that they are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core.record import RunRecord
from ..core.response import item_text
from ..core.status import RunStatus
from ..core.update import AgentRunResponseUpdate
from ..errors import AgentBGError, StoreError, UsageError
from ..runtime import AgentRuntime
from ..stores.sqlite import SQLiteStore
from .agents import AgentSpec
from .exits import Exit, exit_of_error, exit_of_response
from .screen import Screen
from .watched import Watched, elapsed, reading, watching

CANCEL_PATIENCE = 30.0
"""Seconds to wait for a run to end after its cancel: services take up to 10, and a poll may be due after 15."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What `agentbg run` was told."""

    prompt: str
    spec: AgentSpec
    store: Path
    stream: bool
    detach: bool
    timeout: float | None


def perform(work: Callable[[], Awaitable[Exit]], screen: Screen) -> Exit:
    """Do a command's work; turn what comes of it into an exit code, and an error into a line for people."""
    # Whatever is logged is reported as an error, too, and that is shown.
    logging.getLogger("agentbg").addHandler(logging.NullHandler())
    try:
        return asyncio.run(_call(work))
    except KeyboardInterrupt:
        screen.interrupted()
        return Exit.INTERRUPTED
    except AgentBGError as error:
        screen.error(error)
        return exit_of_error(error)
    except OSError as error:  # what a service or a store does is an AgentBGError: this is stdout
        screen.unwritten(error)
        return Exit.OUTPUT


async def submit(order: Order, screen: Screen) -> Exit:
    """Start a run; wait for it, unless it is to be left alone."""
    if not order.prompt.strip():
        raise UsageError("There is nothing to ask: give a text, or `-` to read it from stdin.")

    _make_folder(order.store)
    async with order.spec.make_agent() as agent, AgentRuntime(SQLiteStore(order.store), retention=None) as runtime:
        run = await runtime.submit(agent, order.prompt, stream=order.stream, metadata=order.spec.metadata)
        if order.detach:
            screen.started(run)
            return Exit.COMPLETED

        screen.note(f"Run {run.id}")
        return await follow(run, screen, timeout=order.timeout)


async def take_up(store: Path, run_id: str, screen: Screen, *, after: int = 0, timeout: float | None = None) -> Exit:
    """Follow a stored run to its end; the screen decides whether the way there is shown."""
    screen.run_id = run_id
    async with watching(store, run_id) as run:
        return await follow(run, screen, after=after, timeout=timeout)


async def cancel(store: Path, run_id: str, reason: str | None, screen: Screen) -> Exit:
    """Cancel a stored run, and wait for the truth of it."""
    async with watching(store, run_id, to_cancel=True) as run:
        await run.cancel(reason)
        done = await _wait(run, _ignore, timeout=CANCEL_PATIENCE)
        screen.cancelled(run)
        return Exit.COMPLETED if done else Exit.TIMED_OUT


async def list_runs(store: Path, statuses: Sequence[RunStatus], limit: int, screen: Screen) -> Exit:
    """Show the stored runs, the newest first."""
    async with reading(store) as runs:
        records = await runs.list(statuses=statuses or None, limit=limit)

    screen.table([summary(record) for record in records])
    return Exit.COMPLETED


async def follow(run: Watched, screen: Screen, *, after: int = 0, timeout: float | None = None) -> Exit:
    """Show a run's updates up to its end, or for `timeout` seconds."""
    with screen.watching(run.id):
        if not await _wait(run, screen.show, after=after, timeout=timeout):
            screen.gave_up(run, timeout or 0.0)
            return Exit.TIMED_OUT

        screen.finish(run)
        return exit_of_response(run.response)


def summary(record: RunRecord) -> dict[str, Any]:
    """A stored run for a list."""
    return {
        "id": record.id,
        "status": record.status,
        "created_at": datetime.fromtimestamp(record.created_at, UTC).isoformat(timespec="seconds"),
        "elapsed": round(elapsed(record), 1),
        "model": record.metadata.get("model"),
        "input": item_text(record.request.input[-1]) if record.request and record.request.input else "",
    }


async def _wait(
    run: Watched, show: Callable[[AgentRunResponseUpdate], None], *, after: int = 0, timeout: float | None = None
) -> bool:
    """Follow a run up to its end; False when the time is over before."""
    try:
        async with asyncio.timeout(timeout), run.stream(after=after) as updates:
            async for update in updates:
                show(update)
    except TimeoutError:
        return False

    return True


def _ignore(_: AgentRunResponseUpdate) -> None:
    return


async def _call(work: Callable[[], Awaitable[Exit]]) -> Exit:
    return await work()


def _make_folder(store: Path) -> None:
    try:
        store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{store.parent} cannot be made: {error.strerror}. Name another file with --store.") from error
