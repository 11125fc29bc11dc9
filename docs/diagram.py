"""Draw the run machine's table as a mermaid state diagram: `python docs/diagram.py` prints it, `--write` puts it into
ARCHITECTURE.md, between its two markers."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agentbg.core.states import TABLE, Action, Phase  # noqa: E402 -- the sources beside this file, installed or not

DOCUMENT = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- state diagram: begin -->", "<!-- state diagram: end -->"


def diagram() -> str:
    """The table in mermaid's words. Signals that lead the same way with the same action share an arrow."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.STARTING}"]
    for phase, row in TABLE.items():
        arrows: dict[tuple[Phase, Action], list[str]] = {}
        for signal, way in row.items():
            arrows.setdefault(way, []).append(signal)

        for (target, action), signals in arrows.items():
            does = f" / {action}" if action else ""
            lines.append(f"    {phase} --> {target}: {' or '.join(signals)}{does}")

    return "\n".join([*lines, f"    {Phase.DONE} --> [*]"])


def written_into(text: str) -> str:
    """The document with the diagram of today between its markers. Raises ValueError when it lacks them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT.name} lacks the lines {BEGIN} and {END}.")

    return f"{before}{BEGIN}\n```mermaid\n{diagram()}\n```\n{END}{after}"


def main() -> None:
    """Print the diagram, or write it into the document."""
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(written_into(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        sys.stdout.write(diagram() + "\n")


if __name__ == "__main__":
    main()
