"""The run machine as data: phases, signals, actions, and the table that ties them.

Rules:

- A signal that a phase's row does not have changes nothing: it is late, and late news of a run is no news.
- A poll or a stream that fails is a FAULT, a CUT or DRY, never an end. Only what the service says of the run (FINISHED,
  ASKED), its having forgotten it, or the deadline ends a run.
- DONE has no rows: nothing leads out of it.

The state diagram in ARCHITECTURE.md is drawn from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Phase(StrEnum):
    """What the machine is doing about its run."""

    STARTING = "starting"
    """The start is on its way; an intent is stored, and nothing more is known."""
    POLLING = "polling"
    """A poll is due at some time, or under way."""
    ATTACHING = "attaching"
    """A stream is to be opened at some time, or is being opened."""
    STREAMING = "streaming"
    """Events arrive."""
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
    ASKED = "asked"
    """The run waits for its user."""
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
    WATCH = "watch"
    SETTLE = "settle"
    NOTHING = ""


P, S, A = Phase, Signal, Action

TABLE: Mapping[Phase, Mapping[Signal, tuple[Phase, Action]]] = {
    P.STARTING: {
        S.ALIVE: (P.POLLING, A.FIRST_POLL),
        S.STREAMABLE: (P.ATTACHING, A.ATTACH),
        S.EVENTS: (P.STREAMING, A.WATCH),
        S.ASKED: (P.WAITING, A.SETTLE),
        S.FINISHED: (P.DONE, A.SETTLE),
    },
    P.POLLING: {
        S.ALIVE: (P.POLLING, A.NEXT_POLL),
        S.STREAMABLE: (P.ATTACHING, A.ATTACH),
        S.FAULT: (P.POLLING, A.RETRY_POLL),
        S.DENIED: (P.POLLING, A.COMPLAIN),
        S.DUE: (P.POLLING, A.POLL),
        S.CANCELLING: (P.POLLING, A.POLL),
        S.ASKED: (P.WAITING, A.SETTLE),
        S.FINISHED: (P.DONE, A.SETTLE),
    },
    P.ATTACHING: {
        S.EVENTS: (P.STREAMING, A.WATCH),
        S.DUE: (P.POLLING, A.RELEASE),
        S.CUT: (P.ATTACHING, A.ATTACH),
        S.DRY: (P.POLLING, A.RETRY_STREAM),
        S.REFUSED: (P.POLLING, A.POLL),
        S.CANCELLING: (P.POLLING, A.RELEASE),
        S.ASKED: (P.WAITING, A.SETTLE),
        S.FINISHED: (P.DONE, A.SETTLE),
    },
    P.STREAMING: {
        S.EVENTS: (P.STREAMING, A.NOTHING),
        S.CUT: (P.ATTACHING, A.ATTACH),
        S.DRY: (P.POLLING, A.RETRY_STREAM),
        S.REFUSED: (P.POLLING, A.POLL),
        S.DUE: (P.STREAMING, A.WATCH),
        S.QUIET: (P.STREAMING, A.POLL),
        S.ALIVE: (P.STREAMING, A.WATCH),
        S.FAULT: (P.STREAMING, A.WATCH),
        S.DENIED: (P.STREAMING, A.WATCH),
        S.CANCELLING: (P.POLLING, A.RELEASE),
        S.ASKED: (P.WAITING, A.SETTLE),
        S.FINISHED: (P.DONE, A.SETTLE),
    },
    P.WAITING: {
        S.CANCELLING: (P.WAITING, A.POLL),
        S.FINISHED: (P.DONE, A.SETTLE),
    },
    P.DONE: {},
}
