"""The contract between the runtime and a service.

A provider says things the way its service wants them, and reports what the service said in the words of
`core.model`. It keeps no state of a run, retries nothing, and decides nothing: when to poll, whether to retry, and
what an event means for a run is the core's business. No vendor's type leaves it.

**Errors.** Every method raises `ProviderError` kinds only: `ServiceUnavailable` for what may pass (connection,
time-out, 408, 409, 429, 5xx, HTML or broken JSON where JSON should be), with `unsent=True` only when the request
surely did no work; `RunNotFound` for a 404 of a run; `AuthenticationFailed` and `RequestRejected` for what will not
pass; `StreamRefused` from `attach` when the run cannot be streamed (any more); `Unsupported` for what the service has
not. Broken client set-up, such as a missing key, is `AuthenticationFailed` too.

**Cancellation.** Cancelling a call closes its connection and does nothing to the remote run. The iterators of `open`
and `attach` are asynchronous generators: whoever iterates closes them with `aclose()`.

**Budgets.** Providers of the same name and endpoint share a `RequestBudget`, unless they have different credentials: a
provider may have an attribute `credential`, a text that is the same for the same key. It must be no secret, such as a
hash that is keyed with something random; it is stored nowhere.

**Learning.** What a runtime learns of how long runs take, it keeps for each agent and model. A provider may have an
attribute `model`: that of the runs whose request names none.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, Flag, auto
from typing import Protocol, runtime_checkable

from ..core.model import JSON, Cursor, RunRef, Snapshot, StartRequest, StreamEvent


class Resume(Enum):
    """What a service can give after a broken stream."""

    NONE = "none"
    """Nothing: the run can only be polled."""
    SNAPSHOT = "snapshot"
    """The run as it is now, then what follows."""
    LOG = "log"
    """A list of past items, to be told apart by id, then what follows."""
    CURSOR = "cursor"
    """Exactly what follows a cursor."""


class Cap(Flag):
    """What else a service can do."""

    STREAM_START = auto()
    """`open` starts a run and streams it in one request."""
    CANCEL = auto()
    RESPOND = auto()
    """A run that asks for something waits for the answer, which `respond` brings."""
    DELETE = auto()
    PARTIAL_ON_POLL = auto()
    """A poll of a running run shows the output so far."""
    PREVIOUS = auto()
    """The service keeps conversations: a start may name the run that it continues."""
    IDEMPOTENT_START = auto()
    """A start with the key of an earlier one is that run. If that is lost, its work is done anew, under its ref."""
    WEBHOOKS = auto()
    """The service can say by itself when a run ends: the provider is a `WebhookReader`."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A word of the service, sent by itself. It says that something has changed; what, a poll shows."""

    id: str
    """The same each time that it is sent."""
    type: str
    """What happened, in the service's own word."""
    run: str | None
    """Whose: `RunRef.id`. None for what is about no run."""


@runtime_checkable
class WebhookReader(Protocol):
    """A provider whose service sends webhooks (`Cap.WEBHOOKS`)."""

    def read_webhook(self, body: bytes, headers: Mapping[str, str]) -> Webhook:
        """Verify that the service sent this, and lately; what it says. The names of `headers` are in lower case.

        Raises WebhookInvalid for what is not genuine, and UsageError where there is nothing to verify it with.
        """
        ...


@runtime_checkable
class Provider(Protocol):
    """A service that runs agents in the background."""

    @property
    def name(self) -> str:
        """Names the protocol in records and tokens: "openai". The same for every instance of the class."""
        ...

    @property
    def endpoint(self) -> str:
        """A short fingerprint of the address that runs live at. It holds no credentials."""
        ...

    @property
    def caps(self) -> Cap:
        """The operations that the service has."""
        ...

    @property
    def resume(self) -> Resume:
        """What the service can give after a broken stream."""
        ...

    @property
    def retention(self) -> float:
        """How long, in seconds, the service keeps a run after its start. Older tokens are refused unasked."""
        ...

    async def start(self, request: StartRequest, *, key: str | None = None) -> Snapshot:
        """Start a run, once: not a byte is sent twice. May return a terminal snapshot.

        `key` identifies the run to services that honour an idempotency key (`Cap.IDEMPOTENT_START`).
        """
        ...

    def open(self, request: StartRequest, *, key: str | None = None) -> AsyncGenerator[Sequence[StreamEvent], None]:
        """Start a run and stream it. The first snapshot carries the ref.

        Yields the events that arrived together, as soon as they arrived; none, when the stream is open and has none
        yet: up to then the answer may take as long as that to `start`. A service that starts the run but answers
        without a stream is reported by a STATUS event with the snapshot, and then `StreamRefused`.
        """
        ...

    async def poll(self, ref: RunRef) -> Snapshot:
        """Ask once how the run stands.

        A service that knows that it has lost a run shows it FAILED, with the error code `core.model.LOST`. A runtime
        starts such a run again, with its first key, where that is idempotent; elsewhere it has failed.
        """
        ...

    def attach(self, ref: RunRef, *, after: Cursor | None = None) -> AsyncGenerator[Sequence[StreamEvent], None]:
        """Stream a run from just after `after`, or from its beginning.

        Yields as `open` does: no events at first, when the stream is open and has none yet. The iterator's end means
        only that the connection ended; an END event means that the run did.
        """
        ...

    async def cancel(self, ref: RunRef) -> Snapshot | None:
        """Ask the service to cancel. None means: accepted, or too late; poll for the truth."""
        ...

    async def respond(self, ref: RunRef, answers: Sequence[JSON]) -> Snapshot:
        """Answer what the run waits for: items in the shape of the Responses API. The snapshot may carry a new ref.

        Only for services whose runs wait themselves (`Cap.RESPOND`). Elsewhere the answers are the input of a start
        that names the run (`Cap.PREVIOUS`), or that brings the whole story along.
        """
        ...

    async def delete(self, ref: RunRef) -> None:
        """Delete the run at the service. Deleting what is gone is no error."""
        ...

    async def aclose(self) -> None:
        """Release the connections that the provider made itself. It can be called twice."""
        ...
