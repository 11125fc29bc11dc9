"""Records and updates as JSON bytes, and back.

A record is kept in two parts: its `request`, which is large and hardly ever changes, and its state, which changes all
the time. An update is one short list. Fields that have their default are left out; fields that this version does not
know are passed over, so that a later one may add some.

Strings may hold lone surrogates, as JSON's may. They are kept, each by itself, in the UTF-8 of Python's
`surrogatepass`; all other text is plain UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, replace
from typing import Any, TypeVar, cast

from pydantic_core import from_json, to_json

from ..core.model import JSON, RunErrorInfo, RunRef, Snapshot, StartRequest, Usage
from ..core.position import Position
from ..core.record import RunRecord
from ..core.requests import InputRequest, RequestKind
from ..core.rounds import Call, CallState, Round
from ..core.status import RunStatus
from ..core.update import AgentRunResponseUpdate, UpdateType
from ..errors import StoreError, UsageError

T = TypeVar("T")

_PARTS: Mapping[type[Any], Mapping[str, Callable[[Any], Any]]] = {
    RunRecord: {
        "status": RunStatus,
        "ref": lambda value: _build(RunRef, value),
        "position": lambda value: _build(Position, value),
        "snapshot": lambda value: _build(Snapshot, value),
        "rounds": lambda value: [_build(Round, item) for item in value],
    },
    Round: {
        "ref": lambda value: _build(RunRef, value),
        "usage": lambda value: _build(Usage, value),
        "calls": lambda value: [_build(Call, item) for item in value],
        "position": lambda value: _build(Position, value),
        "error": lambda value: _build(RunErrorInfo, value),
    },
    Call: {"request": lambda value: _build(InputRequest, value), "state": CallState},
    InputRequest: {"kind": RequestKind},
    StartRequest: {"previous": lambda value: _build(RunRef, value)},
    Snapshot: {
        "ref": lambda value: _build(RunRef, value),
        "status": RunStatus,
        "error": lambda value: _build(RunErrorInfo, value),
        "usage": lambda value: _build(Usage, value),
        "requests": lambda value: [_build(InputRequest, item) for item in value],
    },
}
"""How to read the fields that are more than JSON."""


def encode_state(record: RunRecord) -> bytes:
    """All of a record but its request. Raises UsageError for metadata that JSON cannot hold."""
    if record.metadata:
        _dump(record.metadata, "metadata")

    return _dump_fast(_plain(record, without="request"), "record")


def without_answers(record: RunRecord) -> tuple[RunRecord, Mapping[tuple[int, int], JSON]]:
    """A record without the answers to its calls, which can be large and never change; and these, by round and call."""
    answers = {
        (place, number): call.answer
        for place, each in enumerate(record.rounds)
        for number, call in enumerate(each.calls)
        if call.answer is not None
    }
    if not answers:
        return record, _NO_ANSWERS

    rounds = [replace(each, calls=[replace(call, answer=None) for call in each.calls]) for each in record.rounds]
    return replace(record, rounds=rounds), answers


def encode_answer(answer: JSON) -> bytes:
    """The answer to a call. Raises UsageError for what JSON cannot hold."""
    return _dump_fast(answer, "answer to a call")


def decode_answers(record: RunRecord, answers: Iterable[tuple[int, int, bytes]]) -> None:
    """Put answers back to their calls; those of calls that are not answered are left over from a round that was not
    taken. Raises StoreError when they are damaged.
    """
    for place, number, answer in answers:
        calls = record.rounds[place].calls if place < len(record.rounds) else ()
        if number < len(calls) and calls[number].state is CallState.ANSWERED:
            try:
                calls[number].answer = _load(answer)
            except ValueError as error:
                raise StoreError(
                    f"The answer to a call is damaged: {error}. Restore the store from a backup."
                ) from error


def encode_request(request: StartRequest | None) -> bytes | None:
    """A record's request; None for a record without one. Raises UsageError for what JSON cannot hold."""
    return None if request is None else _dump(_plain(request), "request")


def decode_record(
    state: bytes, request: bytes | None, epoch: int, seq: int | None = None, last: bytes | None = None
) -> RunRecord:
    """The record of these parts, with `epoch` in place of its own, at the position of its `last` update if that is
    later. Raises StoreError when they are damaged.
    """
    try:
        record = _build(RunRecord, _load(state))
        record.request = None if request is None else _build(StartRequest, _load(request))
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"A run's record is damaged: {error}. Restore the store from a backup.") from error

    record.epoch = epoch
    if seq is not None and last is not None and seq > record.position.seq:
        record.position = decode_updates(seq, last)[-1].position

    return record


def remote_ids(record: RunRecord) -> list[str]:
    """What `Store.find` looks for: the names that the service gave to the run's rounds, the present one's last."""
    refs = [*(closed.ref for closed in record.rounds), record.ref]
    return list(dict.fromkeys(ref.id for ref in refs if ref and ref.id))


def encode_update(update: AgentRunResponseUpdate) -> bytes:
    """An update without its seq, response and issuer. Its position's seq is its own, and not written either."""
    at = update.position
    fields = [_WORDS[update.type], update.text, at.cursor, at.chars, at.digest, at.items]
    if isinstance(update.source, str):  # as the service wrote it
        head, source = _dump_fast(fields, "update")[:-1], update.source.encode()
        tail = b",%d,%d]" % (at.before, at.before_digest) if at.before else b"]"
        return b"%b,%b%b" % (head, source, tail)

    rounds = [at.before, at.before_digest] if at.before else []
    return _dump_fast([*fields, update.source, *rounds], "update")


def decode_update(seq: int, payload: bytes) -> AgentRunResponseUpdate:
    """The update with this seq. Raises StoreError when it is damaged."""
    (update,) = decode_updates(seq, payload)
    return update


def decode_updates(last: int, payload: bytes) -> Sequence[AgentRunResponseUpdate]:
    """The updates of a JSON array, the last of which has this seq; or the one that stands there by itself.

    Raises StoreError when they are damaged.
    """
    try:
        plain = _load(payload)
        many = [plain] if isinstance(plain[0], str) else plain
        return [_read_update(seq, one) for seq, one in enumerate(many, last - len(many) + 1)]
    except (ValueError, TypeError, LookupError) as error:
        raise StoreError(f"Update {last} of a run is damaged: {error}. Restore the store from a backup.") from error


def _read_update(seq: int, plain: Sequence[Any]) -> AgentRunResponseUpdate:
    type_, text, cursor, chars, digest, items, raw, *rest = plain
    before, before_digest = rest[:2] if rest else (0, 0)
    return AgentRunResponseUpdate(
        type=UpdateType(type_),
        seq=seq,
        text=text,
        source=raw,
        position=Position(seq, cursor, chars, digest, items, before, before_digest),
    )


def _plain(value: Any, without: str = "") -> dict[str, Any]:
    """A dataclass as a dict, without one field and those that have their default."""
    plain: dict[str, Any] = {}
    for name, default in _DEFAULTS[type(value)]:
        field = getattr(value, name)
        if field is not default and field != default and name != without:
            plain[name] = _plain_field(field)

    return plain


def _plain_field(value: Any) -> Any:
    if type(value) in _DEFAULTS:
        return _plain(value)

    if not isinstance(value, list):
        return value

    items = cast("Sequence[Any]", value)
    return [_plain(item) for item in items] if items and type(items[0]) in _DEFAULTS else items


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


_NO_ANSWERS: Mapping[tuple[int, int], JSON] = {}  # one for all: a store remembers those of each live run
_WORDS = {kind: kind.value for kind in UpdateType}  # an enum's own `value` is a slow property
_KINDS = (RunRecord, RunRef, Position, StartRequest, Snapshot, RunErrorInfo, Usage, Round, Call, InputRequest)
_DEFAULTS: Mapping[type[Any], Sequence[tuple[str, Any]]] = {
    kind: [(field.name, _default(field)) for field in fields(kind)] for kind in _KINDS
}


def _build(kind: type[T], plain: Mapping[str, Any]) -> T:
    parts = _PARTS.get(kind, {})
    known = {name: plain[name] for name, _ in _DEFAULTS[kind] if name in plain}
    read = {name: part(known[name]) for name, part in parts.items() if known.get(name) is not None}
    return kind(**(known | read))


def _dump_fast(value: Any, what: str) -> bytes:
    try:
        return to_json(value, fallback=_as_json)
    except ValueError:  # a lone surrogate, or very deep nesting
        return _dump(value, what)


def _dump(value: Any, what: str) -> bytes:
    """Strict where pydantic is generous: a date in the caller's metadata must not come back as a string."""
    try:
        return _ENCODER.encode(value).encode("utf-8", "surrogatepass")
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"The {what} of a run must be JSON, so that a store can keep it: {error}.") from error


def _load(payload: bytes) -> Any:
    try:
        return from_json(payload)
    except ValueError:
        return json.loads(payload.decode("utf-8", "surrogatepass"))


def _as_json(value: Any) -> Any:
    """JSON objects may be any mapping here."""
    if isinstance(value, Mapping):
        return dict[Any, Any](value)  # pyright: ignore[reportUnknownArgumentType]  of what, is for JSON to say

    raise TypeError(f"{type(value).__name__} is not a JSON type")


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_as_json)
