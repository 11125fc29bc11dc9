"""Continuation tokens: a run's place as a short text that another process, another day, can resume from."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import core_schema

from ..errors import TokenExpired, TokenForeign, TokenMalformed, TokenNewer, TokenTampered
from .model import RunRef
from .position import Position

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue

PREFIX = "abg"
VERSION = 1
_DIGEST_BYTES = 6  # finds damage; a key finds tampering
_MAC_BYTES = 16
_MAC_CHARS = 22  # of _MAC_BYTES in base64


@dataclass(frozen=True, slots=True)
class ContinuationToken:
    """What resumes a run: provider, endpoint fingerprint, ids, position. Opaque, versioned, and free of secrets.

    `str(token)` and `ContinuationToken.parse(text)` are inverse. The text is URL-safe, about 200 characters long, and
    survives JSON; pydantic models may have fields of this type. With a key, `token.sign(key)` gives a text that
    `parse(text, key=key)` accepts only unchanged.
    """

    ref: RunRef
    position: Position = Position()
    issued_at: float = 0.0
    """Unix time of the run's start, as far as known, in whole seconds."""
    streamed: bool = False
    """True when the run was started with a stream, and so can be streamed again."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "issued_at", float(int(self.issued_at)))

    def __str__(self) -> str:
        return self._encode(None)

    def sign(self, key: bytes) -> str:
        """The token's text with an HMAC-SHA256 under `key` in the place of the checksum."""
        return self._encode(key)

    @classmethod
    def parse(cls, text: str, *, key: bytes | None = None) -> ContinuationToken:
        """Read a token's text.

        Raises TokenMalformed for anything that is not a whole token, TokenNewer for a later format, and TokenTampered
        when `key` is given and the signature is not that key's. Without a key a signed token cannot be read either.
        """
        head, body, seal = _split(text)
        if head != f"{PREFIX}{VERSION}":
            raise _bad_head(head)

        _check_seal(body, seal, key)
        try:
            return _from_fields(json.loads(_unpack(body)))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise TokenMalformed("The continuation token is damaged: its content cannot be read.") from error

    def check(self, *, provider: str, endpoint: str) -> None:
        """Raise TokenForeign unless the token was issued for this provider and endpoint."""
        if self.ref.provider != provider:
            raise TokenForeign(
                f"This token was issued by provider {self.ref.provider!r}; it cannot be used with {provider!r}. "
                f"Use an agent with the provider that started the run."
            )

        if self.ref.endpoint != endpoint:
            raise TokenForeign(
                "This token was issued for another endpoint of the same provider. "
                "Use an agent with the base URL (and region) that started the run."
            )

    def check_age(self, now: float, retention: float) -> None:
        """Raise TokenExpired when, at Unix time `now`, the run is older than `retention` seconds."""
        if self.issued_at and now - self.issued_at > retention:
            raise TokenExpired(
                f"This token's run began {(now - self.issued_at) / 86400:.1f} days ago; "
                f"the service keeps runs for {retention / 86400:.1f} days."
            )

    def _encode(self, key: bytes | None) -> str:
        body = _pack(json.dumps(_fields(self), separators=(",", ":")).encode())
        return f"{PREFIX}{VERSION}.{body}.{_pack(_seal(body, key))}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        parsed = core_schema.no_info_after_validator_function(cls.parse, core_schema.str_schema())
        return core_schema.json_or_python_schema(
            json_schema=parsed,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), parsed]),
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "description": "An agentbg continuation token."}


def _fields(token: ContinuationToken) -> dict[str, Any]:
    """Short names, and nothing that has its default: tokens travel in URLs."""
    at = token.position
    fields: dict[str, Any] = {"p": token.ref.provider, "e": token.ref.endpoint, "i": dict(token.ref.ids)}
    counts = {
        "n": at.seq,
        "l": at.chars,
        "d": at.digest,
        "o": at.items,
        "b": at.before,
        "x": at.before_digest,
        "t": int(token.issued_at),
        "s": int(token.streamed),
    }
    fields.update((name, count) for name, count in counts.items() if count)
    if at.cursor is not None:
        fields["c"] = at.cursor

    return fields


def _from_fields(fields: Mapping[str, Any]) -> ContinuationToken:
    ids: Mapping[str, Any] = fields["i"]
    cursor = fields.get("c")
    if not isinstance(ids, dict) or not ids or not all(isinstance(value, str) for value in ids.values()):
        raise ValueError("ids")

    if cursor is not None and not isinstance(cursor, (int, str)):
        raise ValueError("cursor")

    position = Position(
        seq=_count(fields, "n"),
        cursor=cursor,
        chars=_count(fields, "l"),
        digest=_count(fields, "d"),
        items=_count(fields, "o"),
        before=_count(fields, "b"),
        before_digest=_count(fields, "x"),
    )
    return ContinuationToken(
        ref=RunRef(provider=str(fields["p"]), endpoint=str(fields["e"]), ids=dict(ids)),
        position=position,
        issued_at=float(_count(fields, "t")),
        streamed=bool(fields.get("s")),
    )


def _count(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name, 0)
    if not isinstance(value, int) or value < 0:
        raise ValueError(name)

    return value


def _split(text: str) -> tuple[str, str, str]:
    # Not every caller is typed: what comes from a cookie or a database may be anything.
    parts = text.strip().split(".") if isinstance(text, str) else []  # pyright: ignore[reportUnnecessaryIsInstance]
    if len(parts) != 3 or not parts[0].startswith(PREFIX) or not text.isascii():
        raise TokenMalformed(
            "This is not a continuation token of agentbg. Pass the text of `str(token)` as it was, whole and unchanged."
        )

    return parts[0], parts[1], parts[2]


def _bad_head(head: str) -> TokenMalformed | TokenNewer:
    version = head.removeprefix(PREFIX)
    if version.isdecimal() and len(version) < 9 and int(version) > VERSION:
        return TokenNewer(
            f"This token has format {version}; this agentbg reads up to {VERSION}. Update agentbg to use it."
        )

    return TokenMalformed(f"The continuation token is damaged: unknown format {head!r}.")


def _check_seal(body: str, seal: str, key: bytes | None) -> None:
    if hmac.compare_digest(seal, _pack(_seal(body, key))):  # texts: several can stand for the same bytes
        return

    if key is not None:
        raise TokenTampered("The token's signature is missing or wrong for this key: it was changed, or never signed.")

    if len(seal) == _MAC_CHARS:
        raise TokenTampered(
            "The token is signed; pass the key it was signed with: ContinuationToken.parse(text, key=…)."
        )

    raise TokenMalformed("The continuation token is damaged: its checksum does not match. Pass it whole and unchanged.")


def _seal(body: str, key: bytes | None) -> bytes:
    if key is None:
        return hashlib.blake2b(body.encode(), digest_size=_DIGEST_BYTES).digest()

    return hmac.digest(key, body.encode(), "sha256")[:_MAC_BYTES]


def _pack(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unpack(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise TokenMalformed("The continuation token is damaged: it holds characters that no token has.") from error
