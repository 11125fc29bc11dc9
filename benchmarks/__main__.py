"""All benchmarks, one after the other: `make bench`, or `make bench ARGS=--quick` to see that they run."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = ("bench_client", "bench_wire", "bench_store", "bench_polling")


def main() -> None:
    quick = "--quick" in sys.argv[1:]
    for name in BENCHMARKS:
        print(f"--- {name} ---\n", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if quick else [])], check=True)


if __name__ == "__main__":
    main()
