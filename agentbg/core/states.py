"""The run machine as data: phases, signals, actions, and the table that ties them.

Rules:

- A signal that a phase's row does not have changes nothing: it is late, and late news of a run is no news.
- A poll or a stream that fails is a FAULT, a CUT or DRY, never an end. Only what the service says of the run, its
  having forgotten it, the deadline, or a tool that gives up ends a run (FINISHED).
- A run that asks for calls goes through CALLING, or WAITING for its user, to STARTING its next round. A FAULT in
  STARTING is a later round's: a first start that fails is no run.
- DONE has no rows: nothing leads out of it.

The state diagram in ARCHITECTURE.md is drawn from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from .status import RunStatus


class Phase(StrEnum):
    """What the machine is doing about its run."""

    STARTING = "starting"
    """A start is on its way, of the run or of a later round; an intent is stored, and nothing more is known."""
    POLLING = "polling"
    """A poll is due at some time, or under way."""
    ATTACHING = "attaching"
    """A stream is to be opened at some time, or is being opened."""
    STREAMING = "streaming"
    """Events arrive."""
    CALLING = "calling"
    """Calls that the run asked for are being made here; the service does nothing meanwhile."""
    WAITING = "waiting"
    """The run waits for its user; there is nothing to poll."""
    DONE = "done"
    """The run has ended."""


class Signal(StrEnum):
    """What an observation means to the machine."""

    ALIVE = "alive"
    """The service shows a run that goes on."""
    STREAMABLE = "streamable"
    """The same, and the run is to be streamed, and no stream is open."""
    EVENTS = "events"
    """Events arrived."""
    CUT = "cut"
    """A connection that brought something new has ended."""
    DRY = "dry"
    """A connection that brought nothing new has ended."""
    REFUSED = "refused"
    """The service does not stream this run (any more)."""
    FAULT = "fault"
    """A poll failed in a way that may pass."""
    DENIED = "denied"
    """A poll was refused in a way that will not pass by itself: a wrong key, say."""
    DUE = "due"
    """The time asked for has come."""
    QUIET = "quiet"
    """The time has come, and the open stream has brought nothing for long."""
    CALLS = "calls"
    """The run asks for calls that are ours to make."""
    ASKED = "asked"
    """The run waits for its user."""
    ANSWERED = "answered"
    """All that the run asked for is answered."""
    FINISHED = "finished"
    """The run has ended, in one of the service's ways or ours."""
    CANCELLING = "cancelling"
    """A cancel was answered without a terminal snapshot."""


class Action(StrEnum):
    """What to do on a transition."""

    FIRST_POLL = "poll first"
    NEXT_POLL = "poll next"
    RETRY_POLL = "poll after backoff"
    RETRY_STREAM = "poll after backoff, then attach"
    COMPLAIN = "complain, poll late"
    POLL = "poll now"
    RELEASE = "close stream, poll now"
    ATTACH = "attach now"
    ATTACH_AGAIN = "attach again"
    WATCH = "watch"
    CALL = "make calls"
    SEND = "send answers"
    RETRY_SEND = "send after backoff"
    SETTLE = "settle"
    NOTHING = ""


def phase_of(status: RunStatus) -> Phase:
    """Where a machine begins with a run that stands so."""
    if status.terminal:
        return Phase.DONE

    return Phase.WAITING if status is RunStatus.INPUT_REQUIRED else Phase.STARTING


P, S, A = Phase, Signal, Action

TABLE: Mapping[Phase, Mapping[Signal, tuple[Phase, Action]]] = {
    P.STARTING: {
        S.ALIVE: (P.POLLING, A.FIRST_POLL),
        S.STREAMABLE: (P.ATTACHING, A.ATTACH),
        S.EVENTS: (P.STREAMING, A.WATCH),
        S.FAULT: (P.STARTING, A.RETRY_SEND),
        S.DENIED: (P.STARTING, A.COMPLAIN),
        S.CALLS: (P.CALLING, A.CALL),
        S.ASKED: (P.WAITING, A.SETTLE),
        S.ANSWERED: (P.STARTING, A.SEND),
        S.FINISHED: (P.DONE, A.SETTLE),
    },
    P.POLLING: {
        S.ALIVE: (P.POLLING, A.NEXT_POLL),
        S.STREAMABLE: (P.ATTACHING, A.ATTACH),
        S.FAULT: (P.POLLING, A.RETRY_POLL),
        S.DENIED: (P.POLLING, A.COMPLAIN),
        S.DUE: (P.POLLING, A.POLL),
        S.CANCELLING: (P.POLLING, A.POLL),
        S.CALLS: (P.CALLING, A.CALL),
        S.ASKED: (P.WAITING, A.SETTLE),
        S.FINISHED: (P.DONE, A.SETTLE),
    },
    P.ATTACHING: {
        S.EVENTS: (P.STREAMING, A.WATCH),
        S.DUE: (P.POLLING, A.RELEASE),
        S.CUT: (P.ATTACHING, A.ATTACH_AGAIN),
        S.DRY: (P.POLLING, A.RETRY_STREAM),
        S.REFUSED: (P.POLLING, A.POLL),
        S.CANCELLING: (P.POLLING, A.RELEASE),
        S.CALLS: (P.CALLING, A.CALL),
        S.ASKED: (P.WAITING, A.SETTLE),
        S.FINISHED: (P.DONE, A.SETTLE),
    },
    P.STREAMING: {
        S.EVENTS: (P.STREAMING, A.NOTHING),
        S.CUT: (P.ATTACHING, A.ATTACH_AGAIN),
        S.DRY: (P.POLLING, A.RETRY_STREAM),
        S.REFUSED: (P.POLLING, A.POLL),
        S.DUE: (P.STREAMING, A.WATCH),
        S.QUIET: (P.STREAMING, A.POLL),
        S.ALIVE: (P.STREAMING, A.WATCH),
        S.FAULT: (P.STREAMING, A.WATCH),
        S.DENIED: (P.STREAMING, A.WATCH),
        S.CANCELLING: (P.POLLING, A.RELEASE),
        S.CALLS: (P.CALLING, A.CALL),
        S.ASKED: (P.WAITING, A.SETTLE),
        S.FINISHED: (P.DONE, A.SETTLE),
    },
    P.CALLING: {
        S.CALLS: (P.CALLING, A.CALL),
        S.ASKED: (P.WAITING, A.SETTLE),
        S.ANSWERED: (P.STARTING, A.SEND),
        S.FINISHED: (P.DONE, A.SETTLE),
    },
    P.WAITING: {
        S.CALLS: (P.CALLING, A.CALL),
        S.ASKED: (P.WAITING, A.SETTLE),
        S.ANSWERED: (P.STARTING, A.SEND),
        S.CANCELLING: (P.WAITING, A.POLL),
        S.FINISHED: (P.DONE, A.SETTLE),
    },
    P.DONE: {},
}
