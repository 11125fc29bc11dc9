"""A request and what it is about: the thing that faults look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from .run import Run
from .wire import JSON


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    method: str
    path: str
    """Without the query."""
    query: Mapping[str, str]
    """Of a repeated key, the last value."""
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case."""
    json: JSON | None = None
    """The body; None where there is none, or where it is no JSON object."""
    time: float = 0.0
    """When it came, by the loop's clock."""

    @property
    def route(self) -> tuple[str, ...]:
        """The path's parts after `/v1`, or Azure's `/openai/v1` or `/openai`; empty for a path outside them."""
        match self.path.strip("/").split("/"):
            case ["v1", *parts] | ["openai", "v1", *parts] | ["openai", *parts]:
                return tuple(parts)
            case _:
                return ()

    @property
    def streams(self) -> bool:
        """Whether it asks for a stream."""
        if self.method == "GET":
            return self.query.get("stream") == "true"

        return bool((self.json or {}).get("stream"))

    @cached_property
    def kinds(self) -> frozenset[str]:
        """What a fault's `on` may say to mean this request: its method, its role, and `stream` if it asks for one.

        The roles are create, poll, attach (a GET with `stream=true`), cancel, delete, input_items,
        conversation (whatever is asked of one) and other.
        """
        role = self._role()
        stream = {"stream"} if self.streams and role in ("create", "attach") else set[str]()
        return frozenset({self.method, role} | stream)

    def _role(self) -> str:
        match self.method, self.route:
            case "POST", ("responses",):
                return "create"
            case "GET", ("responses", _):
                return "attach" if self.streams else "poll"
            case "DELETE", ("responses", _):
                return "delete"
            case "POST", ("responses", _, "cancel"):
                return "cancel"
            case "GET", ("responses", _, "input_items"):
                return "input_items"
            case _, ("conversations", *_):
                return "conversation"
            case _:
                return "other"


@dataclass(slots=True)
class Exchange:
    """One request on its way through the faults to the service. A fault may change what is asked."""

    request: Request
    run: Run | None
    """The run that it names; for a create, the run that it has made, once it has been served."""
    index: int | None
    """The run's place among all runs, also for a create that has not been served yet."""
    starting_after: str | None = None
    """The cursor of a GET with `stream=true`, as it was sent."""

    @property
    def cursor(self) -> int | None:
        """The cursor as a number; None where there is none that is one."""
        try:
            return int(self.starting_after or "")
        except ValueError:
            return None
