"""All benchmarks, one after the other: `make bench` writes RESULTS.md and its plots.

make bench ARGS=--quick             that all of them run: small counts, and the report is only printed
make bench ARGS="streams polls"     only these, printed
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .measure import results_of
from .plots import draw
from .report import SECTIONS, report

HERE = Path(__file__).parent


def measure_all(names: list[str], quick: bool) -> dict[str, Any]:
    """Each in a process of its own, that starts with nothing: no benchmark pays for the garbage of another."""
    results: dict[str, Any] = {}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        for name in names:
            began = time.monotonic()
            results[name] = processes.submit(results_of, name, quick).result()
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="small counts, to see that it runs")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SECTIONS):
        parser.error(f"no benchmark is named {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")

    results = measure_all(options.names or list(SECTIONS), options.quick)
    if options.names or options.quick:
        with TemporaryDirectory() as folder:
            draw(results, Path(folder))

        print(report(results), end="")
        return

    draw(results, HERE / "plots")
    (HERE / "RESULTS.md").write_text(report(results), encoding="utf-8")


if __name__ == "__main__":
    main()
