"""A run in this process: its machine, those who wait for it, and its latest updates."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from .calls import Calls
from .core.bounds import NEVER
from .core.model import RunRef
from .core.run import Run
from .core.update import AgentRunResponseUpdate, UpdateType
from .errors import AgentBGError
from .journal import Journal
from .partials import ReadPartial
from .reader import Reader
from .tools import Toolset


@dataclass(frozen=True, slots=True)
class Ways:
    """What all runs of one agent share: the ways to its service and to its tools, and how its answers are read."""

    calls: Calls
    tools: Toolset
    restarts: bool
    """A start may be sent again."""
    read_partial: ReadPartial | None
    """How an answer is read before it is whole; None for an agent without an output type."""


class Bell:
    """Wakes everyone who waits at this moment, with good news or with an error."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], None] = {}  # an empty set weighs three times as much

    async def wait(self) -> None:
        """Wait for the next ring. Raises the error that it rings with."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[waiting] = None
        try:
            await waiting
        finally:
            self._waiting.pop(waiting, None)

    def ring(self, error: BaseException | None = None) -> None:
        """Wake those who wait now."""
        for waiting in self._waiting:
            if waiting.done():
                continue

            if error is None:
                waiting.set_result(None)
            else:
                waiting.set_exception(error)


class Mutex:
    """Held by one at a time, in the order of asking: an `asyncio.Lock` at half the weight, and each run has one."""

    __slots__ = ("_held", "_waiting")

    def __init__(self) -> None:
        self._held = False
        self._waiting: deque[asyncio.Future[None]] | None = None

    def locked(self) -> bool:
        """True while it is held."""
        return self._held

    async def __aenter__(self) -> None:
        if not self._held:
            self._held = True
            return

        if self._waiting is None:
            self._waiting = deque()

        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn  # it is held from one to the next
        except asyncio.CancelledError:
            if not turn.cancelled():  # it had just been handed over
                self._hand_over()

            raise

    async def __aexit__(self, *_: object) -> None:
        self._hand_over()

    def _hand_over(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

        self._held, self._waiting = False, None


async def outlast(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Wait until these have ended, which they do soon; being cancelled meanwhile is put off until then."""
    cancelled: asyncio.CancelledError | None = None
    while any(not task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError as error:
            cancelled = error

    if cancelled is not None:
        raise cancelled


def heard(done: asyncio.Future[Any]) -> None:
    """A done callback for what nobody may wait for any more: its error is no error then."""
    if not done.cancelled():
        done.exception()


def promise() -> asyncio.Future[None]:
    """A future whose outcome nobody may be there to take."""
    return asyncio.get_running_loop().create_future()


def resolve(made: asyncio.Future[None] | None, error: Exception | None = None) -> None:
    """Keep a promise, or break it with an error, which is none where nobody is there; nothing, when that was done
    before."""
    if made is None or made.done():
        return

    if error is None:
        made.set_result(None)
    else:
        made.set_exception(error)
        heard(made)


class LiveRun:
    """One run that handles look at and the driver drives. All handles of a run share it.

    There may be a hundred thousand: what few runs have at a time is made when it is needed.
    """

    __slots__ = (
        "_bell", "_calls_under_way", "_news", "_on_settled", "_readers", "_rests", "announced",
        "cancelling", "committed", "interval", "journal", "lock", "lost", "reconnects", "record",
        "restarts_until", "run", "settled", "started", "stream", "ways",
    )  # fmt: skip

    def __init__(self, run: Run, journal: Journal, ways: Ways | None) -> None:
        self.run, self.journal = run, journal
        self.ways = ways
        """None where no agent is known, so that the run can only be looked at."""
        self.record = run.record
        self.settled = not run.record.status.live
        """True when the run has ended or waits for its user, and the store knows."""
        self.lock = Mutex()
        """Held from an observation to the end of its commands: commits keep the order of what happened."""
        self.stream: asyncio.Task[None] | None = None
        self.started: asyncio.Future[None] | None = None
        """Kept when the start is answered: whoever submitted the run here waits for it."""
        self.announced = False
        """The hooks know of the start."""
        self.cancelling: asyncio.Future[None] | None = None
        self.lost: AgentBGError | None = None
        """Why this process does not drive the run any more, although it is live."""
        self.restarts_until = NEVER
        """Up to this Unix time the run may be started again, should its service lose it."""
        self._bell: Bell | None = None
        self._news: Bell | None = None
        self.committed, self.reconnects, self.interval = run.record.position.seq, 0, 0.0
        """The seq of the last update that was published; connections made to take the stream up again; for how many
        seconds the run wanted to be left alone the last time."""
        self._readers: list[weakref.ref[Reader]] | None = None
        self._on_settled: list[Callable[[], object]] | None = None
        self._calls_under_way: dict[asyncio.Future[None], None] | None = None
        self._rests: dict[int, Callable[[], object]] | None = None

    @property
    def id(self) -> str:
        """The run's id: ours."""
        return self.record.id

    @property
    def bell(self) -> Bell:
        """Rung when the run is settled, or cannot be."""
        if self._bell is None:
            self._bell = Bell()

        return self._bell

    @property
    def news(self) -> Bell:
        """Rung for those who stream: at each update, too."""
        if self._news is None:
            self._news = Bell()

        return self._news

    @property
    def driven_by(self) -> Ways:
        """The ways of a run that is driven."""
        assert self.ways is not None, "a run without an agent is not driven"
        return self.ways

    @property
    def service(self) -> tuple[Calls, RunRef]:
        """Where to ask about the run. Only a run that was started, and whose agent is known, has it."""
        assert self.record.ref is not None, "the machine asks nothing of a run before its ref is known"
        return self.driven_by.calls, self.record.ref

    def publish(self, updates: Sequence[AgentRunResponseUpdate]) -> None:
        """Hand on updates that the journal has taken."""
        if not updates:
            return

        self.committed = updates[-1].seq
        for each in self._readers or ():
            if (reader := each()) is not None:
                reader.put(updates)

        if self._news is not None:
            self._news.ring()

    def work(self, call: asyncio.Future[None]) -> None:
        """A call of a tool is under way."""
        if self._calls_under_way is None:
            self._calls_under_way = {}

        self._calls_under_way[call] = None
        call.add_done_callback(self._calls_under_way.pop)

    def hang_up(self) -> None:
        """Nobody waits for the calls under way any more."""
        for call in list(self._calls_under_way or ()):
            if call is not asyncio.current_task():
                call.cancel()

    def settle(self) -> None:
        """The result is stored: wake all who wait for it."""
        self.settled = True
        for rest in (self._rests or {}).values():
            rest()

        resolve(self.cancelling)
        self.cancelling = None
        self.ring()
        self._announce()

    def abandon(self, error: AgentBGError) -> None:
        """This process lets go of the run: all who wait get the error, now and later. The run itself goes on."""
        if self.lost is not None or (self.settled and self.record.status.terminal):
            return

        self.lost = error
        resolve(self.started, error)
        self.started = None
        resolve(self.cancelling, error)
        self.ring(error)
        self._announce()

    def ring(self, error: AgentBGError | None = None) -> None:
        """Wake all who wait: for the end, or for the next update."""
        for bell in (self._bell, self._news):
            if bell is not None:
                bell.ring(error)

    def at_rest(self, who: int, call: Callable[[], object]) -> None:
        """Call each time the run comes to rest: it has ended, or waits for its user. One call for each who is told."""
        self._rests = {**(self._rests or {}), who: call}

    def when_settled(self, call: Callable[[], object]) -> None:
        """Call back once when there is nothing more to wait for; at once when there is nothing now."""
        if self.settled or self.lost is not None:
            call()
        elif self._on_settled is None:
            self._on_settled = [call]
        else:
            self._on_settled.append(call)

    async def wait(self) -> None:
        """Wait until the run is settled. Raises when this process lets go of it, or the service will not talk of it."""
        while not self.settled:
            if self.lost is not None:
                raise self.lost

            await self.bell.wait()

    def read(self, after: int) -> Reader:
        """All updates with a seq above `after`, as they are published or from the journal, until the last."""
        reader = Reader(self, after)
        if self._readers is None:
            self._readers = []

        self._readers.append(weakref.ref(reader, self._readers.remove))
        return reader

    def dress(self, update: AgentRunResponseUpdate) -> AgentRunResponseUpdate:
        """Give an update from the journal what a journal does not keep."""
        last = update.type is UpdateType.END or (update.type is UpdateType.WAITING and update.seq == self.committed)
        response: Any = self.run.response if last else None
        update.issuer, update.response = self.run.dialogue.issuer(update.seq), response
        return update

    def _announce(self) -> None:
        calls, self._on_settled = self._on_settled, None
        for call in calls or ():
            try:
                call()
            except Exception as error:  # noqa: BLE001  a user's: it is neither the run's trouble nor the other callbacks'
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"A callback of run {self.id} failed", "exception": error}
                )
