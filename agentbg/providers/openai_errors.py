"""What openai-python and its transports raise, in our words. The one place that knows their exceptions."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, cast

import openai

from ..errors import (
    AuthenticationFailed,
    ConversationLocked,
    PreviousRunNotFound,
    ProviderError,
    RequestRejected,
    RunNotFound,
    ServiceUnavailable,
    StreamRefused,
)

# By name, since a caller's own http client may be of httpx2, httpx, or aiohttp.
_NEVER_SENT = frozenset(
    {
        "ConnectError",
        "ConnectTimeout",
        "PoolTimeout",
        "UnsupportedProtocol",
        "ClientConnectorError",
        "ConnectionTimeoutError",
    }
)
_TRANSIENT = frozenset({408, 409, 425, 429})
_LOST = (
    "the service does not keep the run that this one was to continue (any more). To send the whole conversation "
    "instead, set thread.client_side = True and start the run again."
)
_LOCKED = (
    "another run is at work on the conversation. Wait for it, or cancel it, and start this one again; runs side by "
    "side need conversations of their own."
)


@contextmanager
def translated(what: str, *, run_id: str | None = None, attaching: bool = False) -> Generator[None]:
    """Raise what the service or the way to it does as `ProviderError`. `what` says what was tried."""
    try:
        yield
    except ProviderError:
        raise
    except openai.APIStatusError as error:
        raise _from_status(error, what, run_id, attaching) from error
    except openai.APIConnectionError as error:
        raise _from_connection(error, what) from error
    except openai.OpenAIError as error:
        raise AuthenticationFailed(f"{what}: the client is not set up: {error}") from error
    except Exception as error:  # a transport raises what it likes: httpx, ssl, h2, json
        raise ServiceUnavailable(f"{what}: {_describe(error)}") from error


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The service's wish in seconds, from `retry-after-ms` or `Retry-After` (seconds or an HTTP date)."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000

    value = headers.get("retry-after")
    if not value:
        return None

    return _seconds_until(value, headers.get("date", "")) if (seconds := _number(value)) is None else seconds


def poll_after(headers: Mapping[str, str]) -> float | None:
    """The service's wish for the next poll in seconds: `openai-poll-after-ms`, or a Retry-After on a good answer."""
    milliseconds = _number(headers.get("openai-poll-after-ms"))
    return retry_after(headers) if milliseconds is None else milliseconds / 1000


def _seconds_until(date: str, sent: str) -> float | None:
    """Counted from when the answer was sent: both are of the service's clock, which need not agree with ours."""
    until, since = _timestamp(date), _timestamp(sent)
    return None if until is None else max(until - (time.time() if since is None else since), 0.0)


def _timestamp(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def _number(value: str | None) -> float | None:
    if not value:
        return None

    try:
        number = float(value)
    except ValueError:
        return None

    return number if 0 <= number < float("inf") else None


def _from_status(error: openai.APIStatusError, what: str, run_id: str | None, attaching: bool) -> ProviderError:
    status, headers = error.status_code, error.response.headers
    code, message = _code(error), f"{what}: HTTP {status}: {_message(error)}"
    if error.response.history:
        message += f" -- after a redirect; make {_address(error.response.url).partition('/responses')[0]} the base URL."

    wish = retry_after(headers)
    known: dict[str, Any] = {"status_code": status, "code": code, "request_id": error.request_id}
    if status == 401:
        hint = "check the API key (OPENAI_API_KEY, at Azure AZURE_OPENAI_API_KEY, or api_key=…) or the token."
        return AuthenticationFailed(f"{message} -- {hint}", **known)

    if code == "conversation_locked":
        return ConversationLocked(f"{message} -- {_LOCKED}", retry_after=wish, unsent=True, **known)

    unsent = status == 429 or (status == 503 and wish is not None)
    if (unsent or status in _TRANSIENT or status >= 500) and not _is_final(headers, unsent, run_id):
        return ServiceUnavailable(message, retry_after=wish, unsent=unsent, **known)

    if code == "previous_response_not_found" and not _is_final(headers, True, run_id):
        return PreviousRunNotFound(f"{message} -- {_LOST}", **known)

    if status == 404 and run_id is not None:
        return RunNotFound(message, **known)

    if attaching and status not in (401, 403):
        return StreamRefused(message, **known)

    return RequestRejected(message, **known)


def _is_final(headers: Mapping[str, str], unsent: bool, run_id: str | None) -> bool:
    """The service may say that asking again is no use. Of a start that may have worked, that makes no refusal."""
    return headers.get("x-should-retry") == "false" and (unsent or run_id is not None)


def _from_connection(error: openai.APIConnectionError, what: str) -> ServiceUnavailable:
    cause = error.__cause__ or error
    unsent = any(kind.__name__ in _NEVER_SENT for kind in type(cause).__mro__)
    hint = " -- check the base URL and the network." if unsent else ""
    return ServiceUnavailable(
        f"{what}: no answer from {_address(error.request.url, path=False)}: {_describe(cause)}{hint}", unsent=unsent
    )


def _address(url: Any, *, path: bool = True) -> str:
    """Without credentials or query."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}" + (f":{url.port}" if url.port else "") + (url.path if path else "")


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _code(error: openai.APIStatusError) -> str | None:
    return error.code if isinstance(error.code, str) else None


def _message(error: openai.APIStatusError) -> str:
    message = _fields(error.body).get("message")
    return message if isinstance(message, str) else " ".join(str(error.body or "no reason given").split())[:300]


def _fields(body: object) -> dict[str, Any]:
    return cast("dict[str, Any]", body) if isinstance(body, dict) else {}
