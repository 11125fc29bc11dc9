"""A conversation over several runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .core.model import RunRef
from .core.response import AgentRunResponse, Message


@dataclass(slots=True)
class AgentThread:
    """What was said so far: each input once, and one answer per run, however many polls, breaks or resumes it took.

    Where the service keeps conversations, the next run names `last` and sends only what is new; where it does not, the
    next run sends `messages` again. Make one with `agent.get_new_thread()`.
    """

    messages: list[Message] = field(default_factory=list[Message])
    last: RunRef | None = None
    """The last run that was answered, at its service."""
    _concluded: list[RunRef] = field(default_factory=list[RunRef], repr=False)

    def ask(self, messages: Iterable[Message]) -> None:
        """Note what a run was started with. Called once per run, when its start was answered."""
        self.messages.extend(messages)

    def conclude(self, response: AgentRunResponse[Any], ref: RunRef | None) -> None:
        """Note a run's answer. Only the first call for a run counts; a run without an answer adds nothing."""
        if response.status.live or not response.messages or ref in self._concluded:
            return

        self.messages.extend(response.messages)
        self.last = ref
        if ref is not None:
            self._concluded.append(ref)
