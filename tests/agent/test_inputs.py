"""Texts, images and files as parts of a message."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import background, served

from agentbg import Message, UsageError, inputs
from agentbg.inputs import developer, file, image, system, text, user
from agentbg.testing.server import Script

PNG = b"\x89PNG\r\n\x1a\n rest"
IMAGES = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0 rest",
    "image/gif": b"GIF89a rest",
    "image/webp": b"RIFF\n\x00\x00\x00WEBPVP8 rest",
}
PDF = b"%PDF-1.7 rest"


def url_of(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


# --- parts ---


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_is_told_by_its_first_bytes_whatever_its_name(kind: str, tmp_path: Path):
    path = tmp_path / "picture.txt"
    path.write_bytes(IMAGES[kind])
    part = {"type": "input_image", "image_url": url_of(kind, IMAGES[kind])}
    assert image(IMAGES[kind]) == image(path) == image(str(path)) == part


@pytest.mark.parametrize("url", ["https://a.test/x.png", "HTTP://a.test/x", "data:image/png;base64,AAAA"])
def test_a_url_goes_as_it_is(url: str):
    assert image(url, detail="low") == {"type": "input_image", "image_url": url, "detail": "low"}
    place = "file_data" if url.startswith("data:") else "file_url"
    assert file(url) == {"type": "input_file", place: url}
    assert file(url, name="a.pdf") == {"type": "input_file", place: url, "filename": "a.pdf"}


@pytest.mark.parametrize("id", ["file-abc123", "file_0a1B"])
def test_the_id_of_a_file_at_the_service_goes_as_it_is(id: str):
    assert image(id) == {"type": "input_image", "file_id": id}
    assert file(id) == {"type": "input_file", "file_id": id}


def test_a_path_that_looks_like_an_id_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("file_1").write_bytes(PDF)
    assert file(Path("file_1")) == {
        "type": "input_file",
        "filename": "file_1",
        "file_data": url_of("application/pdf", PDF),
    }


@pytest.mark.parametrize(
    ("data", "name", "kind", "sent"),
    [
        (PDF, None, "application/pdf", "file.pdf"),
        (PDF, "report", "application/pdf", "report"),
        (b"a,b", "table.csv", "text/csv", "table.csv"),
        (b"Hello", "notes.txt", "text/plain", "notes.txt"),
        (PNG, None, "image/png", "file.png"),
    ],
)
def test_a_files_media_type_is_told_by_its_bytes_or_else_by_its_name(
    data: bytes, name: str | None, kind: str, sent: str, tmp_path: Path
):
    assert file(data, name=name) == {"type": "input_file", "filename": sent, "file_data": url_of(kind, data)}
    if name is not None:
        path = tmp_path / name
        path.write_bytes(data)
        assert file(path) == file(str(path)) == file(data, name=name)
        assert file(path, name="x.html")["filename"] == "x.html"


@given(st.binary(min_size=1))
def test_any_bytes_are_sent_whole_or_refused(data: bytes):
    for make in (image, file):
        try:
            part = make(PNG + data)
        except UsageError:
            continue

        url = part.get("image_url") or part["file_data"]
        assert base64.b64decode(url.partition(",")[2]) == PNG + data


# --- what cannot be sent ---


@pytest.mark.parametrize("make", [image, file])
@pytest.mark.parametrize("source", ["nowhere.png", "", "a\0b", "x" * 5000, Path("nowhere.png"), "."], ids=str)
def test_a_file_that_cannot_be_read_is_told(make: Any, source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="Cannot read") as caught:
        make(source)

    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("make", [image, file])
def test_nothing_and_too_much_are_told(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inputs, "MAX_BYTES", 100)
    path = tmp_path / "large.png"
    path.write_bytes(PNG.ljust(100))
    for source in (path, PNG.ljust(100)):
        with pytest.raises(UsageError, match=r"too large.* id"):
            make(source)

    assert make(PNG.ljust(99))
    path.write_bytes(b"")
    for source in (path, b""):
        with pytest.raises(UsageError, match="nothing in it"):
            make(source)


@pytest.mark.parametrize("data", [b"BM bitmap", b"<svg/>", PDF, b"RIFF....WAVE", b"\x89PNG"])
def test_what_is_no_image_is_told(data: bytes):
    with pytest.raises(UsageError, match="no PNG, JPEG, GIF or WebP"):
        image(data)


def test_a_file_of_no_known_media_type_is_told(tmp_path: Path):
    path = tmp_path / "mystery"
    path.write_bytes(b"\x00\x01")
    with pytest.raises(UsageError, match="name="):
        file(b"\x00\x01")

    with pytest.raises(UsageError, match="mystery"):
        file(path)


@pytest.mark.parametrize("part", [7, None, b"bytes", Path("a.png"), Message("user", "x")], ids=repr)
def test_what_is_no_part_is_told(part: Any):
    with pytest.raises(UsageError, match="image"):
        user("Look:", part)


def test_a_message_of_nothing_is_told():
    with pytest.raises(UsageError, match="empty"):
        user()


# --- messages ---


def test_a_message_of_one_text_is_the_message_that_it_was():
    assert user("Hello") == Message("user", "Hello")
    assert [system("x").role, developer("x").role] == ["system", "developer"]


def test_a_messages_text_is_that_of_its_text_parts():
    message = user("What is ", text("this?"), image("https://a.test/x.png"))
    assert (message.role, message.text) == ("user", "What is this?")
    assert [part["type"] for part in message.item["content"]] == ["input_text", "input_text", "input_image"]


async def test_parts_are_sent_as_they_are_and_stay_in_the_thread():
    raw = {"type": "item_reference", "id": "msg_1"}
    question = user("Compare:", image(PNG), file("file-1"), {"type": "input_audio", "input_audio": {}})
    async with served(Script.text("Same.")) as (server, agent):
        thread = agent.get_new_thread()
        await agent.run([developer("Be brief."), question, raw], thread, background())
        assert server.requests[0].json["input"] == [developer("Be brief.").item, question.item, raw]
        assert [message.text for message in thread.messages][:2] == ["Be brief.", "Compare:"]
