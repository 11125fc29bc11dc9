"""A conversation over several runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from .core.model import JSON, RunRef, Snapshot, StartRequest
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

    input: list[Message]
    run_id: str
    status: RunStatus = RunStatus.QUEUED
    rounds: list[Round] = field(default_factory=list[Round])
    """Those that were closed: which calls were made, and what they gave."""
    ref: RunRef | None = None
    """What the service calls the present round."""
    position: Position = Position()
    output: list[JSON] = field(default_factory=list[JSON])
    """What the present round has said so far: items in the shape of the Responses API."""
    request: StartRequest | None = None
    """While it goes on: how it was started, without its input. Its options hold for all its rounds."""

    @property
    def open(self) -> bool:
        """True while the run goes on, or waits for its user."""
        return not self.status.terminal

    @property
    def answered(self) -> bool:
        """True when there is something to go on from: the run was completed, or cut short while it spoke."""
        spoke = bool(self.output) and bool(item_text(self.output[-1]))
        return self.status is RunStatus.COMPLETED or (self.status is RunStatus.INCOMPLETE and spoke)

    @property
    def stopped(self) -> bool:
        """True when the run was ended here, between two rounds: its last one still waits, and is not to be asked."""
        return not self.open and self.ref in (None, self.rounds[-1].ref if self.rounds else None)

    @property
    def refs(self) -> list[RunRef]:
        """What the service calls its rounds."""
        return [ref for ref in (*(closed.ref for closed in self.rounds), self.ref) if ref is not None]

    @property
    def items(self) -> list[JSON]:
        """What was said, called, and answered to the calls, over all rounds."""
        return [*story(self.rounds, None), *self.output]

    @property
    def messages(self) -> list[Message]:
        """What was asked, and the answer as one message, however many rounds and parts it took."""
        answer = _joined([item for item in self.items if is_message(item)])
        return [*self.input, *([answer] if answer and not self.status.live else [])]

    def take(self, record: RunRecord, *, seen: bool = True) -> None:
        """Note how the run stands; its end only once. An end that was not `seen` is none yet."""
        if not self.open:
            return

        self.status = record.status if seen or not record.status.terminal else RunStatus.RUNNING
        self.request = self.request if self.open else None
        self.rounds, self.ref, self.position = list(record.rounds), record.ref, record.position
        self.output = _output(record.snapshot)


@dataclass(slots=True)
class AgentThread:
    """A conversation: what was asked and answered, each once, however many polls, breaks, resumes or processes it took.

    Where the service keeps conversations, the next run names the last one and sends only what is new. Where it keeps
    none, or with `client_side=True`, each run sends all that was said; so does the first run at another service than
    the one before. `conversation` is the service's own, if you made one there: then it is that which is named. Make a
    thread with `agent.get_new_thread()`.

    A thread has one run at a time. While the last one goes on, or waits for its user, a new one is a UsageError. A run
    that was completed is gone on from, and one that was cut short while it spoke. After any other end the next run goes
    on from the answer before: the input stays in `messages`, with what was said to it, but no model sees it again. A
    run that could not be started was never part of the conversation.

    `to_json` and `from_json` carry it to another process, with a run that goes on: give the thread to `runtime.get`, or
    to `runtime.submit` on the same store, and it takes that run's end.
    """

    conversation: str | None = None
    client_side: bool = False
    turns: list[Turn] = field(default_factory=list[Turn], repr=False)

    @property
    def messages(self) -> list[Message]:
        """What was said so far: each input once, and each run's answer as one message."""
        return [message for turn in self.turns for message in turn.messages]

    @property
    def items(self) -> list[JSON]:
        """All that the next run goes on from, with the calls and their outputs: what a service that keeps nothing is
        sent."""
        return [item for turn in self.turns if turn.answered for item in (*_items(turn.input), *turn.items)]

    @property
    def pending(self) -> list[JSON]:
        """The input of the run that goes on, or waits for its user."""
        return _items(self.current.input) if self.current else []

    @property
    def current(self) -> Turn | None:
        """The turn of the run that goes on, or waits for its user."""
        return self.turns[-1] if self.turns and self.turns[-1].open else None

    @property
    def answer(self) -> Turn | None:
        """The turn that the next run goes on from."""
        return next((turn for turn in reversed(self.turns) if turn.answered), None)

    @property
    def last(self) -> RunRef | None:
        """The same run, at its service."""
        return self.answer.ref if self.answer else None

    @property
    def request(self) -> StartRequest | None:
        """How the run that goes on, or waits for its user, was started, where the thread has seen it."""
        request = self.current.request if self.current else None
        return request and replace(request, input=[*(self.items if request.whole else ()), *self.pending])

    def begin(self, input: Iterable[Message], run_id: str, request: StartRequest | None = None) -> Turn:
        """A run is being started. Raises UsageError while another one goes on."""
        self.require_idle()
        turn = Turn(list(input), run_id)
        if request is not None:
            turn.request = replace(request, input=[], tools=list(request.tools), include=list(request.include))

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
            "two threads; `thread.copy()` makes one that goes on from what was answered so far, without that run."
        )

    def awaiting(self) -> Turn:
        """The turn of the run that waits for its user. Raises UsageError when none does."""
        turn = self.current
        if turn is None or turn.status is not RunStatus.INPUT_REQUIRED:
            raise UsageError("No run of this thread waits for its user: there is nothing to answer.")

        return turn

    def find(self, ref: RunRef | None = None, run_id: str = "") -> Turn | None:
        """The turn of a run, by any name that one of its rounds has at the service, or by ours."""
        return next((turn for turn in self.turns if ref in turn.refs or (run_id and turn.run_id == run_id)), None)

    def adopt(self, record: RunRecord) -> Turn:
        """The turn of a run; of one that the thread does not know, a new one, with its input if that is on record. The
        last one is open again when its run was let go of at its deadline, and is taken up.

        Raises UsageError for a run that the thread does not know while another one goes on.
        """
        turn = self.find(record.ref, record.id)
        if turn is None:
            return self.begin(self._new_in(record.request), record.id, record.request)

        if turn is self.turns[-1] and turn.status is RunStatus.EXPIRED and not record.status.terminal:
            turn.status, turn.run_id = record.status, record.id

        return turn

    def take(self, turn: Turn, record: RunRecord) -> None:
        """Note how the run of a turn stands."""
        turn.take(record)
        if not turn.open:
            self.forget(turn)

    def forget(self, turn: Turn) -> None:
        """Drop the turn of a run that never got a name, and answered nothing: it was never part of the conversation."""
        if not turn.refs and not turn.answered:
            self.turns = [other for other in self.turns if other is not turn]

    def copy(self) -> AgentThread:
        """A second conversation that goes on from what was answered so far.

        Where the service keeps a `conversation`, both go on in that one, which takes one run at a time.
        """
        return AgentThread(self.conversation, self.client_side, [turn for turn in self.turns if not turn.open])

    def to_json(self) -> str:
        """The whole thread as text: `AgentThread.from_json` gives it back, in any process."""
        return json.dumps({"version": VERSION, **_adapter().dump_python(self)})

    @staticmethod
    def from_json(text: str | bytes) -> AgentThread:
        """The thread that `to_json` wrote. Raises UsageError for anything else."""
        try:
            plain: dict[str, Any] = json.loads(text)
            version = plain.pop("version")
            if type(version) is not int or version < 1:
                raise ValueError(f"{version!r:.20} is no version.")

            if version > VERSION:
                raise UsageError(f"This thread was written by a newer agentbg (version {version}). Update agentbg.")

            return _adapter().validate_python(plain)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(f"This is no thread that `to_json` wrote: {error}") from error

    def _new_in(self, request: StartRequest | None) -> list[Message]:
        """What of a run's request is not in the thread yet."""
        if request is None:
            return []

        known = self.items if request.whole else []
        items = list(request.input)
        return [read_message(item) for item in (items[len(known) :] if items[: len(known)] == known else items)]


def _items(messages: Iterable[Message]) -> list[JSON]:
    return [message.item for message in messages]


def _output(shown: Snapshot | None) -> list[JSON]:
    """What a round has said; a text that came without items is a message all the same."""
    if shown is None:
        return []

    bare = shown.text and not any(is_message(item) for item in shown.items)
    return [*shown.items, *([Message("assistant", shown.text).item] if bare else [])]


def _joined(said: Sequence[JSON]) -> Message | None:
    """Messages as one; None where nothing was said."""
    said = [item for item in said if item.get("content")]
    if len(said) < 2:
        return read_message(said[0]) if said else None

    parts = [part for item in said for part in _parts(item["content"])]
    return read_message({"type": "message", "role": said[0].get("role"), "content": parts})


def _parts(content: Any) -> list[Any]:
    return [{"type": "output_text", "text": content}] if isinstance(content, str) else list(content)


@cache
def _adapter() -> TypeAdapter[AgentThread]:
    return TypeAdapter(AgentThread)
