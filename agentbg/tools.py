"""Plain typed functions as tools of an agent.

    @tool(requires_approval=True)
    async def refund(order: int, amount: Annotated[float, Field(gt=0)], context: RunContext) -> str:
        \"\"\"Give a customer their money back.

        Args:
            order: The order's number.
            amount: How much, in euro.
        \"\"\"

    agent = Agent(provider, tools=[refund, lookup, {"type": "web_search"}])

The schema of the arguments comes from the annotations, by pydantic; what the docstring says of a parameter goes to it,
the rest of the docstring is the tool's description. Both are made once, when the tool is: a function that cannot be a
tool is a UsageError there.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast, overload

from pydantic import PydanticUserError

from ._arguments import Arguments, name_of, plain, signature_of
from ._calling import is_kind, only_errors, run, written
from ._docstring import read_docstring
from .core.model import JSON
from .errors import ToolTimeout, UsageError

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a tool may know of its run: a parameter with this annotation gets it, and the model does not see it."""

    run_id: str
    """Ours, as in `handle.id`."""
    call_id: str
    """The model's id of this call. Most services give each call one of its own."""
    tool: str
    agent: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The caller's own, from `submit(metadata=…)`."""
    key: str = ""
    """Ours, of this call and no other, and the same when it is made again after a crash: an idempotency key."""


@dataclass(frozen=True, slots=True, eq=False)
class Tool(Generic[P, R_co]):
    """A function that a model can call. Made by `tool`; calling it calls the function, as if it were no tool."""

    function: Callable[P, R_co]
    name: str
    description: str
    requires_approval: bool
    idempotent: bool
    timeout: float | None
    on_error: Literal["answer", "fail"]
    _arguments: Arguments = field(repr=False)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function."""
        return self.function(*args, **kwargs)

    @property
    def parameters(self) -> JSON:
        """The JSON schema of the arguments."""
        return self._arguments.schema

    @property
    def strict(self) -> bool:
        """Whether the schema has the form that a service can enforce to the letter; see `agentbg.output`."""
        return self._arguments.strict

    @property
    def definition(self) -> JSON:
        """What a service is told of the tool."""
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": self.strict,
        }

    @property
    def __wrapped__(self) -> Callable[P, R_co]:
        """The function, for `inspect`."""
        return self.function

    async def call(self, arguments: str, context: RunContext) -> str | list[JSON]:
        """Call the function with a model's arguments, and write its result for the model.

        An async function is awaited; any other runs in a worker thread, and what it returns is awaited if it can be.
        A str is the result as it is; a part of `agentbg.inputs`, or a list of parts and texts, is a list of parts;
        anything else is written as JSON, with NaN and Infinity as texts. Half characters become U+FFFD.

        Raises ToolArgumentsInvalid, before the call; ToolTimeout; ToolError for a result that cannot be written, and
        for a CancelledError that nobody asked for; else what the function raises. A cancellation cancels an async
        function; a thread is left to itself.
        """
        bound = self._arguments.bind(arguments, context)
        limit = asyncio.timeout(self.timeout)
        try:
            async with limit:
                result = await only_errors(run(self.function, bound))
        except TimeoutError as error:
            if not limit.expired():
                raise

            raise ToolTimeout(f"{self.name} did not answer within {self.timeout:g} s.") from error

        return written(result)


@overload
def tool(
    function: Callable[P, R],
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    requires_approval: bool = False,
    idempotent: bool = False,
    timeout: float | None = 600.0,
    on_error: Literal["answer", "fail"] = "answer",
) -> Tool[P, R]: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    requires_approval: bool = False,
    idempotent: bool = False,
    timeout: float | None = 600.0,
    on_error: Literal["answer", "fail"] = "answer",
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...
def tool(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    requires_approval: bool = False,
    idempotent: bool = False,
    timeout: float | None = 600.0,
    on_error: Literal["answer", "fail"] = "answer",
) -> Tool[P, R] | Callable[[Callable[P, R]], Tool[P, R]]:
    """Make a tool of a typed function, sync or async. A decorator, with parentheses or without.

    Each parameter needs a type that pydantic can describe. `*args` are a list, `**kwargs` any further arguments; a
    parameter of type `RunContext` gets the context. A null for a parameter with a default is that default, unless its
    type has a null of its own. A bound method, a partial and a callable object are functions, too.

    Args:
        function: What to call.
        name: For the model: at most 64 letters, digits, `_` and `-`. If not given, the function's.
        description: For the model. If not given, the docstring without what it says of the parameters.
        requires_approval: A call waits until somebody approves of it.
        idempotent: Calling it twice does no harm: it may be called again when its process died.
        timeout: Seconds until a call is given up; None for no bound.
        on_error: What an exception does: it is the "answer", for the model to deal with; or the run will "fail".

    Raises UsageError for a function that cannot be a tool: one without types, a generator, a class.
    """

    def make(function: Callable[P, R]) -> Tool[P, R]:
        called = name_of(function) if name is None else name
        _check(function, called, timeout, on_error)
        signature = signature_of(function, RunContext)
        rest, told = read_docstring(_docstring(function), signature.parameters)
        try:
            arguments = Arguments(signature, told, RunContext)
        except (PydanticUserError, NameError, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UsageError(
                f"pydantic cannot describe the parameters of {called} as a JSON schema: {reason}"
            ) from error

        said = rest if description is None else description
        return Tool(function, called, said, requires_approval, idempotent, timeout, on_error, arguments)

    return make if function is None else make(function)


class Toolset:
    """The tools of an agent: functions, tools made of them, and the service's own as dictionaries.

    A dictionary {"type": "function", …} is a function of yours that the service is told of, and you answer yourself.
    Raises UsageError for what is none of these, and for two tools of one name.

    Attributes:
        definitions: What goes to the service, in order.
        by_name: Those that are functions here.
    """

    def __init__(self, tools: Sequence[Tool[..., Any] | Callable[..., Any] | JSON] = ()) -> None:
        if callable(tools) or isinstance(tools, (str, Mapping)):
            raise UsageError(f"Tools are a list: pass tools=[{getattr(tools, '__name__', '…')}].")

        definitions: list[JSON] = []
        by_name: dict[str, Tool[..., Any]] = {}
        for each in tools:
            if isinstance(each, Mapping):
                definitions.append(_own(each))  # pyright: ignore[reportUnknownArgumentType]  JSON, as the caller wrote it
                continue

            made = cast("Tool[..., Any]", each if isinstance(each, Tool) else tool()(each))
            by_name[made.name] = made
            definitions.append(made.definition)

        names = Counter(each["name"] for each in definitions if "name" in each)
        for name, times in names.items():
            if times > 1:
                raise UsageError(f"{times} tools have the name {name!r}: give one another, with tool(…, name=…).")

        self.definitions = tuple(definitions)
        self.by_name: Mapping[str, Tool[..., Any]] = MappingProxyType(by_name)


def _check(function: object, name: str, timeout: float | None, on_error: str) -> None:
    if isinstance(function, Tool):
        raise UsageError(f"{function.name} is a tool already: pass its function, tool({function.name}.function, …).")

    if inspect.isclass(function) or not callable(function):
        raise UsageError(f"{function!r:.200} is no tool: pass a function, or a service's own tool as a dictionary.")

    if is_kind(inspect.isgeneratorfunction, function) or is_kind(inspect.isasyncgenfunction, function):
        raise UsageError(f"{name} is a generator, and a tool has one result: return a list, or a text.")

    _check_name(name)
    if timeout is not None and not timeout > 0:
        raise UsageError(f"{name} needs a timeout > 0 in seconds, or None for no bound; not {timeout!r}.")

    if on_error not in ("answer", "fail"):
        raise UsageError(f'{name} needs on_error="answer" or "fail", not {on_error!r}.')


def _check_name(name: object) -> None:
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise UsageError(
            f"{name!r:.100} cannot be a tool's name, which is at most 64 letters, digits, _ and -: "
            f"pass tool(…, name=…); a lambda becomes a function with a name and types."
        )


def _own(definition: JSON) -> JSON:
    """A service's own tool, checked: it goes to the service as it is."""
    try:
        own = cast("JSON", json.loads(json.dumps(dict(definition), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise UsageError(f"The tool {definition!r:.200} is no JSON: {error}.") from error

    if not isinstance(own.get("type"), str):
        raise UsageError(f"The tool {definition!r:.200} has no type: a service's own is like {{'type': 'web_search'}}.")

    if own["type"] == "function":
        _check_name(own.get("name"))

    return own


def _docstring(function: Callable[..., Any]) -> str | None:
    """What is written at the function; for a callable object, else what is written at its class."""
    written = plain(function).__doc__
    return written or (None if inspect.isroutine(function) or isinstance(function, partial) else type(function).__doc__)
