"""What the service keeps from one run to the next: conversations, and lists of items in pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .exchange import Request
from .reply import Reply
from .run import Run
from .wire import JSON, Event


@dataclass(slots=True)
class Conversation:
    """A conversation. The items of a run become part of it when the run completes, and not before."""

    id: str
    created_at: int
    metadata: JSON = field(default_factory=dict[str, str])
    given: Sequence[Event] = ()
    """The items that it was created with."""
    runs: list[Run] = field(default_factory=list[Run])
    """Those that belong to it, in the order of their creation, the deleted ones too."""
    deleted: bool = False

    @property
    def items(self) -> list[Event]:
        """All its items, oldest first."""
        completed = sorted((run for run in self.runs if run.status == "completed"), key=lambda run: run.ends_at)
        return [*self.given, *(item for run in completed for item in (*run.input_items, *run.output))]

    def busy(self, *, background: bool) -> bool:
        """Whether a run is at work on it; those in the background count only with `background`."""
        return any(not run.finished and (background or not run.background) for run in self.runs)

    def answer(self, request: Request, rest: Sequence[str]) -> Reply:
        """The answer to a request about it: to see it, its items, or to delete it. `rest` is the path after its id."""
        match request.method, rest:
            case "GET", []:
                return Reply.json(self.body())
            case "GET", ["items"]:
                return page(self.items, request.query)
            case "DELETE", []:
                self.deleted = True
                return Reply.json({"id": self.id, "object": "conversation.deleted", "deleted": True})
            case _:
                return no_such_url(request)

    def body(self) -> Event:
        """The conversation as the service shows it."""
        return {"id": self.id, "object": "conversation", "created_at": self.created_at, "metadata": self.metadata}


def page(items: Sequence[Event], query: Mapping[str, str]) -> Reply:
    """A page of a list of items, which are given oldest first: newest first, unless the query says `order=asc`."""
    limit = query.get("limit", "20")
    if not limit.isdecimal() or not 1 <= int(limit) <= 100:
        return Reply.error(400, f"Invalid 'limit': expected 1 to 100, but got '{limit}'.", param="limit")

    items = items if query.get("order") == "asc" else items[::-1]
    ids = [item["id"] for item in items]
    start = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
    shown = items[start : start + int(limit)]
    return Reply.json(
        {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "has_more": start + len(shown) < len(items),
            "last_id": shown[-1]["id"] if shown else None,
        }
    )


def no_such_url(request: Request) -> Reply:
    """The answer to a request for what the service has not."""
    return Reply.error(404, f"Invalid URL ({request.method} {request.path})")
