"""What a docstring says of parameters, in the styles of Google, NumPy and Sphinx, and the text without it.

Own code, because a tool's description is all the rest of its docstring: the parsers that there are keep what they know
of it, and drop a section of notes. To be told apart, a section need only describe a parameter that there is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from inspect import cleandoc
from textwrap import dedent

_Found = tuple[int, dict[str, str]]
"""How many of the lines are about parameters, and what they say, by name."""

_TITLE = r"(?:Args|Arguments|Params|Parameters|(?:Keyword|Other) (?:Args|Arguments|Params|Parameters))"
_GOOGLE = re.compile(rf"{_TITLE}:\s*")
_GOOGLE_ENTRY = re.compile(r"\\?\*{0,2}(\w+)\s*(?:\(.*?\))?\s*:(?:\s+(.*))?")
_NUMPY = re.compile(rf"{_TITLE}\s*")
_NUMPY_ENTRY = re.compile(r"(\\?\*{0,2}\w+(?:\s*,\s*\\?\*{0,2}\w+)*)\s*(?::.*)?")
_UNDERLINE = re.compile(r"-{3,}\s*")
_SPHINX_FIELD = re.compile(
    r":(?P<kind>param|parameter|arg|argument|key|keyword|type|kwtype)\s+(?:[^:]*\s)?\\?\*{0,2}(?P<name>\w+):\s*(?P<text>.*)"
)


def read_docstring(docstring: str | None, names: Collection[str]) -> tuple[str, dict[str, str]]:
    """A docstring without what it says of the parameters of these names, and what it says of each."""
    lines = cleandoc(docstring or "").splitlines()
    rest: list[str] = []
    told: dict[str, str] = {}
    while lines:
        taken, said = _about(lines, names)
        told.update({name: text for name, text in said.items() if text and name in names})
        rest += [""] if taken else lines[:1]
        del lines[: taken or 1]

    return re.sub(r"\n{3,}", "\n\n", "\n".join(rest)).strip(), told


def _about(lines: Sequence[str], names: Collection[str]) -> _Found:
    """What begins here, in whichever style; nothing when it says nothing of these names."""
    for style in (_google, _numpy, _sphinx):
        taken, said = style(lines)
        if not said.keys().isdisjoint(names):
            return taken, said

    return 0, {}


def _google(lines: Sequence[str]) -> _Found:
    """A title with a colon, and all that is indented under it."""
    if not _GOOGLE.fullmatch(lines[0]):
        return 0, {}

    end = _indented(lines, 1)
    said: dict[str, str] = {}
    body = dedent("\n".join(lines[1:end])).splitlines()
    for at, line in enumerate(body):
        if entry := _GOOGLE_ENTRY.fullmatch(line):
            said[entry[1]] = _text(entry[2], body[at + 1 : _indented(body, at + 1)])

    return end, said


def _numpy(lines: Sequence[str]) -> _Found:
    """An underlined title, then entries: a line with names, and what is indented under it."""
    if len(lines) < 2 or not (_NUMPY.fullmatch(lines[0]) and _UNDERLINE.fullmatch(lines[1])):
        return 0, {}

    said: dict[str, str] = {}
    end = 2
    while end < len(lines) and not (end + 1 < len(lines) and _UNDERLINE.fullmatch(lines[end + 1])):
        entry = _NUMPY_ENTRY.fullmatch(lines[end])
        if lines[end] and not entry:
            break

        begin, end = end + 1, _indented(lines, end + 1)
        for name in re.findall(r"\w+", entry[1]) if entry else ():
            said[name] = _text(None, lines[begin:end])

    return end, said


def _sphinx(lines: Sequence[str]) -> _Found:
    """One field: its line, and what is indented under it. A field that gives a type says nothing new."""
    field = _SPHINX_FIELD.fullmatch(lines[0])
    if not field:
        return 0, {}

    end = _indented(lines, 1)
    text = "" if field["kind"].endswith("type") else _text(field["text"], lines[1:end])
    return end, {field["name"]: text}


def _indented(lines: Sequence[str], begin: int) -> int:
    """Where the indented lines from `begin` end. Blank lines belong to them when more follow."""
    end = begin
    for at in range(begin, len(lines)):
        if lines[at].startswith((" ", "\t")) and lines[at].strip():
            end = at + 1
        elif lines[at].strip():
            break

    return end


def _text(first: str | None, more: Sequence[str]) -> str:
    return "\n".join([first or "", *dedent("\n".join(more)).splitlines()]).strip()
