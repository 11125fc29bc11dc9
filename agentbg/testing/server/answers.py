"""Faults in an answer as a whole: another status, another body, another header, or none at all."""
# ruff: noqa: ARG002 (a hook is given more than most faults look at)

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from .exchange import Exchange
from .fault import Fault, Serve
from .reply import How, Pause, Reply, Step
from .wire import JSON, encode, error_body

_HTML = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>"
_TYPES = {408: "timeout_error", 409: "conflict_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class Status(Fault):
    """Answer with an error status, such as 429, 500 or 503; the service is not asked."""

    status: int = 500
    retry_after: float | str | None = None
    """The `Retry-After` header: seconds, or a date."""
    body: JSON | bytes | None = None
    """None: an error in the service's JSON shape."""
    on: str = field(default="GET", kw_only=True)

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """The error."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        default = error_body(f"The server answered {self.status}, as it was told.", type=kind)
        body = self.body if isinstance(self.body, bytes) else encode(self.body or default)
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return Reply(body, self.status).with_body(body, **headers)


@dataclass(frozen=True)
class NotFoundAfterCreate(Fault):
    """A run is not found at first: for `times` requests, or, with `seconds`, for so long after its creation."""

    seconds: float | None = None
    on: str = field(default="GET", kw_only=True)

    def matches(self, exchange: Exchange) -> bool:
        """Whether the run exists and is young enough."""
        if not super().matches(exchange) or exchange.run is None:
            return False

        return self.seconds is None or exchange.run.age < self.seconds

    def used_up(self, met: int) -> bool:
        """With `seconds`, time alone ends it."""
        return self.seconds is None and super().used_up(met)

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """A 404."""
        return Reply.error(404, f"Response with id '{exchange.request.route[1]}' not found.")


@dataclass(frozen=True)
class TooOld(Fault):
    """A run can no longer be streamed; polls still work."""

    on: str = field(default="attach", kw_only=True)

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """A 400, as five minutes after the creation."""
        message = "This response can no longer be streamed because it is more than 5 minutes old."
        return Reply.error(400, message, param="stream", code="invalid_request_error")


@dataclass(frozen=True)
class DropStart(Fault):
    """The connection ends with no answer: before the run is created, or after, when nobody learns its id."""

    when: Literal["before", "after"] = "after"
    how: How = "fin"
    """`fin` or `rst`."""
    on: str = field(default="create", kw_only=True)

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """Nothing."""
        if self.when == "after":
            serve()

        return Reply.nothing("rst" if self.how == "rst" else "fin")


@dataclass(frozen=True)
class HtmlBody(Fault):
    """A 200 with a page of HTML where JSON should be."""

    on: str = field(default="poll", kw_only=True)

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """The page, as a proxy sends it. A run is created all the same."""
        return serve().with_body(_HTML, content_type="text/html")


@dataclass(frozen=True)
class HtmlInsteadOfSse(HtmlBody):
    """A 200 with a page of HTML where a stream should be."""

    on: str = field(default="stream", kw_only=True)


@dataclass(frozen=True)
class JsonInsteadOfSse(Fault):
    """A 200 with the run's snapshot where a stream should be."""

    on: str = field(default="stream", kw_only=True)

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """The snapshot, as it is now. A run is created all the same."""
        reply = serve()
        return Reply(exchange.run.snapshot()) if reply.streams and exchange.run is not None else reply


@dataclass(frozen=True)
class EmptyBody(Fault):
    """A 200 with nothing in it."""

    on: str = field(default="poll", kw_only=True)

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """The answer's head, with no body."""
        return serve().with_body(b"")


@dataclass(frozen=True)
class BrokenJson(Fault):
    """A 200 whose JSON ends in the middle."""

    on: str = field(default="poll", kw_only=True)

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """The first half of the body."""
        reply = serve()
        return reply.with_body(reply.body[: len(reply.body) // 2]) if isinstance(reply.body, bytes) else reply


@dataclass(frozen=True)
class SlowBody(Fault):
    """A body that takes `seconds` to come, in ten parts."""

    seconds: float = 0.1
    on: str = field(default="poll", kw_only=True)

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """The same answer, slowly."""
        reply = serve()
        if not isinstance(reply.body, bytes):
            return reply

        return reply.with_body(self._parts(reply.body), content_length=str(len(reply.body)))

    def _parts(self, body: bytes) -> Iterator[Step]:
        for part in range(10):
            yield Pause(self.seconds / 10)
            yield body[len(body) * part // 10 : len(body) * (part + 1) // 10]


@dataclass(frozen=True)
class PollHint(Fault):
    """The service says when to poll next: `openai-poll-after-ms`, or a `Retry-After` on a 200."""

    milliseconds: int | None = None
    retry_after: float | None = None
    """Seconds."""
    on: str = field(default="poll", kw_only=True)
    times: int | None = field(default=None, kw_only=True)

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """The same answer, with the hint in its headers."""
        hints = {"openai-poll-after-ms": self.milliseconds, "retry-after": self.retry_after}
        reply = serve()
        return reply.with_body(reply.body, **{name: str(hint) for name, hint in hints.items() if hint is not None})


@dataclass(frozen=True)
class StatusFlip(Fault):
    """A cancelled run is shown as cancelled for `seconds`, and then goes on as if nothing had happened."""

    seconds: float = 0.0
    on: str = field(default="cancel", kw_only=True)

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        """The answer to the cancellation, as always."""
        reply = serve()
        if exchange.run is not None:
            exchange.run.revive(self.seconds)

        return reply
