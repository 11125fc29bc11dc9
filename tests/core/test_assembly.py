from collections.abc import Sequence

from agentbg.core.assembly import Assembly
from agentbg.core.model import EventKind, Snapshot, StreamEvent
from agentbg.core.position import Position, digest, tail
from agentbg.core.response import AgentRunResponse, build_response
from agentbg.core.status import RunStatus
from agentbg.core.update import AgentRunResponseUpdate, TokenIssuer, UpdateType

from .service import REF, event, snapshot

ITEM, TEXT, KEEPALIVE, PROGRESS = EventKind.ITEM, EventKind.TEXT, EventKind.KEEPALIVE, EventKind.PROGRESS


def feed(assembly: Assembly, *events: StreamEvent) -> list[AgentRunResponseUpdate]:
    return [update for one in events for update in assembly.add(one)]


def end(assembly: Assembly, final: Snapshot, *, is_final: bool = True) -> list[AgentRunResponseUpdate]:
    response: AgentRunResponse[str] = build_response(final, None)
    return assembly.finish(final, response, final=is_final)


def said(updates: Sequence[AgentRunResponseUpdate]) -> list[tuple[str, str]]:
    return [(update.type.value, update.text) for update in updates]


def message(text: str, first: int = 0, index: int = 0) -> list[StreamEvent]:
    return [event(ITEM, first, index=index), event(TEXT, first + 1, text, index=index)]


# --- what was seen ---


def test_an_event_at_or_below_the_cursor_is_dropped_and_counted() -> None:
    assembly = Assembly()
    feed(assembly, *message("ab"))
    assert feed(assembly, *message("ab")) == []
    assert (assembly.dropped, assembly.text) == (2, "ab")


def test_a_gap_in_the_numbers_means_nothing() -> None:
    assembly = Assembly()
    updates = feed(assembly, event(TEXT, 3, "a"), event(TEXT, 90, "b"))
    assert [(update.seq, update.text) for update in updates] == [(1, "a"), (2, "b")]


def test_an_event_without_a_number_is_taken_and_moves_no_cursor() -> None:
    assembly = Assembly()
    feed(assembly, event(TEXT, 3, "a"), event(TEXT, None, "b"))
    assert (assembly.text, assembly.position.cursor) == ("ab", 3)


def test_what_comes_without_a_number_after_a_cursor_is_no_progress() -> None:
    assembly = Assembly()
    assembly.connect()
    feed(assembly, event(TEXT, 3, "a"), event(TEXT, None, "b"))
    assert assembly.fresh
    assert assembly.connect() == 3
    feed(assembly, event(TEXT, None, "b"), event(TEXT, None, "c"))
    assert not assembly.fresh
    feed(assembly, event(TEXT, 4, "d"))
    assert assembly.fresh


def test_opaque_cursors_are_kept_and_never_compared() -> None:
    assembly = Assembly()
    updates = feed(assembly, event(TEXT, "z", "a"), event(TEXT, "b", "b"))
    assert (len(updates), assembly.position.cursor) == (2, "b")


def test_a_keepalive_moves_the_cursor_and_reaches_nobody() -> None:
    assembly = Assembly()
    assert feed(assembly, event(KEEPALIVE, 4), event(KEEPALIVE)) == []
    assert assembly.position == Position(cursor=4)


def test_each_update_knows_its_own_place() -> None:
    assembly = Assembly()
    assembly.issuer = TokenIssuer(REF, 5.0, streamed=True)
    first, second = feed(assembly, *message("a"))
    assert [update.continuation_token.position.cursor for update in (first, second)] == [0, 1]
    assert first.position.chars == 0
    assert second.position.digest == digest("a")


# --- an item that begins again ---


def test_an_item_that_begins_again_voids_its_text() -> None:
    assembly = Assembly()
    feed(assembly, *message("one ", 0, 0), *message("two", 2, 1))
    assert said(feed(assembly, *message("2", 9, 1))) == [("reset", "one "), ("item", ""), ("text", "2")]
    assert assembly.text == "one 2"
    assert said(end(assembly, snapshot(RunStatus.COMPLETED, "one 2", items=2))) == [("end", "")]


def test_an_item_that_begins_again_voids_the_later_ones() -> None:
    assembly = Assembly()
    feed(assembly, *message("one ", 0, 0), *message("two", 2, 1))
    assert said(feed(assembly, *message("1", 9, 0))) == [("reset", ""), ("item", ""), ("text", "1")]
    assert said(feed(assembly, *message("2", 11, 1))) == [("item", ""), ("text", "2")]


def test_an_item_without_text_begins_again_without_a_reset() -> None:
    assembly = Assembly()
    feed(assembly, *message("one", 0, 0), event(ITEM, 2, index=1))
    assert said(feed(assembly, event(ITEM, 5, index=1))) == [("item", "")]


def test_an_item_of_a_resumed_run_that_begins_again_voids_all() -> None:
    before = Assembly()
    feed(before, *message("one", 0, 0))
    assembly = Assembly(before.position)
    assert said(feed(assembly, *message("1", 9, 0))) == [("reset", ""), ("item", ""), ("text", "1")]
    assert said(end(assembly, snapshot(RunStatus.COMPLETED, "1"))) == [("end", "")]


def test_a_resumed_run_never_takes_its_own_part_for_the_whole() -> None:
    before = Assembly()
    feed(before, *message("one ", 0, 0))
    assembly = Assembly(before.position)
    feed(assembly, *message("two ", 2, 1), *message("three", 4, 2))
    assert said(feed(assembly, event(ITEM, 9, index=2)))[0] == ("reset", "")
    final = snapshot(RunStatus.COMPLETED, "one two three", items=3)
    assert said(end(assembly, final)) == [("end", "one two three")]


def test_whoever_stops_at_a_reset_gets_the_item_once_more_and_no_second_reset() -> None:
    before = Assembly()
    feed(before, *message("one ", 0, 0), *message("two", 2, 1))
    reset = feed(before, event(ITEM, 9, index=1))[0]
    assembly = Assembly(reset.position)
    assert said(feed(assembly, *message("2", 9, 1))) == [("item", ""), ("text", "2")]


def test_items_may_begin_in_any_order() -> None:
    assembly = Assembly()
    updates = feed(assembly, event(ITEM, 0, index=2), event(ITEM, 1, index=0), event(ITEM, 2, index=1))
    assert said(updates) == [("item", "")] * 3


# --- snapshots ---


def test_a_snapshot_brings_what_is_missing() -> None:
    assembly = Assembly()
    assert said(assembly.follow(snapshot(text="ab"))) == [("text", "ab")]
    assert assembly.follow(snapshot(text="ab")) == []
    assert said(assembly.follow(snapshot(text="abc"))) == [("text", "c")]


def test_a_stale_or_strange_snapshot_brings_nothing() -> None:
    assembly = Assembly()
    assembly.follow(snapshot(text="abc"))
    assert assembly.follow(snapshot(text="a")) == []
    assert assembly.follow(snapshot(text="xyzxyz")) == []


def test_the_end_brings_exactly_the_missing_tail() -> None:
    assembly = Assembly()
    feed(assembly, *message("Hel"))
    assert said(end(assembly, snapshot(RunStatus.COMPLETED, "Hello"))) == [("end", "lo")]


def test_a_resumed_run_gets_exactly_the_missing_tail() -> None:
    before = Assembly()
    feed(before, *message("Grüße, "))
    after = Assembly(before.position)
    assert said(end(after, snapshot(RunStatus.COMPLETED, "Grüße, 🌍"))) == [("end", "🌍")]


def test_a_final_text_that_does_not_go_on_replaces_what_was_delivered() -> None:
    assembly = Assembly()
    feed(assembly, *message("Hel"))
    assert said(end(assembly, snapshot(RunStatus.COMPLETED, "Bye"))) == [("reset", "Bye"), ("end", "")]


def test_what_is_not_the_last_word_takes_nothing_back() -> None:
    assembly = Assembly()
    feed(assembly, *message("Hel"))
    assert said(end(assembly, snapshot(RunStatus.EXPIRED, "Bye"), is_final=False)) == [("end", "")]


def test_what_is_not_the_last_word_may_still_add() -> None:
    assembly = Assembly()
    feed(assembly, *message("Hel"))
    assert said(end(assembly, snapshot(RunStatus.EXPIRED, "Hello"), is_final=False)) == [("end", "lo")]


def test_items_that_never_came_come_before_the_end() -> None:
    assembly = Assembly()
    feed(assembly, *message("a"))
    updates = end(assembly, snapshot(RunStatus.COMPLETED, "a", items=3))
    assert [(update.type, update.raw and update.raw["output_index"]) for update in updates[:-1]] == [
        (UpdateType.ITEM, 1),
        (UpdateType.ITEM, 2),
    ]


def test_whoever_stops_among_the_last_items_gets_no_item_twice() -> None:
    first = end(Assembly(), snapshot(RunStatus.COMPLETED, "a", items=3))[0]
    again = end(Assembly(first.position), snapshot(RunStatus.COMPLETED, "a", items=3))
    assert [update.raw and update.raw["output_index"] for update in again[:-1]] == [1, 2]


def test_the_end_carries_the_response_and_no_token() -> None:
    assembly = Assembly()
    assembly.issuer = TokenIssuer(REF, 5.0, streamed=True)
    last = end(assembly, snapshot(RunStatus.COMPLETED, "a"))[-1]
    assert last.response is not None
    assert (last.response.text, last.continuation_token) == ("a", None)


# --- the digest ---


def test_tail_tells_a_continuation_from_another_text() -> None:
    at = Position(chars=3, digest=digest("abc"))
    assert [tail(text, at) for text in ("abcd", "abc", "ab", "abd", "xbcd")] == ["d", "", None, None, None]


def test_a_digest_goes_on_over_any_cut_and_any_text() -> None:
    text = "aé😀\ud83d\x00"
    for cut in range(len(text) + 1):
        assert digest(text[cut:], digest(text[:cut])) == digest(text)


def test_halves_of_a_character_are_mended_at_the_end() -> None:
    assembly = Assembly()
    feed(assembly, event(TEXT, 1, "\ud83d"), event(TEXT, 2, "\ude00"))
    assert said(end(assembly, snapshot(RunStatus.COMPLETED, "😀")))[-2:] == [("reset", "😀"), ("end", "")]
