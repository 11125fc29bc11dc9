"""What may happen in random lives, as data, and how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

from hypothesis import strategies as st

from agentbg import AuthenticationFailed, RequestRejected, RunNotFound, ServiceUnavailable, StreamRefused
from agentbg.providers.base import Cap, Resume
from agentbg.testing import At, RunScript
from agentbg.testing.provider import ALL_CAPS
from agentbg.testing.script import approval, function_call

MAX_AGE = 600.0


@dataclass(frozen=True)
class Step:
    at: float
    kind: str
    which: int
    """Which of the runs, handles or tokens that there are."""
    number: int
    """A seq to begin after, how many updates to take, or what to answer."""
    seconds: float
    """A time-out, or a pause."""
    cancelled_after: float | None


@dataclass(frozen=True)
class Life:
    length: float | None
    """None for one that ends right after its last step."""
    steps: list[Step]
    entering_cancelled: float | None
    closing_cancelled: float | None


@dataclass(frozen=True)
class Program:
    scripts: list[RunScript | list[RunScript]]
    caps: Cap
    resume: Resume
    latency: float
    cancel_delay: float | None
    faults: list[tuple[str, tuple[Any, ...], dict[str, Any]]]
    on_disk: bool
    delays: list[float]
    refused: frozenset[int]
    stubborn: bool
    lives: list[Life]
    in_flight: int
    seed: int
    modes: list[dict[str, str]]
    """How each runtime, one after the other, keeps the journals of its runs."""


MOMENTS = st.one_of(
    st.sampled_from([0.0, 0.01, 0.5, 1.0, 2.0, 5.0, 10.0, 12.0]), st.floats(0, 40).map(lambda at: round(at, 2))
)
DELAYS = st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.5, 3.0])
CALLS = st.integers(1, 6)
ENDS = st.one_of(
    st.builds(
        RunScript.text,
        st.sampled_from(["", "Hello", "a long story about a run"]),
        seconds=st.sampled_from([0.0, 1.0, 10.0, 90.0]),
        deltas=st.integers(1, 8),
    ),
    st.sampled_from(
        [
            RunScript.failed(after="part"),
            RunScript.incomplete("part of it"),
            RunScript.endless("no end"),
            RunScript.text("draft", end=At(0, status="completed", text="another answer")),
        ]
    ),
)
TOOLS = ("look", "look", "book", "book", "refund", "hang", "break", "end", "unknown", "server")
"""What a model may call: the agent's tools, one that it has not, and one of an MCP server."""
SECONDS = st.sampled_from([0.0, 0.5, 3.0, 25.0])


def ask(tool: str, seconds: float, call_id: str):
    if tool == "server":
        return approval("server", id=call_id)

    return function_call(tool, {"seconds": seconds}, call_id=call_id)


def dialogue(rounds: list[tuple[str, float, list[tuple[str, float]]]], end: RunScript) -> list[RunScript]:
    """A run of several rounds; no two of its calls have the same id."""
    scripts: list[RunScript] = []
    for number, (text, seconds, tools) in enumerate(rounds):
        items = [ask(tool, takes, f"call_{number}_{place}_{tool}") for place, (tool, takes) in enumerate(tools)]
        said = RunScript.text(text, seconds=seconds, deltas=3)
        calls = [At(seconds, item=item) for item in items]
        scripts.append(said.then(*calls, At(seconds, status="input_required")))

    return [*scripts, end]


ROUND = st.tuples(
    st.sampled_from(["", "Let me see. "]),
    st.sampled_from([0.0, 1.0, 10.0]),
    st.lists(st.tuples(st.sampled_from(TOOLS), SECONDS), min_size=1, max_size=3),
)
SCRIPTS = st.one_of(
    ENDS,
    st.builds(lambda seconds: [RunScript.asks(seconds=seconds), RunScript.text("so")], st.sampled_from([0.0, 5.0])),
    st.builds(dialogue, st.lists(ROUND, min_size=1, max_size=4), ENDS),
    st.builds(dialogue, st.lists(ROUND, min_size=1, max_size=4), ENDS),
)
ERRORS = st.sampled_from(
    [
        ServiceUnavailable("503"),
        ServiceUnavailable("429", retry_after=2.0, unsent=True),
        RunNotFound("404"),
        AuthenticationFailed("401"),
        RequestRejected("400"),
        StreamRefused("not streamed"),
    ]
)
METHODS = st.sampled_from(["start", "open", "poll", "attach", "cancel", "answer", "answer"])
TIMES = st.sampled_from([1, 1, 2, 8])


def fault(name: str, *args: st.SearchStrategy, **options: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(st.just(name), st.tuples(*args), st.fixed_dictionaries(options))


FAULTS = st.one_of(
    fault("fail", METHODS, ERRORS, call=CALLS, times=TIMES),
    fault("lose", st.sampled_from(["start", "open", "poll", "cancel", "answer", "answer"]), call=CALLS),
    fault("lose", st.just("answer"), call=st.integers(1, 2)),
    fault("fail", st.just("answer"), ERRORS, call=st.integers(1, 2), times=TIMES),
    fault("delay", METHODS, st.sampled_from([0.5, 20.0, inf]), call=CALLS, times=TIMES),
    fault("cut", st.integers(0, 6), st.none() | ERRORS, call=CALLS, times=TIMES),
    fault("stall", st.integers(0, 6), call=CALLS),
    fault("repeat", st.integers(1, 6), call=CALLS),
    fault("double", call=CALLS, times=TIMES),
)
KINDS = st.sampled_from(
    [
        "submit",
        "submit",
        "stream",
        "stream",
        "elsewhere",
        "get",
        "list",
        "resume",
        "resume",
        "read",
        "read",
        "read",
        "result",
        "wait",
        "respond",
        "respond",
        "respond",
        "talk",
        "talk",
        "cancel",
        "cancel",
        "steal",
        "speak",
        "speak",
    ]
)
STEPS = st.builds(
    Step, MOMENTS, KINDS, st.integers(0, 3), st.integers(0, 6), MOMENTS, st.one_of(st.none(), st.none(), MOMENTS)
)
BEGINNINGS = st.builds(
    Step,
    st.just(0.0),
    st.sampled_from(["submit", "stream", "list"]),
    st.just(0),
    st.integers(0, 6),
    st.just(0.0),
    st.none(),
)
LIVES = st.builds(
    Life,
    st.one_of(MOMENTS, st.none(), st.none(), st.just(45.0), st.just(2 * MAX_AGE)),
    st.tuples(st.lists(BEGINNINGS, max_size=3), st.lists(STEPS, min_size=4, max_size=16)).map(
        lambda steps: sorted([*steps[0], *steps[1]], key=lambda step: step.at)
    ),
    st.one_of(st.none(), st.none(), MOMENTS),
    st.one_of(st.none(), st.none(), MOMENTS),
)
CAPS = st.sampled_from(
    [
        ALL_CAPS,
        ALL_CAPS & ~Cap.RESPOND,
        ALL_CAPS & ~Cap.RESPOND,
        ALL_CAPS & ~Cap.RESPOND & ~Cap.PREVIOUS,
        ALL_CAPS & ~Cap.RESPOND & ~Cap.STREAM_START,
        ALL_CAPS & ~Cap.RESPOND & ~Cap.PARTIAL_ON_POLL,
        ALL_CAPS & ~Cap.RESPOND | Cap.IDEMPOTENT_START,
        ALL_CAPS | Cap.IDEMPOTENT_START,
    ]
)
MODES = st.sampled_from(
    [{}, {}, {"flush": "pipelined"}, {"flush": "pipelined"}, {"journal": "checkpoint"}, {"journal": "off"}]
)
PROGRAMS = st.builds(
    Program,
    scripts=st.lists(SCRIPTS, min_size=1, max_size=3),
    caps=CAPS,
    resume=st.sampled_from([Resume.CURSOR, Resume.CURSOR, Resume.LOG, Resume.SNAPSHOT, Resume.NONE]),
    latency=st.sampled_from([0.0, 0.1, 2.0]),
    cancel_delay=st.sampled_from([0.0, 3.0, None]),
    faults=st.lists(FAULTS, max_size=4),
    on_disk=st.sampled_from([False] * 11 + [True]),
    delays=st.lists(DELAYS, min_size=1, max_size=5),
    refused=st.one_of(st.just(frozenset()), st.frozensets(st.integers(1, 40), max_size=3)),
    stubborn=st.booleans(),
    lives=st.lists(LIVES, min_size=1, max_size=3),
    in_flight=st.sampled_from([1, 32]),
    seed=st.integers(0, 9),
    modes=st.lists(MODES, min_size=1, max_size=3),
)
