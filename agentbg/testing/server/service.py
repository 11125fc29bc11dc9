"""The endpoints: from a request to a reply, at one moment. No input or output here, and no waiting."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..context import complaint, is_bare_reasoning
from .exchange import Exchange, Request
from .history import Conversation, no_such_url, page
from .play import recorded_id
from .reply import Reply
from .run import Run
from .script import ScriptSource, choose
from .wire import JSON, Event, conversation_of, input_items, new_id, raw_items

Chaining = Literal["kept", "refused", "ignored"]
"""What becomes of `previous_response_id`."""


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
    chaining: Chaining = "kept"
    background_locks: bool = True
    """Whether a run in the background keeps others from its conversation until its end."""
    idempotent: bool = False
    """Whether a create with the `Idempotency-Key` of an earlier one is answered with that run."""
    runs: dict[str, Run] = field(default_factory=dict[str, Run])
    created: int = 0
    """How many runs there have been."""
    conversations: dict[str, Conversation] = field(default_factory=dict[str, Conversation])
    keyed: dict[str, Run] = field(default_factory=dict[str, Run])
    """The runs by the `Idempotency-Key` that made them."""

    def find(self, id: str) -> Run | None:
        """The run of that id, unless it has been deleted, has expired, or cannot be read yet."""
        run = self.runs.get(id)
        return run if run is not None and run.age <= self.retention and not self._settles(run) else None

    def _settles(self, run: Run) -> bool:
        return self.settling > 0 and run.streamed and run.finished and run.age < run.log[-1].at + self.settling

    def forget(self) -> None:
        """Forget all runs."""
        self.runs.clear()
        self.conversations.clear()
        self.keyed.clear()
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

        return no_such_url(request)

    def create(self, exchange: Exchange) -> Reply:
        """POST /responses."""
        body = exchange.request.json
        if body is None:
            return Reply.error(400, "We could not parse the JSON body of your request.")

        if self.chaining == "ignored":
            body = {**body, "previous_response_id": None}

        key = exchange.request.headers.get("idempotency-key") if self.idempotent else None
        run = self.keyed.get(key) if key is not None else None
        if run is None:
            if (refusal := self._refuse(body) or self._refuse_history(body)) is not None:
                return refusal

            run = self._new_run(body)
            if key is not None:
                self.keyed[key] = run

        exchange.run = run
        return self._begun(run)

    def _begun(self, run: Run) -> Reply:
        """The answer to the create that made this run."""
        if run.streamed:
            return Reply.stream(run.tail())

        if run.background:
            return Reply(run.receipt())

        return Reply(run.snapshot() if run.finished else run.body_when_done())

    def _refuse(self, body: JSON) -> Reply | None:
        model = body.get("model")
        if not model:
            return Reply.error(
                400, "Missing required parameter: 'model'.", param="model", code="missing_required_parameter"
            )

        if self.models is not None and model not in self.models:
            return Reply.error(404, f"The model '{model}' does not exist.", param="model", code="model_not_found")

        items: Sequence[Any] = raw_items(body)
        if not all(isinstance(item, Mapping) for item in items):
            message = "Invalid type for 'input': expected a string or a list of input items."
            return Reply.error(400, message, param="input", code="invalid_type")

        return None

    def _refuse_history(self, body: JSON) -> Reply | None:
        """What may be wrong with what a request names of earlier ones."""
        previous, name = body.get("previous_response_id"), conversation_of(body)
        if previous is not None and name is not None:
            return Reply.error(400, _EXCLUSIVE, code="mutually_exclusive_parameters")

        if previous is not None and self._previous(previous) is None:
            message = f"Previous response with id '{previous}' not found."
            return Reply.error(400, message, param="previous_response_id", code="previous_response_not_found")

        conversation = self.conversations.get(name) if name is not None else None
        if conversation is not None and conversation.deleted:
            return _no_conversation(conversation.id)

        if conversation is not None and conversation.busy(background=self.background_locks):
            message = "Another process is currently operating on this conversation. Please retry in a few seconds."
            return Reply.error(400, message, param="conversation", code="conversation_locked")

        if self.chaining == "ignored":
            return None

        if (gone := self._gone_reasoning(body)) is not None:
            return Reply.error(404, f"Item with id '{gone}' not found.", param="input")

        wrong = complaint([*self._earlier(body), *raw_items(body)])
        return Reply.error(400, wrong, param="input") if wrong is not None else None

    def _gone_reasoning(self, body: JSON) -> str | None:
        """The id of reasoning in the input that the service is to look up, and does not keep (any more)."""
        bare = [str(item["id"]) for item in raw_items(body) if is_bare_reasoning(item)]
        runs = [run for run in self.runs.values() if bare and self._previous(run.id) is not None]
        kept = {item["id"] for run in runs for item in run.output}
        return next((gone for gone in bare if gone not in kept), None)

    def _previous(self, id: str) -> Run | None:
        """The run that may be continued by its id: one that has ended, and was to be stored."""
        run = self.find(id) if self.chaining == "kept" else None
        return run if run is not None and run.finished and run.stored else None

    def _earlier(self, body: JSON) -> Sequence[Event]:
        """What the service keeps from before a request, oldest first."""
        if (previous := body.get("previous_response_id")) is not None and (run := self._previous(previous)) is not None:
            return [*run.context, *run.output]

        name = conversation_of(body)
        return self.conversations[name].items if name in self.conversations else ()

    def _new_run(self, body: JSON) -> Run:
        earlier = self._earlier(body)
        script = choose(self.script, self.created, body, [*earlier, *raw_items(body)])
        run_id = recorded_id(script) if script.keep_ids else None
        if run_id is None or run_id in self.runs:
            run_id = new_id("resp")

        now = int(time.time())
        run = self.runs[run_id] = Run(self.created, run_id, body, script, self.clock, now, earlier)
        if (name := conversation_of(body)) is not None:
            self.conversations.setdefault(name, Conversation(name, now)).runs.append(run)

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
        """GET /responses/{id}/input_items: all that its model saw, newest first unless `order=asc`."""
        run, query = exchange.run, exchange.request.query
        if run is None:
            return _not_found(exchange)

        return page(run.context, query)

    def conversation(self, exchange: Exchange) -> Reply:
        """The endpoints of /conversations. One that was never created begins with the first run that names it."""
        request = exchange.request
        match request.method, request.route[1:]:
            case "POST", ():
                return Reply.json(self._new_conversation(request.json or {}).body())
            case "GET" | "DELETE", (name, *rest):
                kept = self.conversations.get(name)
                return _no_conversation(name) if kept is None or kept.deleted else kept.answer(request, rest)
            case _:
                return no_such_url(request)

    def _new_conversation(self, body: JSON) -> Conversation:
        given = input_items({"input": body.get("items")})
        made = Conversation(new_id("conv"), int(time.time()), body.get("metadata") or {}, given)
        self.conversations[made.id] = made
        return made


_EXCLUSIVE = (
    "Mutually exclusive parameters: 'conversation' and 'previous_response_id'. "
    "Ensure you are only providing one of: 'previous_response_id' or 'conversation'."
)
_ENDPOINTS: dict[str, Callable[[Service, Exchange], Reply]] = {
    "create": Service.create,
    "poll": Service.poll,
    "attach": Service.attach,
    "cancel": Service.cancel,
    "delete": Service.delete,
    "input_items": Service.input_items,
    "conversation": Service.conversation,
}


def _credentials(request: Request) -> tuple[str | None, str | None]:
    """What the request shows as its key: OpenAI's way and Azure's."""
    return request.headers.get("authorization", "").removeprefix("Bearer "), request.headers.get("api-key")


def _not_found(exchange: Exchange) -> Reply:
    return Reply.error(404, f"Response with id '{exchange.request.route[1]}' not found.")


def _no_conversation(id: str) -> Reply:
    return Reply.error(404, f"Conversation with id '{id}' not found.")
