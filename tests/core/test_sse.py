from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbg.core import sse
from agentbg.core.sse import EventDecoder, read_blocks, read_data

ENDINGS = (b"\n", b"\r\n", b"\r")


def decode(*chunks: bytes) -> list[bytes]:
    decoder = EventDecoder()
    return [read_data(block) for chunk in chunks for block in read_blocks(decoder.feed(chunk))]


lines = st.one_of(
    st.binary(max_size=12).map(lambda data: b"data: " + data),
    st.sampled_from([b"data:x", b"data:", b"data", b": ping", b"event: keepalive", b"id: 7", b"data:  2", b"\xff"]),
).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b""))
events = st.lists(st.tuples(lines, st.sampled_from(ENDINGS)), min_size=1, max_size=4)
streams = st.lists(st.tuples(events, st.sampled_from(ENDINGS)), max_size=5).map(
    lambda stream: b"".join(b"".join(line + end for line, end in event) + empty for event, empty in stream)
)


@given(streams, st.data())
def test_any_split_of_a_stream_gives_the_same_events(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    chunks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decode(*chunks) == decode(stream)


@given(streams)
def test_single_bytes_give_the_same_events(stream: bytes) -> None:
    assert decode(*(stream[at : at + 1] for at in range(len(stream)))) == decode(stream)


@pytest.mark.parametrize("end", ENDINGS)
@pytest.mark.parametrize("empty", ENDINGS)
def test_all_line_endings_end_lines_and_events(end: bytes, empty: bytes) -> None:
    if (end, empty) == (b"\r", b"\n"):
        return  # CR and LF together are one line ending

    event = b"event: a" + end + b"data: 1" + end + empty
    assert decode(event * 3) == [b"1"] * 3


def test_data_lines_are_joined_and_one_leading_space_is_dropped() -> None:
    assert decode(b"data: a\ndata:b\ndata:  c\n\n") == [b"a\nb\n c"]


def test_a_comment_is_a_sign_of_life_without_data() -> None:
    assert decode(b": ping\n\ndata: 1\n\n") == [b"", b"1"]


def test_a_comment_inside_an_event_does_not_end_it() -> None:
    assert decode(b"data: 1\n: ping\ndata: 2\n\n") == [b"1\n2"]


def test_unknown_fields_and_names_that_only_begin_with_data_are_passed_over() -> None:
    assert decode(b"retry: 5\nid: 3\ndatabase: x\ndata: 1\n\n") == [b"1"]


def test_an_event_that_the_end_of_the_stream_cuts_off_is_not_given() -> None:
    assert decode(b'data: {"a":1}\n\ndata: {"a"') == [b'{"a":1}']
    assert decode(b"data: 1\n") == []


def test_invalid_utf8_passes_through_as_bytes() -> None:
    assert decode(b"data: \xff\xc3\n\n") == [b"\xff\xc3"]


def test_a_byte_order_mark_does_not_hide_the_first_event() -> None:
    assert decode(b"\xef\xbb\xbfdata: 1\n\n") == [b"1"]


def test_empty_lines_alone_are_no_events() -> None:
    assert decode(b"\n\n\n\n\r\n\r\n\r\r") == []


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    decoder = EventDecoder()
    for _ in range(5):
        assert decoder.feed(b"data: " + b"x" * 88 + b"\n\n") == b"data: " + b"x" * 88 + b"\n\n"

    decoder.feed(b"x" * 60)
    with pytest.raises(ValueError, match="larger than 100 bytes"):
        decoder.feed(b"x" * 60)


@pytest.mark.parametrize("end", ENDINGS)
def test_a_large_event_is_searched_once(end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = 0

    def counting(search: Callable[[bytes], object]) -> Callable[[bytes], object]:
        def counted(text: bytes) -> object:
            nonlocal searched
            searched += len(text)
            return search(text)

        return counted

    for name in ("_ends_event", "_rest"):
        monkeypatch.setattr(sse, name, counting(getattr(sse, name)))

    event = b"data: " + b"x" * 100_000 + end + end
    assert len(decode(*(event[at : at + 1000] for at in range(0, len(event), 1000)))) == 1
    assert len(event) < searched < 3 * len(event)


@given(streams, st.data())
def test_a_stream_of_newlines_alone_is_read_as_one_with_returns(stream: bytes, data: st.DataObject) -> None:
    stream = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    cut = data.draw(st.integers(0, len(stream)))
    assert decode(stream[:cut], stream[cut:]) == decode(stream.replace(b"\n", b"\r\n"))
