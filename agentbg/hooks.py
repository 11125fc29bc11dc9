"""Hooks: what a runtime lets you see of its runs.

A hook is any object with some of these methods; give it to `AgentRuntime(hooks=[…])`. They are plain calls in the event
loop, in the order of what happens, so they must be quick: note something, count something, start a task. What a hook
raises goes to the event loop's exception handler, and to nobody else.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from .core.messages import Overdue, Stalled
from .core.requests import InputRequest, Output
from .core.update import AgentRunResponseUpdate
from .errors import ProviderError, UsageError

if TYPE_CHECKING:
    from .handle import BackgroundHandle
    from .live import LiveRun


@runtime_checkable
class SubmitHook(Protocol):
    """Sees the runs that this runtime starts."""

    def on_submit(self, handle: BackgroundHandle[Any]) -> object:
        """The service has the run, or has answered it at once. Not called for a start that fails."""
        ...


@runtime_checkable
class PollHook(Protocol):
    """Sees the polls."""

    def on_poll(self, handle: BackgroundHandle[Any], error: ProviderError | None, seconds: float) -> object:
        """A poll was answered, or failed with this error, after so many seconds. A failed poll is no failed run."""
        ...


@runtime_checkable
class EventHook(Protocol):
    """Sees the updates, of streamed and of polled runs."""

    def on_event(self, handle: BackgroundHandle[Any], update: AgentRunResponseUpdate) -> object:
        """An update is on its way to those who stream. It is in the store by now, unless the run's journal says later,
        or never."""
        ...


@runtime_checkable
class ToolHook(Protocol):
    """Sees the calls of tools."""

    def on_tool_call(
        self, handle: BackgroundHandle[Any], request: InputRequest, output: Output | None, seconds: float
    ) -> object:
        """A tool has answered, be it with what went wrong, after so many seconds; None when it has ended the run."""
        ...


@runtime_checkable
class CompletionHook(Protocol):
    """Sees how runs end."""

    def on_completion(self, handle: BackgroundHandle[Any]) -> object:
        """The run has ended, well or badly, and its end is in the store. One that waits for its user has not ended."""
        ...


@runtime_checkable
class StallHook(Protocol):
    """Sees runs that stand still."""

    def on_stall(self, handle: BackgroundHandle[Any]) -> object:
        """A run has shown nothing new for longer than `PollPolicy.stall_after`, as the last look at it has confirmed.

        Once for each time that it stands still. The run goes on; what is to be done about it is yours to decide.
        """
        ...


@runtime_checkable
class DeadlineHook(Protocol):
    """Sees runs that are late."""

    def on_deadline(self, handle: BackgroundHandle[Any]) -> object:
        """A run's deadline has passed, and the service had no end of it to show. It is let go of now, or cancelled:
        see `on_deadline=…` of `submit`. `on_completion` comes later."""
        ...


_NAMES = ("on_submit", "on_poll", "on_event", "on_tool_call", "on_completion", "on_stall", "on_deadline")
Hook = SubmitHook | PollHook | EventHook | ToolHook | CompletionHook | StallHook | DeadlineHook


class Hooks:
    """The hooks of a runtime, sorted by what they want to see."""

    def __init__(self, hooks: Iterable[Hook], handle_of: Callable[[LiveRun], BackgroundHandle[Any]]) -> None:
        if not isinstance(hooks, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  not all callers are typed
            raise UsageError(f"Hooks are a list: pass hooks=[…], not {hooks!r}.")

        given = list(hooks)
        for hook in given:
            _check(hook)

        self._handle_of = handle_of
        self._own: dict[str, list[Callable[[BackgroundHandle[Any]], object]]] = {}
        self._submit = [hook for hook in given if isinstance(hook, SubmitHook)]
        self._poll = [hook for hook in given if isinstance(hook, PollHook)]
        self._event = [hook for hook in given if isinstance(hook, EventHook)]
        self._tool = [hook for hook in given if isinstance(hook, ToolHook)]
        self._completion = [hook for hook in given if isinstance(hook, CompletionHook)]
        self._stall = [hook for hook in given if isinstance(hook, StallHook)]
        self._deadline = [hook for hook in given if isinstance(hook, DeadlineHook)]

    def submitted(self, live: LiveRun) -> None:
        """The service has a run that was started here."""
        for hook in self._submit:
            self._guard(live, partial(hook.on_submit, self._handle_of(live)))

    def polled(self, live: LiveRun, error: ProviderError | None, seconds: float) -> None:
        """A poll is over."""
        for hook in self._poll:
            self._guard(live, partial(hook.on_poll, self._handle_of(live), error, seconds))

    def happened(self, live: LiveRun, updates: Iterable[AgentRunResponseUpdate]) -> None:
        """The journal has taken these updates."""
        for hook in self._event:
            for update in updates:
                self._guard(live, partial(hook.on_event, self._handle_of(live), update))

    def called(self, live: LiveRun, request: InputRequest, output: Output | None, seconds: float) -> None:
        """A call of a tool is over."""
        for hook in self._tool:
            self._guard(live, partial(hook.on_tool_call, self._handle_of(live), request, output, seconds))

    def completed(self, live: LiveRun) -> None:
        """A run has ended."""
        for hook in self._completion:
            self._guard(live, partial(hook.on_completion, self._handle_of(live)))

    def warned(self, live: LiveRun, warning: Stalled | Overdue) -> None:
        """A run stands still, or its deadline has passed."""
        handle = self._handle_of(live)
        if isinstance(warning, Overdue):
            calls = [hook.on_deadline for hook in self._deadline]
        else:
            calls = [*(hook.on_stall for hook in self._stall), *self._own.get(live.id, ())]

        for call in calls:
            self._guard(live, partial(call, handle))

    def on_stall(self, live: LiveRun, call: Callable[[BackgroundHandle[Any]], object]) -> None:
        """Tell somebody of one run only, each time that it stands still."""
        self._own.setdefault(live.id, []).append(call)

    def forget(self, live: LiveRun) -> None:
        """A run is not driven any more."""
        self._own.pop(live.id, None)

    def _guard(self, live: LiveRun, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001  a user's: it is neither the run's trouble nor the other hooks'
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"A hook failed on run {live.id}", "exception": error}
            )


def _check(hook: object) -> None:
    if isinstance(hook, type) or not isinstance(hook, Hook):
        raise UsageError(f"{hook!r} is no hook: pass an object with {', '.join(_NAMES[:-1])} or {_NAMES[-1]}.")

    for name in _NAMES:
        if inspect.iscoroutinefunction(getattr(hook, name, None)):
            raise UsageError(f"{name} of {hook!r} is async, and would never run: make it a plain method.")
