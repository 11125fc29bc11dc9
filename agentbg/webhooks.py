"""Webhooks: what services send when a run ends, instead of being asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .errors import UsageError, WebhookInvalid
from .providers.base import Cap, Provider, Webhook, WebhookReader

Headers = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]
"""As a framework has them: a mapping, or pairs as in an ASGI scope. Names in upper or lower case."""
ROOM = 8192
"""Ids of webhooks that are remembered, to tell duplicates; the oldest are forgotten first."""


class WebhookOutcome(StrEnum):
    """What a webhook has done. All of these are to be answered 200: sent again, none of them would do more."""

    WOKEN = "woken"
    """Its run is due now."""
    UNKNOWN = "unknown"
    """No run that goes on here has this id: its end was seen already, or somebody else started it. Or the answer to its
    start is still on its way; then the run is woken as soon as that is there, for a minute."""
    DUPLICATE = "duplicate"
    """The same webhook came before."""
    IGNORED = "ignored"
    """It is about something else than a run."""


@dataclass(frozen=True, slots=True)
class WebhookReceipt:
    """What came, and what was done."""

    outcome: WebhookOutcome
    id: str
    """The webhook's own id, the same each time that it is sent."""
    type: str
    """What happened, in the service's word: "response.completed"."""
    response_id: str | None
    """The run's id at the service; None for an event that is about no run."""


class Webhooks:
    """Reads webhooks, and wakes whom they are about. It remembers them in this process only: one that comes twice with
    a restart in between costs a poll, and no more."""

    def __init__(self, providers: Callable[[], Iterable[Provider]], notify: Callable[[str], bool]) -> None:
        self._providers, self._notify = providers, notify
        self._seen: dict[str, None] = {}

    def take(self, body: str | bytes, headers: Headers) -> WebhookReceipt:
        """Verify a webhook, and do what it says. WebhookInvalid: it is not genuine, and nothing was done."""
        webhook = self._verified(_content(body), _plain(headers))
        return WebhookReceipt(self._act(webhook), webhook.id, webhook.type, webhook.run)

    def _act(self, webhook: Webhook) -> WebhookOutcome:
        if webhook.run is None:
            return WebhookOutcome.IGNORED

        if webhook.id in self._seen:
            return WebhookOutcome.DUPLICATE

        self._seen[webhook.id] = None
        if len(self._seen) > ROOM:
            del self._seen[next(iter(self._seen))]

        return WebhookOutcome.WOKEN if self._notify(webhook.run) else WebhookOutcome.UNKNOWN

    def _verified(self, body: bytes, headers: Mapping[str, str]) -> Webhook:
        """As the first that takes it for its own reads it: projects have secrets of their own."""
        readers = {id(each): each for each in self._providers() if Cap.WEBHOOKS in each.caps}.values()
        refusals: list[WebhookInvalid | UsageError] = []
        for reader in readers:
            assert isinstance(reader, WebhookReader), "its caps say so"
            try:
                return reader.read_webhook(body, headers)
            except (WebhookInvalid, UsageError) as refusal:
                refusals.append(refusal)

        if not refusals:
            raise UsageError(
                "This runtime knows no agent whose service sends webhooks: pass AgentRuntime(agents=[…]), so that it "
                "does from the start."
            )

        raise next((each for each in refusals if isinstance(each, WebhookInvalid)), refusals[0])


def _content(body: Any) -> bytes:
    if isinstance(body, str):
        return body.encode("utf-8", "surrogatepass")

    if isinstance(body, bytes | bytearray):
        return bytes(body)

    raise UsageError(
        f"A webhook's body is to be passed as it came, as bytes or text, since that is what is signed; not as "
        f"{type(body).__name__}."
    )


def _plain(headers: Any) -> dict[str, str]:
    try:
        pairs: Any = headers.items() if hasattr(headers, "items") else headers
        return {_text(name).lower(): _text(value) for name, value in pairs}
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"A webhook's headers are a mapping, or pairs of names and values; not {type(headers).__name__}."
        ) from error


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")

    if isinstance(value, str):
        return value

    raise TypeError
