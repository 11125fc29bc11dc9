"""A conversation over several runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from .core.model import JSON, RunRef
from .core.position import Position
from .core.record import RunRecord
from .core.response import Message, is_message, item_text, read_message
from .core.rounds import Round, story
from .core.status import RunStatus
from .errors import UsageError

VERSION = 1


@dataclass(slots=True)
class Turn:
    """One run's part of a conversation."""

    input: Sequence[Message]
    run_id: str
    status: RunStatus = RunStatus.QUEUED
    refs: list[RunRef] = field(default_factory=list[RunRef])
    """What the service called the run's rounds so far."""
    ref: RunRef | None = None
    """The present round's."""
    position: Position = Position()
    rounds: list[Round] = field(default_factory=list[Round])
    """Those that were closed, while the run goes on: which calls were made, and what they gave."""
    items: Sequence[JSON] = ()
    """What the run said, called and was answered: items in the shape of the Responses API."""

    @property
    def open(self) -> bool:
        """True while the run goes on, or waits for its user."""
        return not self.status.terminal

    @property
    def answered(self) -> bool:
        """True when the run has said something to go on from."""
        return not self.status.live and any(is_message(item) for item in self.items)

    @property
    def messages(self) -> list[Message]:
        """What was asked, and the answer as one message, however many rounds and parts it took."""
        answer = [item for item in self.items if is_message(item)] if self.answered else []
        if len(answer) < 2:
            return [*self.input, *(read_message(item) for item in answer)]

        return [*self.input, Message("assistant", "".join(item_text(item) for item in answer))]

    @property
    def story(self) -> list[JSON]:
        """The same as items, with all calls and their outputs."""
        return [*(message.item for message in self.input), *(() if self.status.live else self.items)]

    def take(self, record: RunRecord, *, seen: bool = True) -> None:
        """Note how the run stands. What was noted before is not noted twice. An end that was not `seen` is none yet."""
        refs = [*(closed.ref for closed in record.rounds), record.ref]
        self.refs = [*self.refs, *(ref for ref in refs if ref is not None and ref not in self.refs)]
        self.ref, self.position = record.ref, record.position
        self.status = record.status if seen or not record.status.terminal else RunStatus.RUNNING
        # Nothing goes on from calls that have no outputs at the service.
        broken_off = self.status.terminal and record.rounds and record.ref in (None, record.rounds[-1].ref)
        self.items = () if broken_off else story(record.rounds, record.snapshot)
        self.rounds = record.rounds if self.open else []


@dataclass(slots=True)
class AgentThread:
    """A conversation: what was asked and answered, each once, however many polls, breaks, resumes or processes it took.

    Where the service keeps conversations, the next run names the last one and sends only what is new. Where it keeps
    none, or with `client_side=True`, each run sends all that was said. `conversation` is the service's own, if you made
    one there: then it is that which is named. Make a thread with `agent.get_new_thread()`.

    A thread has one run at a time. While the last one goes on, or waits for its user, a new one is a UsageError; a run
    that failed or was cancelled leaves its input in `messages`, and the next run goes on from the last answer.

    `to_json` and `from_json` carry it to another process, with a run that goes on: give the thread to `runtime.get`, or
    to `runtime.submit` on the same store, and it takes that run's end.
    """

    conversation: str | None = None
    client_side: bool = False
    turns: list[Turn] = field(default_factory=list[Turn], repr=False)

    @property
    def messages(self) -> list[Message]:
        """What was said so far."""
        return [message for turn in self.turns for message in turn.messages]

    @property
    def items(self) -> list[JSON]:
        """The same with all calls and their outputs, to be sent to a service that keeps nothing."""
        return [item for turn in self.turns for item in turn.story]

    @property
    def last(self) -> RunRef | None:
        """The last run that was answered, at its service."""
        return next((turn.refs[-1] for turn in reversed(self.turns) if turn.answered and turn.refs), None)

    @property
    def current(self) -> Turn | None:
        """The turn of the run that goes on, or waits for its user."""
        return self.turns[-1] if self.turns and self.turns[-1].open else None

    def begin(self, input: Iterable[Message], run_id: str) -> Turn:
        """A run is being started. Raises UsageError while another one goes on."""
        self.require_idle()
        turn = Turn(list(input), run_id)
        self.turns.append(turn)
        return turn

    def require_idle(self) -> None:
        """Raise UsageError while a run of the thread goes on, or waits for its user."""
        turn = self.current
        if turn is None:
            return

        if turn.status is RunStatus.INPUT_REQUIRED:
            raise UsageError(
                "The thread's last run waits for its user: answer it with `handle.respond(…)`, or with "
                "`agent.run(request.approve(), thread)`, or cancel it; then go on."
            )

        raise UsageError(
            "The thread's last run is still going: wait for its result, or cancel it. For two runs side by side use "
            "two threads; `thread.copy()` makes one that goes on from what was answered so far."
        )

    def awaiting(self) -> Turn:
        """The turn of the run that waits for its user. Raises UsageError when none does."""
        turn = self.current
        if turn is None or turn.status is not RunStatus.INPUT_REQUIRED:
            raise UsageError("No run of this thread waits for its user: there is nothing to answer.")

        return turn

    def drop(self, turn: Turn) -> None:
        """A run did not start: it was never part of the conversation."""
        self.turns = [other for other in self.turns if other is not turn]

    def find(self, ref: RunRef | None = None, run_id: str = "") -> Turn | None:
        """The turn of a run, by any name that one of its rounds has at the service, or by ours."""
        return next((turn for turn in self.turns if ref in turn.refs or (run_id and turn.run_id == run_id)), None)

    def adopt(self, ref: RunRef | None, run_id: str) -> Turn:
        """The turn of a run; of one that the thread does not know, a new one without its input."""
        turn = self.find(ref, run_id)
        if turn is None:
            turn = Turn([], run_id)
            self.turns.append(turn)

        return turn

    def copy(self) -> AgentThread:
        """A second conversation that goes on from what was answered so far."""
        return AgentThread(self.conversation, self.client_side, [turn for turn in self.turns if not turn.open])

    def to_json(self) -> str:
        """The whole thread as text: `AgentThread.from_json` gives it back, in any process."""
        return json.dumps({"version": VERSION, **_adapter().dump_python(self, mode="json")})

    @staticmethod
    def from_json(text: str | bytes) -> AgentThread:
        """The thread that `to_json` wrote. Raises UsageError for anything else."""
        try:
            plain: dict[str, Any] = json.loads(text)
            version = int(plain.pop("version"))
            thread = _adapter().validate_python(plain)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"This is no thread that `to_json` wrote: {error}") from error

        if version > VERSION:
            raise UsageError(f"This thread was written by a newer agentbg (version {version}). Update agentbg.")

        return thread


@cache
def _adapter() -> TypeAdapter[AgentThread]:
    return TypeAdapter(AgentThread)
