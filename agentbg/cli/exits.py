"""What the exit codes mean."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Self

from ..core.model import SUBMIT_UNKNOWN
from ..core.response import AgentRunResponse
from ..core.status import RunStatus
from ..errors import (
    AgentBGError,
    ProviderError,
    RunUnknown,
    StoreError,
    SubmitUnknown,
    TokenError,
    TokenExpired,
    UsageError,
)


class Exit(IntEnum):
    """The exit codes of all commands."""

    COMPLETED = 0, "the run completed; for list, cancel and --detach: done"
    FAILED = 1, "the run failed"
    USAGE = 2, "the command line is wrong; nothing was sent"
    CANCELLED = 3, "the run was cancelled"
    INCOMPLETE = 4, "the run ended before its answer did: a token limit, a content filter"
    INPUT_REQUIRED = 5, "the run waits for its user"
    EXPIRED = 6, "the service no longer has the run, or its deadline passed"
    TIMED_OUT = 7, "the waiting is over, and the run goes on; its id and token are printed"
    SERVICE = 8, "the service cannot be reached, or refuses"
    SUBMIT_UNKNOWN = 9, "a start was sent, and nobody knows whether it arrived"
    STORE = 10, "the store cannot be used, or has no such run"
    OUTPUT = 11, "the answer cannot be written: stdout is full or closed"
    INTERRUPTED = 130, "Ctrl-C; the run goes on"

    meaning: str

    def __new__(cls, code: int, meaning: str = "") -> Self:
        """A member is its code; what it means lies beside it."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


_BY_STATUS = {
    RunStatus.COMPLETED: Exit.COMPLETED,
    RunStatus.FAILED: Exit.FAILED,
    RunStatus.CANCELLED: Exit.CANCELLED,
    RunStatus.INCOMPLETE: Exit.INCOMPLETE,
    RunStatus.INPUT_REQUIRED: Exit.INPUT_REQUIRED,
    RunStatus.EXPIRED: Exit.EXPIRED,
}

# The first that fits counts.
_BY_ERROR: tuple[tuple[type[AgentBGError], Exit], ...] = (
    (RunUnknown, Exit.STORE),
    (StoreError, Exit.STORE),
    (SubmitUnknown, Exit.SUBMIT_UNKNOWN),
    (ProviderError, Exit.SERVICE),
    (TokenExpired, Exit.EXPIRED),
    (TokenError, Exit.USAGE),
    (UsageError, Exit.USAGE),
)


def exit_of_response(response: AgentRunResponse[Any]) -> Exit:
    """The exit code for how a run stands; one that goes on was given up waiting for."""
    if response.error is not None and response.error.code == SUBMIT_UNKNOWN:
        return Exit.SUBMIT_UNKNOWN

    return _BY_STATUS.get(response.status, Exit.TIMED_OUT)


def exit_of_error(error: AgentBGError) -> Exit:
    """The exit code for an error."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), Exit.FAILED)


def describe_exits() -> str:
    """All codes with their meanings, a line each."""
    return "\n".join(f"{code.value:>3}  {code.meaning}" for code in Exit)
