"""What all stores say when they refuse, in the same words."""

from __future__ import annotations

from ..errors import Fenced, RunUnknown, StoreError, StoreInUse


def unknown(run_id: str) -> RunUnknown:
    """No run has this id."""
    return RunUnknown(f"No run {run_id!r} is in the store: it was deleted, or belongs to another store.")


def taken(run_id: str) -> StoreError:
    """A new run wants the id of another."""
    return StoreError(f"A run {run_id!r} is in the store already. Give the new run another id.")


def fenced(run_id: str, epoch: int, current: int) -> Fenced:
    """A later owner has the run."""
    return Fenced(
        f"Run {run_id!r} belongs to a later owner (epoch {current}; this write came with {epoch}). "
        f"Nothing was written. Let go of the run, or acquire it again."
    )


def not_open() -> StoreError:
    """The store is used before `open` or after `aclose`."""
    return StoreError("The store is not open. Use it inside `async with AgentRuntime(store=…)`, or await its open().")


def open_already() -> StoreInUse:
    """The same store object is opened twice."""
    return StoreInUse("This store is open already: a runtime owns it. Close that runtime, or use another store.")


def readonly() -> StoreError:
    """A write came to a store that was opened for reading."""
    return StoreError("The store was opened read-only. Write through the runtime that owns it.")
