"""The endpoints: from a request to a reply, at one moment. No input or output here, and no waiting."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from .exchange import Exchange, Request
from .play import recorded_id
from .reply import Reply
from .run import Run
from .script import ScriptSource, choose
from .wire import JSON, conversation_of, new_id


@dataclass(slots=True)
class Service:
    """The runs, and the rules of the Responses API about them."""

    script: ScriptSource
    clock: Callable[[], float]
    api_key: str | None = None
    models: Collection[str] | None = None
    stream_window: float = 300.0
    """For how many seconds after its creation a run can be streamed."""
    retention: float = math.inf
    """For how many seconds after its creation a run is kept."""
    settling: float = 0.0
    """For how many seconds after its end a streamed run is not found, as at Azure."""
    runs: dict[str, Run] = field(default_factory=dict[str, Run])
    created: int = 0
    """How many runs there have been."""

    def find(self, id: str) -> Run | None:
        """The run of that id, unless it has been deleted, has expired, or cannot be read yet."""
        run = self.runs.get(id)
        return run if run is not None and run.age <= self.retention and not self._settles(run) else None

    def _settles(self, run: Run) -> bool:
        return self.settling > 0 and run.streamed and run.finished and run.age < run.log[-1].at + self.settling

    def forget(self) -> None:
        """Forget all runs."""
        self.runs.clear()
        self.created = 0

    def exchange(self, request: Request) -> Exchange:
        """A request, with the run that it is about."""
        if "create" in request.kinds:
            return Exchange(request, None, self.created)

        run = self.find(request.route[1]) if len(request.route) > 1 else None
        return Exchange(request, run, run.index if run is not None else None, request.query.get("starting_after"))

    def answer(self, exchange: Exchange) -> Reply:
        """The answer to a request."""
        request = exchange.request
        if self.api_key is not None and self.api_key not in _credentials(request):
            return Reply.error(401, "Incorrect API key provided.", code="invalid_api_key")

        for role, endpoint in _ENDPOINTS.items():
            if role in request.kinds:
                return endpoint(self, exchange)

        return Reply.error(404, f"Invalid URL ({request.method} {request.path})")

    def create(self, exchange: Exchange) -> Reply:
        """POST /responses."""
        body = exchange.request.json
        if body is None:
            return Reply.error(400, "We could not parse the JSON body of your request.")

        if (refusal := self._refuse(body)) is not None:
            return refusal

        run = exchange.run = self._new_run(body)
        if run.streamed:
            return Reply.stream(run.tail())

        if run.background:
            return Reply(run.receipt())

        return Reply(run.snapshot() if run.finished else run.body_when_done())

    def _refuse(self, body: JSON) -> Reply | None:
        model, previous = body.get("model"), body.get("previous_response_id")
        if not model:
            return Reply.error(
                400, "Missing required parameter: 'model'.", param="model", code="missing_required_parameter"
            )

        if self.models is not None and model not in self.models:
            return Reply.error(404, f"The model '{model}' does not exist.", param="model", code="model_not_found")

        if previous is not None and ((run := self.find(previous)) is None or not run.finished):
            message = f"Previous response with id '{previous}' not found."
            return Reply.error(400, message, param="previous_response_id", code="previous_response_not_found")

        if self._busy(conversation_of(body)):
            message = "Another process is currently operating on this conversation. Please retry in a few seconds."
            return Reply.error(400, message, param="conversation", code="conversation_locked")

        return None

    def _busy(self, conversation: str | None) -> bool:
        if conversation is None:
            return False

        return any(conversation_of(run.request) == conversation and not run.finished for run in self.runs.values())

    def _new_run(self, body: JSON) -> Run:
        script = choose(self.script, self.created, body)
        run_id = recorded_id(script) if script.keep_ids else None
        if run_id is None or run_id in self.runs:
            run_id = new_id("resp")

        run = self.runs[run_id] = Run(self.created, run_id, body, script, self.clock, int(time.time()))
        self.created += 1
        return run

    def poll(self, exchange: Exchange) -> Reply:
        """GET /responses/{id}. A foreground run cannot be read while it runs, nor if it was not to be stored."""
        run = exchange.run
        if run is None or not (run.background or (run.finished and run.stored)):
            return _not_found(exchange)

        return Reply(run.snapshot())

    def attach(self, exchange: Exchange) -> Reply:
        """GET /responses/{id}?stream=true: the events after the cursor, then those to come."""
        run, cursor = exchange.run, exchange.starting_after
        if run is None:
            return _not_found(exchange)

        if (reason := self._unstreamable(run)) is not None:
            return Reply.error(400, f"This response {reason}.", param="stream", code="invalid_request_error")

        if cursor is None:
            return Reply.stream(run.tail())

        try:
            position = run.position_after(int(cursor))
        except ValueError:
            message = f"Invalid 'starting_after': expected an integer, but got '{cursor}'."
            return Reply.error(400, message, param="starting_after", code="invalid_type")

        return Reply.stream(run.tail(position))

    def _unstreamable(self, run: Run) -> str | None:
        if not run.background:
            return "cannot be streamed because it was not created with background=true"

        if not run.streamed:
            return "cannot be streamed because it was not created with stream=true"

        if run.age > self.stream_window:
            return "can no longer be streamed because it is more than 5 minutes old"

        return None

    def cancel(self, exchange: Exchange) -> Reply:
        """POST /responses/{id}/cancel. A completed run that was not streamed takes it, to no effect."""
        run = exchange.run
        if run is None:
            return _not_found(exchange)

        if not run.background:
            return Reply.error(400, "Cannot cancel a synchronous response.")

        status = run.status
        if status in ("failed", "incomplete") or (status == "completed" and run.streamed):
            return Reply.error(400, f"Cannot cancel {'an' if status == 'incomplete' else 'a'} {status} response.")

        if not run.finished:
            run.stop("cancelled")

        return Reply(run.snapshot())

    def delete(self, exchange: Exchange) -> Reply:
        """DELETE /responses/{id}, once the run has ended."""
        run = exchange.run
        if run is None:
            return _not_found(exchange)

        if not run.finished:
            return Reply.error(400, "Cannot delete an in-flight response.")

        del self.runs[run.id]
        return Reply.json({"id": run.id, "object": "response.deleted", "deleted": True})

    def input_items(self, exchange: Exchange) -> Reply:
        """GET /responses/{id}/input_items, newest first unless `order=asc`."""
        run, query = exchange.run, exchange.request.query
        if run is None:
            return _not_found(exchange)

        limit = query.get("limit", "20")
        if not limit.isdecimal() or not 1 <= int(limit) <= 100:
            return Reply.error(400, f"Invalid 'limit': expected 1 to 100, but got '{limit}'.", param="limit")

        items = run.input_items if query.get("order") == "asc" else run.input_items[::-1]
        ids = [item["id"] for item in items]
        start = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
        page = items[start : start + int(limit)]
        return Reply.json(
            {
                "object": "list",
                "data": page,
                "first_id": page[0]["id"] if page else None,
                "has_more": start + len(page) < len(items),
                "last_id": page[-1]["id"] if page else None,
            }
        )


_ENDPOINTS: dict[str, Callable[[Service, Exchange], Reply]] = {
    "create": Service.create,
    "poll": Service.poll,
    "attach": Service.attach,
    "cancel": Service.cancel,
    "delete": Service.delete,
    "input_items": Service.input_items,
}


def _credentials(request: Request) -> tuple[str | None, str | None]:
    """What the request shows as its key: OpenAI's way and Azure's."""
    return request.headers.get("authorization", "").removeprefix("Bearer "), request.headers.get("api-key")


def _not_found(exchange: Exchange) -> Reply:
    return Reply.error(404, f"Response with id '{exchange.request.route[1]}' not found.")
