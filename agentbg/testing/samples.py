"""Records and updates for tests of stores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..core.model import JSON, RunErrorInfo, RunRef, Snapshot, StartRequest, Usage
from ..core.position import Position, digest
from ..core.record import RunRecord
from ..core.requests import InputRequest, RequestKind
from ..core.rounds import Call, CallState, Round
from ..core.status import RunStatus
from ..core.update import AgentRunResponseUpdate, UpdateType

NASTY = 'a \ud83d\ude00 face, two halves of one: \ud83d, \ude00; NUL: \0; newline:\n; quote: "'
"""JSON can carry all of it, lone surrogates included."""


def make_record(run_id: str = "run_1", **changes: Any) -> RunRecord:
    """A new run's record; `changes` are fields that differ."""
    request = StartRequest(input=[{"role": "user", "content": "Survey solid-state batteries"}])
    record = RunRecord(
        id=run_id,
        agent="researcher",
        provider="openai",
        endpoint="3f5a",
        stream=True,
        created_at=1_767_225_600.25,
        request=request,
    )
    return replace(record, **changes)


def make_updates(first: int, last: int, word: str = "word ") -> Sequence[AgentRunResponseUpdate]:
    """Text updates with the seqs from `first` to `last`, each with its place in the run; the events of those with odd
    seqs are not read yet."""
    events = [
        {"type": "response.output_text.delta", "sequence_number": seq * 2, "delta": word}
        for seq in range(first, last + 1)
    ]
    return [
        AgentRunResponseUpdate(
            type=UpdateType.TEXT,
            seq=seq,
            text=word,
            source=json.dumps(event, ensure_ascii=False) if seq % 2 else event,
            position=Position(seq, seq * 2, seq * len(word), digest(word * seq), 1),
        )
        for seq, event in enumerate(events, first)
    ]


def full_record() -> RunRecord:
    """A record in which every field has a value, and free text is as nasty as it can be."""
    ref = RunRef("openai", "3f5a", {"response": "resp_1", "conversation": NASTY})
    raw: dict[str, Any] = {"text": NASTY, "huge": 10**40, "float": 0.1, "none": None, "deep": [[{"": []}]]}
    snapshot = Snapshot(
        ref=ref,
        status=RunStatus.INCOMPLETE,
        raw_status=NASTY,
        text=NASTY,
        items=[raw],
        error=RunErrorInfo("max_output_tokens", NASTY),
        usage=Usage(1, 2, 3, raw),
        poll_after=2.5,
        raw=raw,
        completed_at=1_767_225_650.5,
        requests=[InputRequest("mcpr_1", RequestKind.APPROVAL, NASTY, NASTY, raw)],
    )
    request = StartRequest(
        [raw],
        NASTY,
        [raw],
        {"title": "Report"},
        background=False,
        previous=ref,
        extra=raw,
        output_strict=True,
        reasoning_effort=NASTY,
        max_output_tokens=2**40,
        service_tier=NASTY,
        completion_window=NASTY,
        metadata=raw,
        whole=True,
        include=[NASTY],
    )
    return RunRecord(
        id="run_1",
        agent="researcher",
        provider="openai",
        endpoint="3f5a",
        stream=True,
        created_at=1_767_225_600.25,
        request=request,
        epoch=3,
        status=RunStatus.INCOMPLETE,
        raw_status=NASTY,
        ref=ref,
        position=Position(7, NASTY, 70, 3_735_928_559, 2),
        refused=True,
        cancel_requested=True,
        deadline_at=1_767_229_200.0,
        cancel_at_deadline=True,
        updated_at=1_767_225_700.0,
        finished_at=1_767_225_701.0,
        polls=12,
        snapshot=snapshot,
        rounds=[full_round(ref, raw)],
        renewed_at=1_767_225_650.0,
        metadata=raw,
    )


def full_round(ref: RunRef, raw: JSON) -> Round:
    """A round in which every field has a value."""
    asked = InputRequest("call_1", RequestKind.APPROVAL, NASTY, NASTY, raw)
    calls = [Call(asked, CallState.ANSWERED, raw), Call(asked)]
    at = Position(5, NASTY, 50, 7, 1, before=20, before_digest=9)
    return Round(ref, NASTY, [raw], Usage(1, 2, 3, raw), calls, at, sent=True, error=RunErrorInfo("lost", NASTY))
