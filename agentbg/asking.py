"""One call of `Agent.run` or `run_streaming`: which run it is about, and how that goes on. The caller drives."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from .calls import Calls
from .clock import Clock
from .core.dialogue import check_answers
from .core.messages import Answered, Command, Polled
from .core.model import SUBMIT_UNKNOWN, RunRef, StartRequest
from .core.position import Position
from .core.record import RunRecord
from .core.requests import Answer
from .core.response import AgentRunResponse, Message
from .core.rounds import Round, Tooling
from .core.run import Run
from .core.schedule import PollPolicy, StreamPolicy
from .core.states import Phase
from .core.status import RunStatus
from .core.token import ContinuationToken
from .core.update import AgentRunResponseUpdate
from .errors import SubmitUnknown, UsageError
from .follow import Pilot, follow, work
from .thread import AgentThread, Turn
from .tools import Toolset


@dataclass(frozen=True, slots=True)
class Means:
    """What an agent gives to each of its calls."""

    calls: Calls
    tools: Toolset
    tooling: Tooling
    poll: PollPolicy
    stream: StreamPolicy
    clock: Clock
    parse: Callable[[str], Any] | None


@dataclass(slots=True)
class Asking:
    """A run to be started by `request`, to be taken up by `token`, or to be told `answers`."""

    means: Means
    record: RunRecord
    thread: AgentThread | None = None
    request: StartRequest | None = None
    messages: Sequence[Message] = ()
    token: ContinuationToken | None = None
    answers: Sequence[Answer] | None = None
    turns: int = 0
    """How many the thread had when the request was made: it fits no other thread."""

    async def response(self) -> AgentRunResponse[Any]:
        """Ask once; do what is ours to do about the answer; show how the run stands then."""
        self.record.stream = False
        with self._turn() as turn:
            if turn is not None:
                self._join(turn, turn.rounds, turn.ref)

            pilot = self._pilot(turn)
            await work(pilot, await self._first(pilot))
            response = pilot.run.response
            if response.error is not None and response.error.code == SUBMIT_UNKNOWN:
                raise _unknown(response.error.message)

            raw = response.raw or pilot.raw  # a run that goes on does not keep it
            return replace(response, continuation_token=self._token(pilot.run), raw=raw)

    async def updates(self) -> AsyncGenerator[Sequence[AgentRunResponseUpdate], None]:
        """Stream the run to its end, or until it waits for its user."""
        with self._turn() as turn:
            pilot, commands = await self._begin(turn)
            async with aclosing(follow(pilot, commands)) as batches:
                async for updates in batches:
                    yield updates

    async def _first(self, pilot: Pilot) -> Sequence[Command]:
        run = pilot.run
        if self.request is not None:
            pilot.start(self.request, self.record.id)
            return ()

        if self.answers is not None:
            check_answers(self.record, self.answers)
            return pilot.tell(Answered(self.answers))

        if run.phase is Phase.WAITING:
            return ()

        if run.dialogue.between or self.record.ref is None:
            return run.begin(self.means.clock.now())

        issued_at = self.token.issued_at if self.token else 0.0
        young = self.means.clock.wall() - issued_at < self.means.poll.missing_grace
        return pilot.tell(Polled(await self.means.calls.poll_patiently(self.record.ref, young=young)))

    async def _begin(self, turn: Turn | None) -> tuple[Pilot, Sequence[Command]]:
        """Where the stream goes on: its token may be of an earlier round than the run has come to."""
        missed: list[Round] = []
        if turn is not None and self.token is not None and turn.refs:
            known = _place(turn, self.token.ref)
            missed = turn.rounds[known:]
            self._join(turn, turn.rounds[:known], self.token.ref)
        elif turn is not None and self.answers is not None:
            self._join(turn, turn.rounds, turn.ref)
            self.record.position = turn.position

        pilot = self._pilot(turn)
        if self.token is None:
            return pilot, await self._first(pilot)

        missing = pilot.run.catch_up(missed, turn.ref) if missed and turn else []
        return pilot, [*missing, *pilot.run.begin(self.means.clock.now())]

    @contextmanager
    def _turn(self) -> Generator[Turn | None]:
        """The run's place in the thread."""
        if self.thread is None:
            yield None
            return

        if self.request is not None:
            if len(self.thread.turns) != self.turns:
                raise UsageError("The thread has gone on since this stream was made: call run_streaming again.")

            turn = self.thread.begin(self.messages, self.record.id, self.request)
        elif self.token is not None:
            turn = self.thread.adopt(self.record)
            if turn.stopped:
                raise UsageError(f"The run of this token was ended here, {turn.status}: its thread has what it said.")

        else:
            turn = self.thread.awaiting()

        try:
            yield turn
        finally:
            if turn.status.live and self.request is not None and not self.request.background:
                turn.status = RunStatus.CANCELLED  # nobody can take it up again

            self.thread.forget(turn)

    def _join(self, turn: Turn, rounds: Sequence[Round], ref: RunRef | None) -> None:
        """What the thread knows of the run that was begun earlier. One that has ended is asked about all the same."""
        if turn.refs:
            self.record.id, self.record.status = turn.run_id, turn.status if turn.open else RunStatus.RUNNING
            self.record.rounds, self.record.ref = list(rounds), ref

    def _pilot(self, turn: Turn | None) -> Pilot:
        means, record = self.means, self.record
        run = Run(
            record,
            poll=means.poll,
            stream=means.stream,
            draw=random.random,
            now=means.clock.now(),
            age=max(means.clock.wall() - record.created_at, 0.0),
            parse=means.parse,
            tools=means.tooling,
        )

        def note(seen: bool) -> None:
            if turn is not None:
                turn.take(record, seen=seen)

        return Pilot(run, means.calls, means.tools, means.clock, note)

    def _token(self, run: Run) -> ContinuationToken | None:
        """For the next poll: one for the whole of a round, at whose beginning a stream goes on from it."""
        issued, given = run.token, self.token
        if issued is None or (given is not None and given.ref == issued.ref):
            return given if issued else None

        at = issued.position
        seq = given.position.seq if given else 0
        begin = Position(seq, None, at.before, at.before_digest, 0, at.before, at.before_digest)
        return replace(issued, position=begin)


def _place(turn: Turn, ref: RunRef) -> int:
    """How many rounds were closed when a token of this run was issued. Of several with its name it is the last."""
    if not turn.rounds or (turn.rounds[-1].sent and turn.ref == ref):
        return len(turn.rounds)

    return max((n for n, each in enumerate(turn.rounds) if each.ref == ref), default=len(turn.rounds))


def _unknown(reason: str) -> SubmitUnknown:
    return SubmitUnknown(
        f"The outputs of the run's calls were sent, and nobody knows whether they arrived: {reason.rstrip('.')}. The "
        f"thread keeps them; to send them again, call agent.run([], thread) with it.",
        run_id=None,
        reason=reason,
    )
