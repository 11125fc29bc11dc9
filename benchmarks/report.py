"""The report: each benchmark's results as text, in the order in which they are read."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from textwrap import fill
from typing import Any

from . import (
    bench_delay,
    bench_fleet,
    bench_journal,
    bench_polling,
    bench_polls,
    bench_resume,
    bench_scale,
    bench_store,
    bench_streams,
    bench_wire,
)
from .measure import MICRO, ROUNDS, Comparison, Figure
from .polling import POLL_COST

PACKAGES = (
    "agentbg",
    "openai",
    "aiohttp",
    "httpx2",
    "pydantic",
    "agent-framework-openai",
    "agent-framework-core",
    "pydantic-ai-slim",
)
WIDTH = 128
INTRODUCTION = """# Results

Made by `make bench`; every number and every plot is the script's. CPU is that of the client's process, all its
threads; servers are processes of their own on the same machine. Figures are medians of {rounds} rounds in which the
ways take turns; percentiles are of all rounds' events together. Take the ratios, not the microseconds: they are of one
run, on one machine. "1/8" is an eighth of the first way of the table. "Asked" is what the project set itself."""


def report(results: Mapping[str, Any]) -> str:
    """All sections whose benchmark was run."""
    parts = [INTRODUCTION.format(rounds=ROUNDS), machine()]
    parts += [write(results[name]) for name, write in SECTIONS.items() if name in results]
    return "\n\n".join(filled(paragraph) for part in parts for paragraph in part.split("\n\n")) + "\n"


def machine() -> str:
    rows = [["machine", f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"]]
    rows += [["Python", f"{platform.python_implementation()} {platform.python_version()}"]]
    rows += [["SQLite", sqlite3.sqlite_version]]
    return table(["", ""], rows + [[name, version(name)] for name in PACKAGES], "<<")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"

    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


# --- sections ---


def streams(results: bench_streams.Results) -> str:
    replay, live = results.replay, results.live
    rows = [
        [way, number(replay.median(way)), *against(replay, way), number(live.median(way)), *against(live, way)]
        for way in replay.values
    ]
    head = ["", "replay, µs", "ratio", "asked", "live, µs", "ratio", "asked"]
    once, many = results.replayed, results.lived
    return f"""## Streams: CPU per text event

All ways read the same background runs by the same request, `GET /responses/{{id}}?stream=true`, which the bare SDK
calls `client.responses.retrieve(id, stream=True)`. Replay: one finished run of {once.deltas:,} deltas, many in a chunk.
Live: {many.streams} runs at once, {many.deltas} deltas each, {1 / many.delay:.0f} a second, each in its own packet.
Connections are included. What comes through a handle is numbered, resumable, and in the journal before it is seen,
unless the table says otherwise.

{table(head, rows)}

{picture("cpu_per_event", "CPU per text event, by way")}"""


def resume(results: bench_resume.Results) -> str:
    cuts = {"broken": "connection breaks", "ended": "stream ends as if all were well"}
    rows = [
        [each.way, cuts[each.cut], number(each.told), number(each.repeated), number(each.missing), fate(each)]
        for each in results.outcomes
    ]
    return f"""## Streams: what a reader sees of a cut

A run of {len(bench_resume.WORDS)} words, cut once after half of them. Each way goes on as its documentation has it;
the bare SDK with a cursor that its user keeps, and a loop that its user writes. agent-framework resumes without a
cursor, and so shows the first half again. pydantic-ai cancels the run when its connection breaks.

{table(["", "cut", "words shown", "shown twice", "missing", "run"], rows, "<<>>><")}"""


def fate(outcome: bench_resume.Outcome) -> str:
    return "cancelled" if outcome.cancelled else "goes on"


def delay(results: bench_delay.Results) -> str:
    some, many = results.some[0].streams, results.many[0].streams
    floor = results.some[0]
    added = [
        Figure(f"{each.way}, {at}", each.percentile(percent) - floor.percentile(percent), "ms", goal)
        for each in results.some[1:]
        for at, percent, goal in (("p50", 50, 0.3), ("p99", 99, 3.0))
    ]
    return f"""## Streams: delay

Each event carries the time at which it was sent. The bare reader is aiohttp, one split of lines and one `json.loads`
per event. The reader keeps to one core. Connections are made before the first event. {bench_delay.RATE:.0f} events a
second per stream.

{delays(results.some)}

What agentbg adds at {some * bench_delay.RATE:,.0f} events a second:

{figures(added)}

{picture("delay", "How many events come later than so many milliseconds")}

### {many} streams at once

{many * bench_delay.RATE:,.0f} events a second, all in one process on one core.

{delays(results.many)}"""


def delays(ways: Sequence[bench_delay.Delays]) -> str:
    head = ["", "streams", "events", "lost", "p50, ms", "p90", "p99", "p99.9", "CPU of one core"]
    rows = [
        [
            each.way,
            number(each.streams),
            number(each.sent),
            number(each.dropped),
            *(number(each.percentile(percent)) for percent in (50, 90, 99, 99.9)),
            f"{each.cpu:.0%}",
        ]
        for each in ways
    ]
    return table(head, rows)


def polls(results: bench_polls.Results) -> str:
    rows = [[way, number(results.polls.median(way)), *against(results.polls, way)] for way in results.polls.values]
    return f"""## Polling: CPU per poll

{bench_polls.RUNS} runs, each polled every {bench_polls.INTERVAL * 1000:.0f} ms, by the loop that people write (`await
client.responses.retrieve(id)`, `asyncio.sleep`), by peers, and by the whole runtime.

{table(["", "µs per poll", "ratio", "asked"], rows)}

{picture("cpu_per_poll", "CPU per poll, by way")}"""


def polling(results: bench_polling.Results) -> str:
    rows = [
        [
            f"{each.workload}, {each.policy}",
            number(each.polls),
            number(each.delay),
            number(each.p95 or 0.0),
            number(each.cost),
            f"{results.ratio(each):.2f}",
        ]
        for each in sorted([*results.points, *results.optima], key=lambda point: point.workload)
    ]
    learned = [each for each in results.points if each.learned == 100]
    asked = [
        Figure(f"{each.workload}: cost above the optimum's, after 100 runs", 100 * results.ratio(each) - 100, "%", 8)
        for each in learned
    ]
    fixed, adaptive, best = results.match.fixed, results.match.adaptive, results.match.optimum
    asked += [
        Figure("W2: polls at the mean delay of fixed 2 s, of fixed's", 100 * adaptive.polls / fixed.polls, "%", 55),
        Figure("the optimum's", 100 * best.polls / fixed.polls, "%"),
        Figure("CPU to learn from a poll, and to decide on the next", results.decision * MICRO, "µs"),
    ]
    head = ["", "polls per run", "mean delay, s", "p95, s", "cost, s", "of the optimum's"]
    return f"""## Polling: when to poll

A simulation in virtual time that drives the library's own policies: {results.runs:,} runs per row, and
{results.seeds} seeds of what was learned. W1: lognormal, median 60 s, sigma 1. W2: 80 % chats (median 8 s, sigma 0.7)
and 20 % deep research (median 600 s, sigma 0.6). Cost is {POLL_COST} s per poll, and the mean delay. The exact optimum
is computed by dynamic programming, from the true distribution, which no policy knows.

{table(head, rows)}

What adaptive makes of 100 finished runs:

{figures(asked)}

{picture("polls_against_delay", "Polls per run against mean delay on W2: policies, and the exact optimum")}"""


def fleet(results: bench_fleet.Results) -> str:
    load = results.load
    head = ["", "polls per run", "mean delay, s", "p95, s", "cost, s", "CPU, s"]
    rows = [
        [
            each.way,
            number(each.polls_per_run),
            number(each.mean_delay),
            number(each.late),
            number(each.cost),
            "" if each.cpu is None else number(each.cpu),
        ]
        for each in results.outcomes
    ]
    return f"""## Polling: side by side in real time

{len(load.lengths)} runs on the local server, 80 % chats (median 8 s) and 20 % deep research (median 600 s), as W2
above. The clocks of the event loops run {load.factor:.1f} times as fast as others, so that the longest run, of
{max(load.lengths):,.0f} s, takes {max(load.lengths) / load.factor:.0f}. All ways go by their own intervals in that
time; what a request takes, and the CPU, are real, and so count {load.factor:.1f} times in a delay. Delays are from a
run's end at the service to when its user sees it. Cost is {POLL_COST} s per poll, and the mean delay. CPU
is of the client's process, for all runs; agentbg's ways share one.

{table(head, rows)}

The rings in the plot above are these."""


def scale(results: bench_scale.Results) -> str:
    return f"""## Scale

agentbg's own share: the service is in this process, and answers at once. Memory per handle is the growth of the
process; a handle's run has its record in a MemoryStore.

{figures(results.figures)}"""


def journal(results: bench_journal.Results) -> str:
    rows = [
        [each.store, each.journal, number(each.live), number(each.p50), number(each.p99), number(each.replay)]
        for each in results.rows
    ]
    head = ["", "journal", "live, µs per update", "p50, ms", "p99, ms", "replay, µs per update"]
    return f"""## Journals

What each way of keeping a stream's updates costs, of the CPU of both threads, with nothing else at work. Live:
{bench_journal.RUNS} runs, {bench_journal.RATE:.0f} updates a second each, one at a time; the delay is until consumers
are told. Replay: one run of {bench_journal.REPLAYED:,} updates, {bench_journal.TOGETHER} at a time.

{table(head, rows, "<<>>>>")}"""


def store(results: bench_store.Results) -> str:
    rows = [
        [each.kind, number(each.writers), each.size, number(each.rate), number(each.grouped)] for each in results.rows
    ]
    return f"""## Stores

Saves of one record with one update each; every writer waits for its write before the next. "Durable": the disk has it
when `save` returns. The last rows: one writer alone, and runs with a long conversation as their input.

{table(["", "writers", "input", "updates a second", "updates per commit"], rows)}"""


def wire(results: bench_wire.Results) -> str:
    rows = [
        [each.name, way, number(each.median(way)), ratio(each.ratio(way))]
        for each in results.comparisons
        for way in each.values
    ]
    return f"""## The provider alone

What `OpenAIResponses` takes of the figures above, over the SDK and over its own wire, with no runtime; per poll, and
per event of any kind.

{table(["", "", "µs", "ratio"], rows, "<<>>")}

{figures(results.bytes_alone)}"""


SECTIONS: dict[str, Callable[[Any], str]] = {
    "streams": streams,
    "resume": resume,
    "delay": delay,
    "polls": polls,
    "polling": polling,
    "fleet": fleet,
    "scale": scale,
    "journal": journal,
    "store": store,
    "wire": wire,
}

# --- words ---


def number(value: float) -> str:
    """Three digits or more."""
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"

    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(value: float) -> str:
    """As a fraction, when it is one."""
    if 0.995 < value < 1.005:
        return "1"

    return f"1/{1 / value:.1f}" if value < 1 else f"{value:.2f}"


def against(comparison: Comparison, way: str) -> tuple[str, str]:
    """The ratio of a way, and what was asked for."""
    measured, goal = comparison.ratio(way), comparison.goals.get(way)
    return ratio(measured), "" if goal is None else f"1/{1 / goal:.0f}, {met(measured, goal)}"


def met(value: float, goal: float) -> str:
    return "met" if value <= goal else "not met"


def figures(rows: Sequence[Figure]) -> str:
    head = ["", "measured", "asked"]
    return table(
        head,
        [
            [
                each.name,
                f"{number(each.value)} {each.unit}",
                "" if each.goal is None else f"{each.goal:g} {each.unit}, {met(each.value, each.goal)}",
            ]
            for each in rows
        ],
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str | None = None) -> str:
    """A table; by default with the first column to the left and the others to the right."""
    align = align or "<" + ">" * (len(head) - 1)
    rule = ["---" if side == "<" else "---:" for side in align]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def filled(paragraph: str) -> str:
    """Prose in lines of a length; all else as it is."""
    return (
        paragraph if paragraph[0] in "#|!" else fill(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)
    )


def picture(name: str, what: str) -> str:
    return f"![{what}](plots/{name}.svg)"
