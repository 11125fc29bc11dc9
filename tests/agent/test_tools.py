"""Plain functions as tools: what a model is told of them, how they are called, and what it gets back."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field
from test_output import assert_strict
from typing_extensions import TypedDict, Unpack

from agentbg import ToolArgumentsInvalid, ToolError, ToolFailed, ToolTimeout, UsageError, inputs
from agentbg.testing import virtual_time
from agentbg.tools import RunContext, Tool, Toolset, tool

if TYPE_CHECKING:
    from agentbg.nowhere import Hidden

CONTEXT = RunContext("run-1", "call-1", "f", "agent", {"user": 7})


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class Color(StrEnum):
    RED = "red"


class Order(BaseModel):
    """What is ordered."""

    number: int = Field(ge=1)
    when: date | None = None
    lines: list[Line] = []


@dataclass
class Line:
    article: str
    count: int = 1


class Where(TypedDict, total=False):
    city: str
    country: str


def lookup(city: str, days: int = 3, *, unit: Literal["C", "F"] = "C") -> str:
    """Look up the weather.

    Only for Europe.

    Args:
        city: The city's name,
            in English.
        days: How far to look.

    Returns:
        The weather.
    """
    return f"{city} {days} {unit}"


async def call(function: Any, context: RunContext = CONTEXT, /, **arguments: Any) -> Any:
    made = function if isinstance(function, Tool) else tool(function)
    return await made.call(json.dumps(arguments), context)


def properties(function: Any) -> Mapping[str, Any]:
    return tool(function).parameters["properties"]


# --- the schema ---


def test_a_plain_function_is_told_of_in_the_strict_form():
    made = tool(lookup)
    assert made.definition == {
        "type": "function",
        "name": "lookup",
        "description": "Look up the weather.\n\nOnly for Europe.\n\nReturns:\n    The weather.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city's name,\nin English."},
                "days": {
                    "anyOf": [{"type": "integer"}, {"type": "null"}],
                    "description": "How far to look. (default: 3)",
                },
                "unit": {
                    "anyOf": [{"type": "string", "enum": ["C", "F"]}, {"type": "null"}],
                    "description": '(default: "C")',
                },
            },
            "required": ["city", "days", "unit"],
            "additionalProperties": False,
        },
    }
    assert (made.requires_approval, made.idempotent, made.timeout, made.on_error) == (False, False, 600.0, "answer")


def all_kinds(
    mood: Mood,
    color: Color,
    where: Where,
    order: Order,
    line: Line,
    number: Annotated[int, Field(ge=1, le=9, description="From the annotation.")],
    said: Annotated[str, "A bare text."],
    maybe: Optional[int],  # noqa: UP045 (users write this, too)
    either: int | str | None = None,
    orders: list[Order] = [],  # noqa: B006 (what is to be tested)
    uuid: UUID | None = None,
    span: timedelta = timedelta(hours=1),
) -> None:
    """Everything.

    :param number: From the docstring.
    :param str said: From the docstring.
    :param mood: Good or bad.
    """


def test_every_kind_of_type_has_a_strict_form():
    made = tool(all_kinds)
    assert made.strict
    assert_strict(made.parameters)
    told = made.parameters["properties"]
    assert told["number"] == {"type": "integer", "minimum": 1, "maximum": 9, "description": "From the annotation."}
    assert told["said"]["description"] == "A bare text."
    assert told["mood"] == {"anyOf": [{"$ref": "#/$defs/Mood"}], "description": "Good or bad."}
    assert told["span"]["description"] == '(default: "PT1H")'
    assert told["maybe"]["anyOf"] == [{"type": "integer"}, {"type": "null"}]
    assert set(made.parameters["$defs"]) == {"Mood", "Color", "Where", "Order", "Line"}
    assert made.description == "Everything."


async def test_what_a_model_sends_becomes_what_the_annotations_say():
    got: dict[str, Any] = {}

    def take(
        mood: Mood,
        where: Where,
        order: Order,
        uuid: UUID,
        span: timedelta,
        when: Annotated[datetime, Field(strict=True)],
        either: int | str,
        numbers: set[int],
    ) -> None:
        got.update(locals())

    sent = {
        "mood": "bad",
        "where": {"city": "Rome"},
        "order": {"number": 7, "when": "2026-01-02", "lines": [{"article": "a"}]},
        "uuid": "12345678123456781234567812345678",
        "span": "PT90S",
        "when": "2026-01-02T03:04:05Z",
        "either": "x",
        "numbers": [1, 1],
    }
    await call(take, **sent)
    assert got["order"] == Order(number=7, when=date(2026, 1, 2), lines=[Line("a")])
    assert (got["mood"], got["where"], got["span"]) == (Mood.BAD, {"city": "Rome"}, timedelta(seconds=90))
    assert (got["either"], got["numbers"], got["when"].year, got["uuid"].hex[:8]) == ("x", {1}, 2026, "12345678")


def test_a_function_without_a_strict_form_is_a_request():
    def f(anything: dict[str, Any], limit: int = 5) -> None: ...

    made = tool(f)
    assert not made.strict
    assert made.definition["strict"] is False
    assert made.parameters == {
        "type": "object",
        "properties": {
            "anything": {"type": "object", "additionalProperties": True},
            "limit": {"type": "integer", "default": 5},
        },
        "required": ["anything"],
        "additionalProperties": False,
    }


def test_no_parameters_are_an_empty_object():
    def now() -> str: ...

    assert tool(now).definition["parameters"] == {
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": False,
    }


async def test_a_local_type_is_found_by_its_name():
    class Inner(BaseModel):
        nodes: list[int]

    @dataclass
    class Other:
        x: int

    def make() -> Any:
        @tool
        def f(inner: Inner, more: list["Other"]) -> str:  # noqa: UP037 (users write this, too)
            return f"{inner.nodes} {more}"

        return f

    assert await call(make(), inner={"nodes": [1]}, more=[{"x": 2}]) == f"[1] {[Other(2)]}"


def test_a_type_that_cannot_be_found_says_what_to_do():
    def f(x: Hidden) -> None: ...

    with pytest.raises(UsageError, match=r"parameter 'x' is 'Hidden', and that cannot be found.*TYPE_CHECKING"):
        tool(f)


def test_nobody_looks_at_what_a_function_returns():
    def f(x: int) -> Hidden: ...

    assert tool(f).strict


def names(json_: int, copy: int, _x: int, model_config: int, self_: int, p0: str) -> str:
    return f"{json_} {copy} {_x} {model_config} {self_} {p0}"


async def test_a_parameter_may_have_any_name():
    assert await call(names, json_=1, copy=2, _x=3, model_config=4, self_=5, p0="six") == "1 2 3 4 5 six"


async def test_an_alias_is_the_name_that_the_model_sees():
    def f(from_: Annotated[str, Field(alias="from")], *, to: str = Field("b", description="Where to.")) -> str:
        return from_ + to

    assert properties(f)["to"]["description"] == 'Where to. (default: "b")'
    assert list(properties(f)) == ["from", "to"]
    assert await call(f, **{"from": "a", "to": None}) == "ab"
    assert await call(f, **{"from": "a"}) == "ab"


# --- defaults ---

MISSING = object()


async def test_null_is_the_default_unless_the_type_has_a_null():
    def f(a: int = 1, b: int | None = 2, c: str = None, d: Any = 4, e: list[int] = MISSING) -> str:  # noqa: RUF013 (users write this, too)
        return f"{a} {b} {c} {d} {e is MISSING}"

    assert await call(f) == "1 2 None 4 True"
    assert await call(f, a=None, b=None, c=None, d=None, e=None) == "1 None None None True"
    assert await call(f, a=7, e=[1]) == "7 2 None 4 False"


async def test_a_null_that_a_validator_cannot_take_is_the_default():
    def f(x: Annotated[str, BeforeValidator(str.strip)] = "a") -> str:
        return x

    assert await call(f, x=None) == "a"
    assert await call(f, x=" b") == "b"


def test_a_default_that_is_no_json_is_not_told():
    def f(x: float = float("nan"), y: str = "\ud800", z: float = 2.0, **more: Any) -> None: ...

    assert [each.get("default") for each in properties(f).values()] == [None, None, 2.0]


async def test_a_default_of_pydantics_is_made_for_each_call():
    def f(x: Annotated[list[int], Field(default_factory=list)]) -> list[int]:
        x.append(1)
        return x

    made = tool(f)
    assert [await made.call("{}", CONTEXT), await made.call('{"x": null}', CONTEXT)] == ["[1]", "[1]"]


async def test_a_null_for_a_parameter_without_default_is_wrong():
    with pytest.raises(ToolArgumentsInvalid, match=r"city: Input should be a valid string \(not None\)"):
        await call(lookup, city=None)


# --- kinds of parameters ---


def positional(a: int, b: int = 2, /, c: int = 3, *rest: int, d: int, e: int = 5, **more: float) -> str:
    """All kinds.

    Args:
        *rest: Further ones.
    """
    return f"{a} {b} {c} {rest} {d} {e} {more}"


async def test_every_kind_of_parameter_has_its_place():
    assert await call(positional, a=1, d=4) == "1 2 3 () 4 5 {}"
    assert await call(positional, a=1, c=7, d=4, x=1) == "1 2 7 () 4 5 {'x': 1.0}"
    assert await call(positional, a=1, rest=[8, 9], d=4) == "1 2 3 (8, 9) 4 5 {}"
    assert await call(positional, a=1, rest=None, d=4) == "1 2 3 () 4 5 {}"
    made = tool(positional)
    assert not made.strict
    assert made.parameters["additionalProperties"] == {"type": "number"}
    assert made.parameters["required"] == ["a", "d"]
    assert made.parameters["properties"]["rest"]["description"] == "Further ones."
    with pytest.raises(ToolArgumentsInvalid, match="x: Input should be a valid number"):
        await call(positional, a=1, d=4, x="y")


async def test_keywords_without_a_type_are_anything():
    def f(**more: Any) -> str:
        return json.dumps(more)

    def g(**more) -> str:
        return json.dumps(more)

    for each in (f, g):
        assert tool(each).parameters == {"type": "object", "properties": {}, "additionalProperties": True}
        assert await call(each, x=[1], p0=None) == '{"x": [1], "p0": null}'


async def test_a_further_argument_never_takes_the_place_of_a_parameter():
    def f(run: RunContext, x_: Annotated[int, Field(alias="x")], **more: Any) -> str:
        return f"{run.run_id} {x_} {more}"

    assert await call(f, x=1, more=2) == "run-1 1 {'more': 2}"
    with pytest.raises(ToolArgumentsInvalid) as caught:
        await call(f, x=1, run="forged", x_=2)

    assert caught.value.problems == ("run: Extra inputs are not permitted", "x_: Extra inputs are not permitted")


def test_unpacked_keywords_are_refused():
    def f(**more: Unpack[Where]) -> None: ...

    with pytest.raises(UsageError, match=r"takes \*\*more unpacked: name its parameters"):
        tool(f)


# --- the context ---


async def test_the_context_goes_to_whatever_parameter_wants_it():
    def first(context: RunContext, x: int) -> str:
        """Do it.

        Args:
            context: Not for the model.
            x: A number.
        """
        return f"{context.call_id} {x}"

    async def last(x: int, *, run: RunContext | None = None) -> str:
        return f"{run.run_id if run else None} {x}"

    def middle(x: int, me: Annotated[RunContext, "mine"], /, y: int = 2) -> str:
        return f"{me.metadata['user']} {x} {y}"

    assert list(properties(first)) == ["x"]
    assert tool(first).description == "Do it."
    assert [await call(each, x=1) for each in (first, last, middle)] == ["call-1 1", "run-1 1", "7 1 2"]
    with pytest.raises(ToolArgumentsInvalid, match="run: Extra inputs"):
        await call(last, x=1, run={"run_id": "forged"})


# --- what a tool is made of ---


class Desk:
    """A desk."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def take(self, order: int) -> int:
        """Take an order."""
        self.taken.append(order)
        return len(self.taken)

    async def __call__(self, x: int) -> int:
        return x + 1


class Silent:
    """Says what it is here."""

    def __call__(self, x: int) -> int:
        """And here."""
        return x


def logged(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@logged
async def wrapped(x: int) -> str:
    """Wrapped."""
    return f"{x}!"


async def test_methods_partials_objects_and_wrappers_are_functions():
    desk = Desk()
    assert await call(desk.take, order=1) == "1"
    assert desk.taken == [1]
    assert (tool(desk.take).name, tool(desk.take).description) == ("take", "Take an order.")

    part = functools.partial(lookup, days=9)
    assert await call(part, city="Rome") == "Rome 9 C"
    assert (tool(part).name, tool(part).description[:7]) == ("lookup", "Look up")
    assert await call(functools.partial(lookup, "Rome")) == "Rome 3 C"
    assert "city" not in properties(functools.partial(lookup, "Rome"))

    assert await call(desk, x=1) == "2"
    assert await call(functools.partial(desk), x=1) == "2"
    assert (tool(desk).name, tool(desk).description) == ("Desk", "A desk.")
    assert tool(Silent()).description == "And here."

    assert await call(wrapped, x=1) == "1!"
    assert tool(wrapped).description == "Wrapped."
    assert await call(tool(lambda: "now", name="now")) == "now"


async def test_a_decorated_function_is_still_a_function():
    @tool
    async def f(x: int) -> int:
        """Add one."""
        return x + 1

    @tool(name="g-2", description="", requires_approval=True, idempotent=True, timeout=None, on_error="fail")
    def g(x: int) -> int:
        """Not for the model."""
        return x

    assert await f(1) == 2
    assert g(x=3) == 3
    assert list(inspect.signature(g).parameters) == ["x"]
    assert (g.name, g.description, g.requires_approval, g.idempotent) == ("g-2", "", True, True)
    assert (g.timeout, g.on_error) == (None, "fail")
    with pytest.raises(AttributeError):
        g.name = "h"


def generator(x: int) -> Iterator[int]:
    yield x


async def asynchronous_generator(x: int) -> Any:
    yield x


class Generating:
    def __call__(self, x: int) -> Iterator[int]:
        yield x


class Thing:
    def method(self, x: int) -> None: ...


class Odd:
    pass


def odd(x: Odd) -> None: ...


def callback(then: Callable[[int], int]) -> None: ...


def constrained(x: Annotated[Odd, Field(ge=1)]) -> None: ...


def endless(x: Annotated[float, Field(json_schema_extra={"examples": [float("inf")]})], **more: Any) -> None: ...


def untyped(x, y: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (untyped, r"untyped says no type for its parameter 'x'.*write `x: str`"),
        (lambda x: x, r"'<lambda>' cannot be a tool's name.*pass tool\(…, name=…\)"),
        (Thing.method, r"pass tools=\[thing.method\]"),
        (generator, "generator is a generator, and a tool has one result"),
        (asynchronous_generator, "is a generator"),
        (Generating(), "is a generator"),
        (functools.partial(generator, 1), "is a generator"),
        (Order, "pass a function"),
        ("lookup", "pass a function"),
        (tool(lookup), r"lookup is a tool already: pass its function"),
        (odd, "pydantic cannot describe the parameters of odd"),
        (constrained, "the parameters of constrained"),
        (callback, "the parameters of callback"),
        (endless, "the parameters of endless"),
        (max, "max has no signature"),
    ],
    ids=str,
)
def test_what_cannot_be_a_tool_says_so_when_it_is_made(function: Any, message: str):
    with pytest.raises(UsageError, match=message):
        tool(function)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "a b"}, "at most 64 letters"),
        ({"name": ""}, "at most 64 letters"),
        ({"name": "x" * 65}, "at most 64 letters"),
        ({"name": "ä"}, "at most 64 letters"),
        ({"name": "a\n"}, "at most 64 letters"),
        ({"timeout": 0}, "timeout > 0"),
        ({"timeout": float("nan")}, "timeout > 0"),
        ({"on_error": "ignore"}, 'on_error="answer" or "fail"'),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_right_is_refused(settings: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        tool(**settings)(lookup)


# --- arguments ---


@pytest.mark.parametrize(
    ("sent", "problems"),
    [
        ("{", ["the arguments: Invalid JSON: EOF while parsing an object at line 1 column 1"]),
        ("[1]", ["the arguments: Input should be an object (not [1])"]),
        ("null", ["the arguments: Input should be an object (not None)"]),
        ("", ["city: Field required"]),
        ('{"city": 5}', ["city: Input should be a valid string (not 5)"]),
        (
            '{"town": "Rome", "days": "x"}',
            [
                "city: Field required",
                "days: Input should be a valid integer, unable to parse string as an integer (not 'x')",
                "town: Extra inputs are not permitted (not 'Rome')",
            ],
        ),
        ('{"city": "\ud800"}', ["the arguments: Input should be a valid string, unable to parse raw data"]),
    ],
    ids=ascii,
)
async def test_arguments_that_do_not_fit_say_what_is_wrong(sent: str, problems: list[str]):
    with pytest.raises(ToolArgumentsInvalid) as caught:
        await tool(lookup).call(sent, CONTEXT)

    assert len(caught.value.problems) == len(problems)
    assert all(got.startswith(wanted) for got, wanted in zip(caught.value.problems, problems, strict=True))
    assert str(caught.value) == "The arguments do not fit:\n" + "\n".join(caught.value.problems)
    assert "https://" not in str(caught.value)
    str(caught.value).encode()


async def test_a_wrong_part_is_named_by_its_path_and_not_quoted_at_length():
    def f(order: Order) -> None: ...

    with pytest.raises(ToolArgumentsInvalid) as caught:
        await call(f, order={"number": 0, "lines": [{"article": "a"}, {"article": ["x" * 500]}]})

    low, long = caught.value.problems
    assert low == "order.number: Input should be greater than or equal to 1 (not 0)"
    assert long.startswith("order.lines[1].article: Input should be a valid string (not ['xxx")
    assert len(long) < 200


async def test_a_validators_own_words_reach_the_model():
    def even(number: int) -> int:
        if number % 2:
            raise ValueError("even numbers only")

        return number

    def f(x: Annotated[int, AfterValidator(even)]) -> None: ...

    with pytest.raises(ToolArgumentsInvalid, match=r"x: Value error, even numbers only \(not 3\)"):
        await call(f, x=3)


async def test_a_validation_error_of_the_tools_own_is_not_one_of_its_arguments():
    def f(x: int) -> None:
        Order.model_validate({})

    with pytest.raises(ValueError, match="validation error for Order") as caught:
        await call(f, x=1)

    assert not isinstance(caught.value, ToolError)


# --- the call ---


async def test_an_async_function_runs_here_and_any_other_in_a_thread_with_its_context_variables():
    where = contextvars.ContextVar[str]("where")
    where.set("here")

    async def f() -> str:
        return f"{where.get()} {threading.current_thread() is threading.main_thread()}"

    def g() -> str:
        return f"{where.get()} {threading.current_thread() is threading.main_thread()}"

    assert (await call(f), await call(g)) == ("here True", "here False")


@virtual_time
async def test_a_function_that_returns_an_awaitable_is_awaited():
    async def slow(x: int) -> int:
        await asyncio.sleep(3600)
        return x

    def f(x: int) -> Any:
        return slow(x)

    assert await call(tool(f, timeout=3601), x=1) == "1"
    with pytest.raises(ToolTimeout, match="f did not answer within 3599 s"):
        await call(tool(f, timeout=3599), x=1)


@virtual_time
async def test_a_thread_works_while_virtual_time_stands_still():
    assert await call(lookup, city="Rome") == "Rome 3 C"
    assert asyncio.get_running_loop().time() == 0


@virtual_time
async def test_a_function_that_takes_too_long_is_cancelled():
    ended: list[str] = []

    async def f() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    with pytest.raises(ToolTimeout, match="f did not answer within 600 s") as caught:
        await call(f)

    assert isinstance(caught.value, TimeoutError)
    assert (ended, asyncio.get_running_loop().time()) == (["cancelled"], 600.0)


async def test_a_thread_that_takes_too_long_is_left_to_itself():
    release, left = threading.Event(), threading.Event()

    def f() -> None:
        release.wait(10)
        left.set()

    with pytest.raises(ToolTimeout):
        await call(tool(f, timeout=0.01))

    assert not left.is_set()
    release.set()
    assert await asyncio.to_thread(left.wait, 10)


async def test_a_timeout_of_the_tools_own_is_not_ours():
    async def f() -> None:
        raise TimeoutError("mine")

    def g() -> None:
        raise TimeoutError("mine")

    async def h() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    for each in (f, g, h):
        with pytest.raises(TimeoutError) as caught:
            await call(each)

        assert not isinstance(caught.value, ToolTimeout)


@virtual_time
async def test_our_cancellation_passes_and_a_tools_own_is_an_error():
    started = asyncio.Event()

    async def waits() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(call(waits))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def leaks() -> None:
        inner = asyncio.create_task(asyncio.sleep(3600))
        inner.cancel()
        await inner

    def raises() -> None:
        raise asyncio.CancelledError

    for each in (leaks, raises):
        with pytest.raises(ToolError, match="raised CancelledError"):
            await call(each)


async def test_a_cancelled_call_does_not_wait_for_its_thread():
    started, release = threading.Event(), threading.Event()

    def f() -> None:
        started.set()
        release.wait(10)

    task = asyncio.create_task(call(f))
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not release.is_set()
    release.set()


class Stop(BaseException):
    pass


def raising(error: BaseException) -> list[Any]:
    async def f() -> None:
        raise error

    def g() -> None:
        raise error

    return [f, g]


async def test_what_a_tool_raises_stays_what_it_is():
    for error in (ValueError("x"), ToolFailed("enough"), Stop(), LookupError("none")):
        for each in raising(error):
            with pytest.raises(type(error)) as caught:
                await call(each)

            assert caught.value is error


async def test_the_ends_of_iterations_are_errors_like_others():
    for error in (StopIteration("x"), StopAsyncIteration("x")):
        for each in raising(error):
            with pytest.raises((RuntimeError, ToolError), match="raised Stop"):
                await call(each)


# --- results ---


class Report(BaseModel):
    title: str
    when: datetime


@pytest.mark.parametrize(
    ("result", "written"),
    [
        ("text", "text"),
        ("", ""),
        (Color.RED, "red"),
        (None, "The tool returned nothing."),
        (True, "true"),
        (7, "7"),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        ([], "[]"),
        (["a", "b"], '["a","b"]'),
        (("ä", Mood.GOOD), '["ä","good"]'),
        (Report(title="T", when=datetime(2026, 1, 2)), '{"title":"T","when":"2026-01-02T00:00:00"}'),  # noqa: DTZ001 (users write this, too)
        ([Line("a", 2)], '[{"article":"a","count":2}]'),
        ({date(2026, 1, 2): {1}}, '{"2026-01-02":[1]}'),
        ([float("nan"), float("-inf")], '["NaN","-Infinity"]'),
        (b"bytes", '"bytes"'),
        ("\ud83d\ude00 \ud800", "😀 \ufffd"),
        (["\udcff", float("1")], '["\ufffd", 1.0]'),
        ({"type": "other"}, '{"type":"other"}'),
        ({"type": []}, '{"type":[]}'),
        ([{"type": "input_text", "text": "a"}, 5], '[{"type":"input_text","text":"a"},5]'),
    ],
    ids=ascii,
)
async def test_a_result_is_a_text_for_the_model(result: Any, written: str):
    assert await call(tool(lambda: result, name="f")) == written


async def test_parts_are_a_list_of_parts():
    picture = inputs.image("https://example.com/a.png")
    wanted = [{"type": "input_text", "text": "Look:"}, picture]
    assert await call(tool(lambda: ["Look:", picture], name="f")) == wanted
    assert await call(tool(lambda: (inputs.text("Look:"), picture), name="f")) == wanted
    assert await call(tool(lambda: picture, name="f")) == [picture]
    assert await call(tool(lambda: [inputs.text("\ud800")], name="f")) == [{"type": "input_text", "text": "\ufffd"}]


def knotted() -> list[Any]:
    knot: list[Any] = []
    knot.append(knot)
    return knot


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (Odd(), "Odd"),
        (b"\xff", "bytes"),
        (knotted(), "list"),
        ({"\ud800": 1}, "dict"),
        (["\ud800", float("nan")], "list"),
    ],
    ids=ascii,
)
async def test_a_result_that_cannot_be_written_says_so(result: Any, kind: str):
    with pytest.raises(ToolError, match=f"result, of type {kind}, cannot be written as JSON") as caught:
        await call(tool(lambda: result, name="f"))

    assert "Return a text" in str(caught.value)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.dates() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


@given(anything)
def test_whatever_comes_back_can_be_sent(result: Any):
    async def f() -> Any:
        return result

    try:
        written = asyncio.run(call(f))
    except ToolError:
        return

    json.dumps(written, allow_nan=False, ensure_ascii=False).encode()


# --- toolsets ---


def test_a_toolset_is_functions_tools_and_the_services_own():
    search = {"type": "web_search"}
    theirs = {"type": "function", "name": "theirs", "parameters": {"type": "object"}}
    made = tool(names)
    tools = Toolset([lookup, search, made, theirs])
    assert [each.get("name") for each in tools.definitions] == ["lookup", None, "names", "theirs"]
    assert tools.definitions[1] == search
    assert list(tools.by_name) == ["lookup", "names"]
    assert tools.by_name["names"] is made
    search["type"] = "changed"
    assert tools.definitions[1] == {"type": "web_search"}
    with pytest.raises(TypeError):
        tools.by_name["other"] = made


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([lookup, tool(names, name="lookup")], "2 tools have the name 'lookup'"),
        ([lookup, {"type": "function", "name": "lookup"}], "2 tools have the name 'lookup'"),
        ([lookup, {"type": "custom", "name": "lookup"}], "2 tools have the name 'lookup'"),
        ([{"type": "function"}], "None cannot be a tool's name"),
        ([{"name": "x"}], "has no type"),
        ([{"type": "x", "value": {1}}], "is no JSON"),
        ([{"type": "x", "value": float("nan")}], "is no JSON"),
        (["web_search"], "'web_search' is no tool"),
        ([None], "None is no tool"),
        (lookup, r"pass tools=\[lookup\]"),
        ({"type": "web_search"}, "Tools are a list"),
        ("web_search", "Tools are a list"),
    ],
    ids=str,
)
def test_a_toolset_that_cannot_be_right_is_refused(tools: Any, message: str):
    with pytest.raises(UsageError, match=message):
        Toolset(tools)
