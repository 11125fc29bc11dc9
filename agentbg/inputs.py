"""What to ask with: texts, images and files, as parts of a message.

    from agentbg.inputs import file, image, user

    await agent.run(user("What do these show?", image("chart.png"), file("report.pdf")))

Parts and messages are plain data in the shape of the Responses API; what is missing here can be written as a dict
beside them. A local file is read at once, and travels within the request, which a store keeps, too.
"""

from __future__ import annotations

import base64
import json
import mimetypes
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from .core.model import JSON
from .core.requests import Answer
from .core.response import Message, item_text, read_message
from .errors import UsageError

Input = str | Message | JSON | Sequence["Message | JSON"]
"""A text, a message, or a list of messages or of raw items in the shape of the Responses API."""
Asked = str | Message | JSON | Answer | Sequence["Message | JSON | Answer"]
"""The same; or answers, made by the methods of a response's `requests`, to a run that waits for them."""
Source = str | Path | bytes
"""Bytes, or where they are: a path, a URL (http, https, data), or the id of a file at the service (`file-…`, `file_…`).
A text that is neither a URL nor an id is a path; a Path is always one."""

MAX_BYTES = 50_000_000
"""OpenAI takes files of less than 50 MB, and no more than that in one request."""

_STRICT = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_URL = re.compile(r"(?:https?|data):", re.IGNORECASE)
_FILE_ID = re.compile(r"file[-_][A-Za-z0-9]+")
_MAGIC: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"%PDF-"), "application/pdf"),
)
_IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})


def text(text: str) -> JSON:
    """A text as a part. In `user(…)` a bare text is one, too."""
    return {"type": "input_text", "text": text}


def image(source: Source, *, detail: Literal["low", "high", "auto", "original"] | None = None) -> JSON:
    """An image as a part: PNG, JPEG, GIF or WebP, told by its first bytes. `detail` says how closely to look at it.

    Raises UsageError for a file that is not there, too large, or another kind of image.
    """
    extra = {"detail": detail} if detail else {}
    if isinstance(source, str) and _FILE_ID.fullmatch(source):
        return {"type": "input_image", "file_id": source, **extra}

    if isinstance(source, str) and _URL.match(source):
        return {"type": "input_image", "image_url": source, **extra}

    data, name = _read(source)
    kind = _sniff(data)
    if kind not in _IMAGES:
        raise UsageError(f"{name or 'This'} is no PNG, JPEG, GIF or WebP image, and no other kind can be sent as one.")

    return {"type": "input_image", "image_url": _data_url(data, kind), **extra}


def file(source: Source, *, name: str | None = None) -> JSON:
    """A file as a part: a PDF, or what else the model reads. Its name, if not given, is that of its path.

    The media type is told by the first bytes, or else by the name. Raises UsageError for a file that is not there, too
    large, or of no known media type: a `name` with the right ending helps.
    """
    named = {"filename": name} if name else {}
    if isinstance(source, str) and _FILE_ID.fullmatch(source):
        return {"type": "input_file", "file_id": source, **named}

    if isinstance(source, str) and _URL.match(source):
        place = "file_data" if source[:5].lower() == "data:" else "file_url"
        return {"type": "input_file", place: source, **named}

    data, own_name = _read(source)
    name = name or own_name
    kind = _sniff(data) or mimetypes.guess_type(name or "")[0]
    if kind is None:
        raise UsageError(f"The media type of {name or 'these bytes'} is unknown: pass file(…, name=…) with its ending.")

    name = name or f"file{mimetypes.guess_extension(kind) or ''}"
    return {"type": "input_file", "filename": name, "file_data": _data_url(data, kind)}


def user(*parts: str | JSON) -> Message:
    """A message of the user."""
    return _message("user", parts)


def system(*parts: str | JSON) -> Message:
    """A message of the system: rules for the conversation."""
    return _message("system", parts)


def developer(*parts: str | JSON) -> Message:
    """A message of the developer: what newer models call the system's."""
    return _message("developer", parts)


def _message(role: str, parts: tuple[str | JSON, ...]) -> Message:
    if not parts:
        raise UsageError(f"The message is empty: pass {role}(…) a text, or parts such as image(…).")

    if len(parts) == 1 and isinstance(parts[0], str):
        return Message(role, parts[0])

    content = [_part(part) for part in parts]
    item = {"type": "message", "role": role, "content": content}
    return Message(role, item_text(item), item)


def _part(part: Any) -> JSON:
    if isinstance(part, str):
        return text(part)

    if isinstance(part, Mapping):
        return part  # pyright: ignore[reportUnknownVariableType] (JSON, as the caller wrote it)

    raise UsageError(f"{part!r:.80} is no part of a message: pass a text, or what text(), image() or file() give.")


def _read(source: Source) -> tuple[bytes, str | None]:
    """The bytes, and their name if they have one."""
    if isinstance(source, bytes):
        _check_size(len(source), "These bytes")
        return source, None

    path = Path(source)
    try:
        _check_size(path.stat().st_size, str(path))
        return path.read_bytes(), path.name
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read {str(path)!r:.200}: {getattr(error, 'strerror', None) or error}.") from error


def _check_size(size: int, what: str) -> None:
    if size >= MAX_BYTES:
        raise UsageError(
            f"{what}: {size / 1e6:.0f} MB is too large to send, the service takes less than {MAX_BYTES / 1e6:.0f} MB. "
            f"Upload it, and pass the file's id, or pass a URL."
        )

    if not size:
        raise UsageError(f"{what}: there is nothing in it.")


def _sniff(data: bytes) -> str | None:
    return next((kind for magic, kind in _MAGIC if magic.match(data)), None)


def _data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def read_answers(input: object) -> list[Answer] | None:
    """An input as answers to a run that waits; None for one that is no answer. An empty list is: go on."""
    if isinstance(input, Answer):
        return [input]

    items = cast("Sequence[object]", input) if isinstance(input, list | tuple) else [input]
    answers = [item for item in items if isinstance(item, Answer)]
    if answers and len(answers) < len(items):
        raise UsageError("Answers and other input cannot come together: first the answers, then the next run.")

    return answers if answers or not items else None


def read_input(input: Input) -> list[Message]:
    """An input as messages. Raises UsageError for an empty one, and for answers, which start no run."""
    if read_answers(input):
        raise UsageError(
            "Answers go to the run that waits for them: handle.respond(…), or agent.run(…) with its thread."
        )

    if isinstance(input, str):
        return [Message("user", input)]

    items = [input] if isinstance(input, (Message, Mapping)) else input
    messages = [item if isinstance(item, Message) else read_message(item) for item in items]
    if not messages:
        raise UsageError("The input is empty: pass a text, a message, or a list of at least one.")

    return messages


def require_json(value: Any) -> None:
    """Found before it is sent, since a start that breaks on its way could not be told from one that was lost."""
    try:
        _STRICT.encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"The request cannot be written as JSON: {error}. Use dictionaries, lists, texts that UTF-8 can carry, "
            f"finite numbers, booleans and None."
        ) from error
