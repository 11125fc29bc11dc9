"""Where the time comes from: one clock for waiting, one for the calendar."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """The two times that a runtime needs. Both in seconds."""

    def now(self) -> float:
        """The running loop's monotonic time: for delays and deadlines, worth nothing outside this process."""
        ...

    def wall(self) -> float:
        """Unix time: for records and tokens, which outlive the process. It may jump."""
        ...


class SystemClock:
    """The clock of the running event loop and the clock on the wall."""

    def now(self) -> float:
        """The running loop's time in seconds."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """Unix time in seconds."""
        return time.time()
