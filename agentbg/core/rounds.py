"""Rounds: a run that asks for calls, is answered, and goes on.

What the service counts as one run, ended by calls that it wants answered, is a *round* of ours. Its answers start the
next one: by naming the run before (`FollowUp.PREVIOUS`), by sending the whole story again (`WHOLE`), or by telling the
same run (`SAME`). The journal of calls is part of the run's record: it says what was begun before it is begun.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from .model import JSON, RunErrorInfo, RunRef, Snapshot, StartRequest, Usage
from .position import Position
from .requests import Answer, InputRequest, RequestKind, decision_item, output_item

TOO_MANY_ROUNDS = "too_many_rounds"
"""The error code of a run whose model never stopped calling."""
TOOL_FAILED = "tool_failed"
"""The error code of a run that a tool has ended."""
INTERRUPTED = (
    "Error: the process ended while this call was being made. It is not known whether it took effect; check before you "
    "make it again."
)
MAX_ROUNDS = 40
"""As many rounds as Microsoft.Extensions.AI's function-invoking client allows."""


class FollowUp(StrEnum):
    """How a service is told the answers."""

    PREVIOUS = "previous"
    """By a new run that names the one before."""
    WHOLE = "whole"
    """By a new run that is sent all there was: the service keeps nothing."""
    SAME = "same"
    """By telling the run that waits, which goes on, or is replaced by a new one."""


class CallState(StrEnum):
    """Where a call stands. Stored before it is acted upon."""

    ASKED = "asked"
    """Its user decides."""
    READY = "ready"
    """To be made."""
    RUNNING = "running"
    """Being made; after a crash nobody knows how far it came."""
    ANSWERED = "answered"


@dataclass(slots=True)
class Call:
    """One request of a round."""

    request: InputRequest
    state: CallState = CallState.ASKED
    answer: JSON | None = None
    """The item to send."""


@dataclass(slots=True)
class Round:
    """One run of the service that ended in requests."""

    ref: RunRef | None
    text: str = ""
    items: Sequence[JSON] = ()
    usage: Usage | None = None
    calls: list[Call] = field(default_factory=list[Call])
    position: Position = Position()
    """At its end, with the `seq` of its last answer: what a token holds until the next round has a name."""
    sent: bool = False
    """Its answers are at the service, or on their way."""
    error: RunErrorInfo | None = None
    """Why nobody knows whether its answers arrived."""

    def states(self) -> set[CallState]:
        """The states that its calls are in."""
        return {call.state for call in self.calls}

    def find(self, request_id: str, state: CallState) -> Call | None:
        """The call with this id, if it is in this state."""
        return next((call for call in self.calls if (call.request.id, call.state) == (request_id, state)), None)


@dataclass(frozen=True, slots=True)
class ToolRule:
    """What the machine knows of a tool."""

    requires_approval: bool = False
    idempotent: bool = False
    """A call that may have been made may be made again."""


@dataclass(frozen=True, slots=True)
class Tooling:
    """What an agent lets the machine know: which calls are ours to make, and how to go on after them."""

    rules: Mapping[str, ToolRule] = field(default_factory=dict[str, ToolRule])
    max_rounds: int = MAX_ROUNDS
    follow_up: FollowUp = FollowUp.PREVIOUS
    template: StartRequest = field(default_factory=lambda: StartRequest(()))
    """What to start a follow-up like, for a run whose own request is not known: it was taken up by its token."""


def open_round(snapshot: Snapshot, ref: RunRef | None, position: Position, rules: Mapping[str, ToolRule]) -> Round:
    """The round that a snapshot opens, its calls not yet begun."""
    requests = snapshot.requests or (InputRequest("input", RequestKind.INPUT),)
    calls = [_plan(request, rules) for request in requests]
    return Round(ref, snapshot.text, list(snapshot.items), snapshot.usage, calls, position)


def take_up(closed: Round, rules: Mapping[str, ToolRule]) -> list[JSON]:
    """After a crash: a call that was being made is made again only when it may be; one without a tool is its user's.

    Returns the answers to those that are not made again.
    """
    interrupted: list[JSON] = []
    for call in closed.calls:
        rule = rules.get(call.request.name)
        if call.state is CallState.RUNNING and not (rule and rule.idempotent):
            interrupted.append(settle(call, output_item(call.request, INTERRUPTED)))
        elif call.state in (CallState.RUNNING, CallState.READY):
            _allow(call, rules)

    return interrupted


def begin_calls(closed: Round) -> list[InputRequest]:
    """The calls to make now; from here on they count as begun."""
    ready = [call for call in closed.calls if call.state is CallState.READY]
    for call in ready:
        call.state = CallState.RUNNING

    return [call.request for call in ready]


def decide(call: Call, answer: Answer, rules: Mapping[str, ToolRule]) -> None:
    """Take a user's answer: a call of ours that is approved is to be made, all else is answered."""
    if answer.output is not None:
        settle(call, output_item(call.request, answer.output))
    elif answer.approve and call.request.item.get("type") != "mcp_approval_request":
        _allow(call, rules)
    else:
        settle(call, decision_item(call.request, answer))


def settle(call: Call, answer: JSON) -> JSON:
    """A call is answered, once and for good."""
    call.state, call.answer = CallState.ANSWERED, answer
    return answer


def open_requests(rounds: Sequence[Round]) -> list[InputRequest]:
    """What the user is waited for."""
    calls = rounds[-1].calls if rounds and not rounds[-1].sent else ()
    return [call.request for call in calls if call.state is CallState.ASKED]


def said(rounds: Iterable[Round]) -> str:
    """The text of all rounds."""
    return "".join(each.text for each in rounds)


def story(rounds: Sequence[Round], last: Snapshot | None) -> list[JSON]:
    """All that was said and called, and how the calls were answered."""
    items = [item for each in rounds for item in (*each.items, *_answers(each))]
    return [*items, *(last.items if last else ())]


def follow_up(request: StartRequest, rounds: Sequence[Round], how: FollowUp) -> StartRequest:
    """The start of the next round: the answers, and everything else as it was.

    A `tool_choice` that forces a call would force one in each round, without end: only the first has it. So with a
    `previous_response_id` of the caller's own, which the round before stands for now.
    """
    extra = {name: value for name, value in request.extra.items() if name != "tool_choice" or value in ("auto", "none")}
    last = rounds[-1]
    if how is FollowUp.WHOLE:
        return replace(request, input=[*request.input, *story(rounds, None)], extra=extra)

    extra.pop("previous_response_id", None)
    return replace(request, input=_answers(last), previous=last.ref, extra=extra)


def total(usages: Iterable[Usage | None]) -> Usage | None:
    """The tokens of all rounds; `raw` is the last one's."""
    known = [usage for usage in usages if usage is not None]
    if len(known) < 2:
        return known[0] if known else None

    return Usage(
        sum(usage.input_tokens for usage in known),
        sum(usage.output_tokens for usage in known),
        sum(usage.total_tokens for usage in known),
        known[-1].raw,
    )


def _plan(request: InputRequest, rules: Mapping[str, ToolRule]) -> Call:
    rule = rules.get(request.name) if request.kind is RequestKind.CALL else None
    if rule is None:
        return Call(request)

    if rule.requires_approval:
        return Call(replace(request, kind=RequestKind.APPROVAL))

    return Call(request, CallState.READY)


def _allow(call: Call, rules: Mapping[str, ToolRule]) -> None:
    """A call is to be made; by its user, where this process has no tool for it."""
    if call.request.name in rules:
        call.state = CallState.READY
    else:
        call.state, call.request = CallState.ASKED, replace(call.request, kind=RequestKind.CALL)


def _answers(closed: Round) -> list[JSON]:
    return [call.answer for call in closed.calls if call.answer is not None]
