"""Virtual time for asyncio: a day of sleeping takes a millisecond.

When nothing is ready to run, the loop does not wait for its next timer: it moves its time to it. Timers fire in the
same order and at the same readings of `loop.time()` as in real time, so a test of hours is exact, and quick.

What is not a timer, virtual time cannot move, so the rule is:

- **Threads** that the loop knows of are waited for, really, while time stands still: `asyncio.to_thread`,
  `loop.run_in_executor`, name look-ups, an agent's tools. Other threads must be announced: `with outside(): await …`,
  or `announced(store)` for a whole object. A thread that was not is reported as `UnannouncedThread` where that is
  certain.
- **Sockets and pipes** between tasks of the same loop work. Before each jump the loop gives the kernel `grace` real
  seconds to bring what is on its way. A peer in another thread or process is not waited for: do not test it here.
- **`time.time()` and `time.monotonic()`** are the real ones. Code that takes a `Clock` gets a `VirtualClock`.

When nothing is ready, no timer is set, and nothing can come from outside, no test would ever end: `Deadlock` is raised,
and says which tasks wait where.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import selectors
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, nullcontext
from contextvars import Context
from typing import Any, ParamSpec, TypeVar, TypeVarTuple, cast, overload

T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")

GRACE = 0.005
"""Real seconds per jump while sockets are open. Loopback delivers in microseconds; a busy machine is slower."""
PATIENCE = 10.0
"""Real seconds to wait for what is outside: longer than an honest thread call, shorter than a CI's limit."""
_RESOLUTION = time.get_clock_info("monotonic").resolution
NEW_YEAR_2026 = 1_767_225_600.0
"""2026-01-01T00:00:00Z as Unix time."""


class Deadlock(RuntimeError):
    """Nothing can ever happen again under virtual time, or a call outside the loop did not come back in time."""


class UnannouncedThread(RuntimeError):
    """A thread that virtual time had not been told of called into the loop; time may have overtaken it."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer when nothing is ready. The module's docstring has the rule.

    `start` is the first reading of `time()`; `grace` and `patience` are in real seconds.
    """

    def __init__(self, *, start: float = 0.0, grace: float = GRACE, patience: float = PATIENCE) -> None:
        self._jumper = _JumpingSelector(self, start, grace, patience)
        self._home = threading.get_ident()
        super().__init__(self._jumper)
        self._jumper.settle()

    def time(self) -> float:
        """Virtual seconds."""
        return self._jumper.now

    @contextmanager
    def outside(self) -> Generator[None]:
        """Time stands still while this context is open: the loop waits, really, for something outside it."""
        self._jumper.announce()
        try:
            yield
        finally:
            self._jumper.outside -= 1

    def run_forever(self) -> None:
        """As asyncio's; remembers in which thread the loop runs."""
        self._home = threading.get_ident()
        super().run_forever()

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """As asyncio's; time stands still until the call is done or nobody waits for it any more."""
        future = super().run_in_executor(executor, func, *args)
        self._jumper.announce()
        future.add_done_callback(self._come_back)
        return future

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As asyncio's; notes a call from a thread on a loop that was never told of any."""
        if threading.get_ident() != self._home and not self._jumper.told:
            self._jumper.stranger = threading.current_thread().name

        return super().call_soon_threadsafe(callback, *args, context=context)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """As asyncio's, whose helper thread is not one of an executor."""
        with self.outside():
            # Python 3.11 has no time-out here.
            await super().shutdown_default_executor(*(() if timeout is None else (timeout,)))

    def _come_back(self, _: asyncio.Future[Any]) -> None:
        self._jumper.outside -= 1


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for files like any selector, and keeps the time: `select` moves it where it would have slept."""

    def __init__(self, loop: VirtualTimeLoop, start: float, grace: float, patience: float) -> None:
        super().__init__()
        self.now = start
        self.outside = 0  # announced calls under way; while there is one, `now` does not change
        self.told = False  # was ever a call announced?
        self.stranger: str | None = None  # a thread that called, and never should have
        self._loop = loop
        self._grace = grace
        self._patience = patience
        self._own = 0

    def settle(self) -> None:
        """All files registered so far are the loop's own, and bring nothing of interest."""
        self._own = len(self.get_map())

    def announce(self) -> None:
        """One more call is under way outside the loop."""
        self.outside += 1
        self.told = True

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now; else what comes from outside; else nothing, `timeout` virtual seconds later."""
        ready = super().select(0)
        if self.stranger is not None:
            stranger, self.stranger = self.stranger, None
            raise UnannouncedThread(_STRANGER.format(stranger))

        if not ready and (timeout is None or timeout > 0):
            ready = super().select(self._real_wait(timeout))

        if not ready:
            self._jump(timeout)

        return ready

    def _real_wait(self, timeout: float | None) -> float:
        """Real seconds for which something may still come from outside."""
        if self.outside:
            return self._patience

        if len(self.get_map()) > self._own:
            return self._patience if timeout is None else self._grace

        return 0

    def _jump(self, timeout: float | None) -> None:
        if self.outside and timeout != 0:
            raise Deadlock(_LATE.format(self._patience, _waiting(self._loop)))

        if timeout is None:
            raise Deadlock(_STUCK.format(_waiting(self._loop)))

        self.now += max(timeout, 0.0)
        # asyncio runs what is due before `now + resolution`. After three months that sum is `now` itself, and a timer
        # due now would never run.
        if self.now + _RESOLUTION == self.now:
            self.now = math.nextafter(self.now, math.inf)


_STUCK = (
    "Deadlock under virtual time: nothing is ready, no timer is set, and nothing can come from outside. Waiting:\n{}\n"
    "If a thread was to bring something, announce it: `with agentbg.testing.outside(): await …`."
)
_LATE = (
    "A call outside the loop (an executor's, or one announced with `outside()`) did not come back within {:g} real "
    "seconds, and virtual time stands still meanwhile. Waiting:\n{}"
)
_STRANGER = (
    "Thread {!r} called into a loop with virtual time that was not told of it, so time may have overtaken it. Use "
    "`asyncio.to_thread`, or announce it: `with agentbg.testing.outside(): await …`."
)


def _waiting(loop: asyncio.AbstractEventLoop) -> str:
    """One line per unfinished task: its name, and where it waits."""
    lines = sorted(f"  {task.get_name()}: {_place(task)}" for task in asyncio.all_tasks(loop))
    return "\n".join(lines) or "  no task at all"


def _place(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack()
    if not frames:
        return "not started"

    frame = frames[-1]
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


@contextmanager
def outside() -> Generator[None]:
    """Announce to the running loop that something outside it is awaited in this block. Real loops need no telling.

    with outside():
        await connection_with_a_thread_of_its_own.execute("…")
    """
    loop = asyncio.get_running_loop()
    with loop.outside() if isinstance(loop, VirtualTimeLoop) else nullcontext():
        yield


def announced(worker: T) -> T:
    """`worker` with its coroutine methods announced: for objects with a thread of their own, such as a SQLite store."""
    return cast("T", _Announced(worker))


class _Announced:
    """Stands for an object; awaits its coroutine methods in `outside()`."""

    def __init__(self, worker: object) -> None:
        self._worker = worker

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._worker, name)
        return _announce(attribute) if inspect.iscoroutinefunction(attribute) else attribute


def _announce(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with outside():
            return await function(*args, **kwargs)

    return call


def run(main: Coroutine[Any, Any, T], *, start: float = 0.0, debug: bool | None = None) -> T:
    """`asyncio.run(main)` under virtual time; `loop.time()` begins at `start`.

    Raises what `main` raises, and `Deadlock` when it waits for what cannot happen.
    """
    with asyncio.Runner(debug=debug, loop_factory=lambda: VirtualTimeLoop(start=start)) as runner:
        return runner.run(main)


@overload
def virtual_time(test: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, T]: ...
@overload
def virtual_time(*, start: float = 0.0) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, T]]: ...
def virtual_time(
    test: Callable[P, Coroutine[Any, Any, T]] | None = None, /, *, start: float = 0.0
) -> Callable[P, T] | Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, T]]:
    """Make an `async def test_…` an ordinary test that runs under virtual time. Use with or without parentheses.

    Fixtures and parameters reach the test as ever, and no asyncio plugin runs it a second time. An *asynchronous*
    fixture, though, lives in the plugin's loop, not in the test's: build such things inside the test.
    """
    if test is None:
        return functools.partial(_virtual_time, start=start)

    return _virtual_time(test, start=start)


def _virtual_time(test: Callable[P, Coroutine[Any, Any, T]], *, start: float) -> Callable[P, T]:
    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        return run(test(*args, **kwargs), start=start)

    return wrapper


class VirtualClock:
    """A `Clock` whose wall shows `start` (Unix seconds) when the loop's time is 0, and moves with the loop."""

    def __init__(self, start: float = NEW_YEAR_2026) -> None:
        self.start = start

    def now(self) -> float:
        """The running loop's time in seconds."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """Unix time in virtual seconds."""
        return self.start + self.now()
