"""The plots: small SVGs, the same bytes from the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from . import bench_delay, bench_fleet, bench_polling, bench_polls, bench_streams
from .measure import Comparison

OURS, OTHERS, FLOOR = "#2563eb", "#868e9b", "#111827"
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "agentbg",  # the same names in each file
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": OTHERS,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
LEFT_OUT = ("agentbg adaptive after 30 runs", "agentbg adaptive, learning as it goes")
"""Of the policies: they lie where adaptive after 100 runs does."""
POINTS = 100
"""Of a curve."""


def draw(results: Mapping[str, Any], folder: Path) -> None:
    """Write the plots of what was measured."""
    folder.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, (plot, needed) in PLOTS.items():
            if all(each in results for each in needed):
                figure = plot(*(results[each] for each in needed))
                figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")


def cpu_per_event(results: bench_streams.Results) -> Figure:
    figure = Figure(figsize=(9, 0.4 * len(results.replay.values) + 1))
    left, right = figure.subplots(1, 2, sharey=True)
    bars(left, results.replay, "CPU per text event, replay, µs")
    bars(right, results.live, f"live, {results.lived.streams} streams, µs")
    left.invert_yaxis()
    figure.tight_layout()
    return figure


def cpu_per_poll(results: bench_polls.Results) -> Figure:
    figure = Figure(figsize=(6.5, 0.4 * len(results.polls.values) + 1))
    axes = figure.subplots()
    bars(axes, results.polls, "CPU per poll, µs")
    axes.invert_yaxis()
    return figure


def bars(axes: Axes, comparison: Comparison, title: str) -> None:
    ways = list(comparison.values)
    medians = [comparison.median(way) for way in ways]
    drawn = axes.barh(ways, medians, color=[colour(way) for way in ways], height=0.7)
    axes.bar_label(drawn, [f"{median:,.0f}" for median in medians], padding=3)
    axes.set_title(title)
    axes.set_xlim(0, max(medians) * 1.15)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(left=False)


def delay(results: bench_delay.Results) -> Figure:
    """How many events come later than so many milliseconds."""
    figure = Figure(figsize=(6.5, 3.6))
    axes = figure.subplots()
    for each, style in zip(results.some, cycle(("-", "--", ":", "-.")), strict=False):
        share, late = tail(each.milliseconds)
        axes.loglog(late, share, style, label=each.way, color=colour(each.way, floor="bare aiohttp"))

    axes.set_title(f"Events later than so many ms, at {results.some[0].streams * bench_delay.RATE:,.0f} a second")
    axes.set_xlabel("delay, ms")
    axes.set_ylabel("share of the events")
    plain(axes)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share * 100:g} %")
    axes.legend()
    return figure


def tail(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Of some values: the share that is above, and the value."""
    ordered = sorted(values)
    shares = [(1 / len(ordered)) ** (place / (POINTS - 1)) for place in range(POINTS)]
    return shares, [ordered[min(int(len(ordered) * (1 - share)), len(ordered) - 1)] for share in shares]


def polls_against_delay(simulated: bench_polling.Results, measured: bench_fleet.Results) -> Figure:
    """The plot that says it all: one point per policy, and the best that there can be. Rings are real time."""
    figure = Figure(figsize=(8, 5.5))
    axes = figure.subplots()
    curves = (("exact optimum", simulated.curve, FLOOR, "-"), ("agentbg adaptive", simulated.adaptive, OURS, "--"))
    for label, points, shade, style in curves:
        on_w2 = [(point.delay, point.polls) for point in points if point.workload == "W2"]
        axes.plot(*zip(*on_w2, strict=True), style, color=shade, label=label)

    for each in simulated.points:
        if each.workload == "W2" and each.policy not in LEFT_OUT:
            axes.plot(each.delay, each.polls, "o", color=colour(each.policy))
            tag(axes, each.policy, each.delay, each.polls)

    for each in measured.outcomes:
        axes.plot(each.mean_delay, each.polls_per_run, "o", markersize=9, fillstyle="none", color=colour(each.way))
        if each.way not in ("agentbg, exponential", "agentbg, adaptive"):  # they lie near the simulated ones
            tag(axes, each.way, each.mean_delay, each.polls_per_run, below=9)

    axes.plot([], [], "o", markersize=9, fillstyle="none", color=OTHERS, label="the same ways in real time")
    axes.set(xscale="log", yscale="log", xlabel="mean delay, s", ylabel="polls per run")
    axes.set_title("Polls per run against mean delay, 80 % chats and 20 % deep research")
    plain(axes)
    axes.legend()
    return figure


def tag(axes: Axes, name: str, delay: float, polls: float, below: float = 3) -> None:
    place = (8, 8 if "exponential (the" in name else -below)
    axes.annotate(name, (delay, polls), xytext=place, textcoords="offset points", fontsize=8, color=colour(name))


def plain(axes: Axes) -> None:
    """Plain numbers at logarithmic axes."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def colour(way: str, floor: str = "bare SDK") -> str:
    return OURS if way.startswith("agentbg") else FLOOR if way.startswith(floor) else OTHERS


PLOTS: dict[str, tuple[Callable[..., Figure], Sequence[str]]] = {
    "cpu_per_event": (cpu_per_event, ("streams",)),
    "cpu_per_poll": (cpu_per_poll, ("polls",)),
    "delay": (delay, ("delay",)),
    "polls_against_delay": (polls_against_delay, ("polling", "fleet")),
}
