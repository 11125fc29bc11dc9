"""Everything agentbg raises.

AgentBGError
├── UsageError                 you called something wrongly; nothing was sent
│   ├── RuntimeClosed          the runtime is not open (any more)
│   └── RunUnknown             no run with this id is in the store            (also a LookupError)
├── TokenError                 a continuation token cannot be used            (also a ValueError)
│   ├── TokenMalformed         not a token, or damaged on its way
│   ├── TokenForeign           issued for another provider or endpoint
│   ├── TokenNewer             written by a newer agentbg
│   ├── TokenTampered          its signature does not match the key
│   └── TokenExpired           its run is past the service's retention
├── RunError                   the run ended, or stands, without a result; carries handle, response, token
│   ├── RunFailed
│   ├── RunIncomplete
│   ├── RunCancelled
│   ├── RunExpired
│   ├── InputRequired
│   └── OutputInvalid          the run completed, and its text does not fit the output type
├── RunTimeout                 you stopped waiting; the run goes on           (also a TimeoutError)
├── SubmitUnknown              a start was sent, and nobody knows whether it arrived
├── ToolError                  a tool of yours gave no result
│   ├── ToolArgumentsInvalid   what the model sent does not fit the function  (also a ValueError)
│   ├── ToolTimeout            it took longer than its `timeout`              (also a TimeoutError)
│   └── ToolFailed             for a tool to raise: the run ends
├── ProviderError              the service, or the way to it, said no
│   ├── ServiceUnavailable     for now: connection, time-out, 408, 409, 429, 5xx, garbage instead of JSON
│   │   └── ConversationLocked     of a start: another run is at work on the conversation
│   ├── RunNotFound            404 for a run's id
│   ├── RequestRejected        for good: 400, 403, 404, 422 …
│   │   ├── AuthenticationFailed   401, or a key is missing
│   │   └── PreviousRunNotFound    of a start: the run that it goes on from is not known, or not yet
│   ├── StreamRefused          this run can be polled, and not (or no longer) be streamed
│   └── Unsupported            the provider has no such operation
├── WebhookInvalid             a webhook is not genuine, or damaged               (also a ValueError)
└── StoreError                 the store cannot be used
    ├── StoreInUse             another runtime owns it
    ├── StoreInvalid           the file is not a store
    ├── StoreNewer             written by a newer agentbg
    └── Fenced                 this run belongs to a later owner; the write did not happen
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.response import AgentRunResponse
    from .core.token import ContinuationToken
    from .handle import BackgroundHandle


class AgentBGError(Exception):
    """The root of every error that agentbg raises."""


class UsageError(AgentBGError):
    """A call that cannot be right. Raised before anything is sent or stored."""


class RuntimeClosed(UsageError):
    """The runtime was not entered yet, or was left. Unfinished runs go on at the service and stay in the store."""


class RunUnknown(UsageError, LookupError):
    """No run with this id is in the store."""


class TokenError(AgentBGError, ValueError):
    """A continuation token cannot be used. The run it stands for, if any, is not touched."""


class TokenMalformed(TokenError):
    """The text is not a continuation token, or was damaged: cut, re-encoded, or edited."""


class TokenForeign(TokenError):
    """The token was issued for another provider or endpoint than the one it is used with."""


class TokenNewer(TokenError):
    """The token was written by a newer version of agentbg, which this version cannot read."""


class TokenTampered(TokenError):
    """The token's signature is missing or does not match the key it is verified with."""


class TokenExpired(TokenError):
    """The token is older than the service keeps its runs."""


class RunError(AgentBGError):
    """A run stands without a result.

    `response` is all that the service said of it (partial text included); `handle` is set when a runtime drives
    the run; `token` is what resumes it, or None when nothing is left to resume.
    """

    def __init__(
        self,
        message: str,
        *,
        response: AgentRunResponse[Any],
        handle: BackgroundHandle[Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.response = response
        self.handle = handle

    @property
    def token(self) -> ContinuationToken | None:
        """What resumes the run; None when nothing is left to poll or resume."""
        return self.response.continuation_token


class RunFailed(RunError):
    """The service ended the run with an error; see `response.error`."""


class RunIncomplete(RunError):
    """The run ended before its answer did, by a token limit or a content filter; see `response.error`."""


class RunCancelled(RunError):
    """The run was cancelled at the service. You do not get this when only your waiting was cancelled."""


class RunExpired(RunError):
    """The service no longer has the run, or its deadline passed."""


class InputRequired(RunError):
    """The run waits for the user: an approval, or the output of a call that nobody handles."""


class OutputInvalid(RunError):
    """The run completed and its text is no valid instance of the agent's output type; see `response.text`."""


class RunTimeout(AgentBGError, TimeoutError):
    """The time you gave to waiting is over. The run is alive, and `token` resumes it."""

    def __init__(self, message: str, *, handle: BackgroundHandle[Any]) -> None:
        super().__init__(message)
        self.handle = handle

    @property
    def token(self) -> ContinuationToken | None:
        """What resumes the run."""
        return self.handle.token


class SubmitUnknown(AgentBGError):
    """A start was sent and its answer was lost: the run may or may not exist, and may cost money.

    It is not sent again, unless the service takes the same key as the same run (`Cap.IDEMPOTENT_START`). `run_id` is
    the run's record in the store, `reason` what is known. Look at the service's own list of runs before you submit
    again.
    """

    def __init__(self, message: str, *, run_id: str | None, reason: str) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.reason = reason


class ToolError(AgentBGError):
    """A tool gave no result, or one that cannot be sent. What else a tool raises stays what it is."""


class ToolArgumentsInvalid(ToolError, ValueError):
    """The arguments that a model sent are no JSON object, or do not fit; the function was not called.

    The message is for the model. `problems` has a line for each argument that is wrong.
    """

    def __init__(self, message: str, *, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class ToolTimeout(ToolError, TimeoutError):
    """A tool did not answer within its `timeout`. An async one was cancelled; the thread of another may go on."""


class ToolFailed(ToolError):
    """Raise it in a tool to fail the run, whatever the tool's `on_error` says, when no model could help it."""


class ProviderError(AgentBGError):
    """The service, or the way to it, said no.

    `status_code` is the HTTP status if there was an answer, `code` the service's own word, `request_id` what its
    support asks for.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code
        self.request_id = request_id


class ServiceUnavailable(ProviderError):
    """The service cannot answer for now. The same request may be right later.

    `retry_after` is the service's own wish in seconds. `unsent` is True only when the request surely did no work at
    the service (the connection was refused, 429, 503 with Retry-After): then, and only then, a start may be sent again.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        unsent: bool = False,
        status_code: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, status_code=status_code, code=code, request_id=request_id)
        self.retry_after = retry_after
        self.unsent = unsent


class ConversationLocked(ServiceUnavailable):
    """Another run is at work on the conversation, and the service takes one at a time.

    A start so refused did no work. It is sent again for `RetryPolicy.settling` seconds before this is raised: a run in
    the foreground is soon done, one in the background may keep its conversation to its end.
    """


class RunNotFound(ProviderError):
    """The service knows no run with this id: too new, deleted, past its retention, or of another account."""


class RequestRejected(ProviderError):
    """The service will not do this, however often it is asked."""


class AuthenticationFailed(RequestRejected):
    """The key is missing, wrong, or not allowed to do this."""


class PreviousRunNotFound(RequestRejected):
    """The service does not know the run that this one was to continue: it is gone, or cannot be read yet.

    A start so refused did no work. It is sent again for `RetryPolicy.settling` seconds before this is raised.
    """


class StreamRefused(ProviderError):
    """The service does not stream this run (any more). It can still be polled."""


class Unsupported(ProviderError):
    """The provider has no such operation; see its capability flags."""


class WebhookInvalid(AgentBGError, ValueError):
    """A webhook whose signature is missing, wrong or too old, or which is none at all. Nothing was done about it."""


class StoreError(AgentBGError):
    """The store cannot be used."""


class StoreInUse(StoreError):
    """Another runtime, in this process or another, owns the store. It is released when that runtime or process ends."""


class StoreInvalid(StoreError):
    """The file exists and is not an agentbg store. It was not changed."""


class StoreNewer(StoreError):
    """The store was written by a newer version of agentbg. It was not changed."""


class Fenced(StoreError):
    """Another owner has acquired the run since. This write did not happen; this process must let go of the run."""
