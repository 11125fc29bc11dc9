"""A request and what it is about: the thing that faults look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .run import Run
from .wire import JSON


@dataclass(frozen=True, slots=True)
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
        """The path's parts after `/v1`."""
        return tuple(self.path.strip("/").split("/")[1:])

    @property
    def streams(self) -> bool:
        """Whether it asks for a stream."""
        if self.method == "GET":
            return self.query.get("stream") == "true"

        return bool((self.json or {}).get("stream"))

    @property
    def kinds(self) -> frozenset[str]:
        """What a fault's `on` may say to mean this request: its method, and its role.

        The roles are create, cancel, delete, input_items, and, for a run's GET, poll or attach; a create or a GET that
        asks for a stream is also a stream.
        """
        role = _ROLES.get((self.method, len(self.route), self.route[2:]), "other")
        if role == "poll" and self.streams:
            role = "attach"

        stream = {"stream"} if self.streams and role in ("create", "attach") else set[str]()
        return frozenset({self.method, role} | stream)


_ROLES = {
    ("POST", 1, ()): "create",
    ("GET", 2, ()): "poll",
    ("DELETE", 2, ()): "delete",
    ("POST", 3, ("cancel",)): "cancel",
    ("GET", 3, ("input_items",)): "input_items",
}


@dataclass(slots=True)
class Exchange:
    """One request on its way through the faults to the service. A fault may change what is asked."""

    request: Request
    run: Run | None
    """The run that it names; for a create, the run that it has made, once it has been served."""
    index: int | None
    """The run's place among all runs, also for a create that has not been served yet."""
    starting_after: str | None = None
    """The cursor of a GET with `stream=true`."""
