"""Server-sent events: cutting, reading and writing them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamBroken
from proxy.upstream import wire

pieces = st.lists(
    st.sampled_from(
        [b"\n", b"\r", b"\r\n", b"data: {}", b"data:x", b": note", b"id: 7", b"\xe2\x80\xa8", b"\xef\xbb\xbf"]
    )
)


def cut(stream: bytes, at: list[int], limit: int = wire.EVENT_LIMIT) -> tuple[list[bytes], bytes]:
    """The events of a stream that comes in pieces ending at the given places."""
    splitter, events, start = wire.Splitter(limit), [], 0
    for end in [*sorted(at), len(stream)]:
        events += splitter.feed(stream[start:end])
        start = max(start, end)
    return events, splitter.rest


def said(events: list[bytes]) -> list[bytes]:
    return [text for raw in events if (text := wire.payload(raw)) is not None]


@given(pieces.map(b"".join), st.lists(st.integers(0, 80)))
def test_the_pieces_a_stream_comes_in_do_not_change_what_it_says(stream: bytes, at: list[int]) -> None:
    whole, whole_rest = cut(stream, [])
    parts, parts_rest = cut(stream, at)
    assert said(parts) == said(whole)
    assert parts_rest == whole_rest


@given(pieces.map(lambda p: b"".join(p).replace(b"\r", b"")), st.lists(st.integers(0, 80)))
def test_with_lf_alone_no_byte_is_lost_or_moved(stream: bytes, at: list[int]) -> None:
    events, rest = cut(stream, at)
    assert b"".join(events) + rest in (stream, stream.removeprefix(b"\xef\xbb\xbf"))
    assert (events, rest) == cut(stream, [])


@given(st.lists(st.binary().filter(lambda b: b"\r" not in b)), st.lists(st.integers(0, 80)))
def test_what_is_written_as_events_is_read_back(payloads: list[bytes], at: list[int]) -> None:
    events, rest = cut(b"".join(map(wire.event, payloads)), at)
    assert said(events) == payloads
    assert rest == b""


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_all_three_line_ends_end_lines_and_events(end: bytes) -> None:
    stream = b"data: 1" + end + end + b": x" + end + b"data: 2" + end + b"data: 3" + end + end
    for at in range(len(stream)):
        events, rest = cut(stream, [at])
        assert said(events) == [b"1", b"2\n3"]
        assert rest == b""


def test_an_event_ending_in_cr_is_given_out_at_once() -> None:
    splitter = wire.Splitter()
    assert splitter.feed(b"data: 1\r\n\r") == [b"data: 1\r\n\r"]
    assert splitter.feed(b"") == []
    assert splitter.feed(b"\ndata: 2\r\n\r\n") == [b"data: 2\r\n\r\n"]


def test_unicode_line_separators_do_not_end_a_line() -> None:
    text = "data: a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\n\n".encode()
    assert wire.Splitter().feed(text) == [text]
    assert wire.payload(text) == text[6:-2]


def test_a_byte_order_mark_is_dropped_at_the_start_only() -> None:
    assert cut(b"\xef\xbb\xbfdata: 1\n\n", [1, 2])[0] == [b"data: 1\n\n"]
    assert said(cut(b"data: 1\n\n\xef\xbb\xbfdata: 2\n\n", [])[0]) == [b"1"]


def test_an_event_over_the_limit_is_refused_whole_or_in_pieces() -> None:
    big = wire.event(b"x" * 100)
    assert cut(big, [], limit=len(big))[0] == [big]
    for at in ([], [50], list(range(100))):
        with pytest.raises(UpstreamBroken, match="more than 90 bytes"):
            cut(big, at, limit=90)
    with pytest.raises(UpstreamBroken):
        cut(b"data: " + b"x" * 100, [], limit=90)


def test_many_small_events_in_one_piece_may_exceed_the_limit_together() -> None:
    assert len(cut(b"data: 1\n\n" * 100, [], limit=90)[0]) == 100
    assert len(cut(b"data: 1\r\n\r\n" * 100, [], limit=90)[0]) == 100


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"data: {}\n\n", b"{}"),
        (b"data:{}\n\n", b"{}"),
        (b"data:  {}\n\n", b" {}"),
        (b"data: {}\r\n\r\n", b"{}"),
        (b"\ndata: {}\n\n", b"{}"),
        (b"event: x\ndata: {}\n\n", b"{}"),
        (b"data: 1\ndata: 2\n\n", b"1\n2"),
        (b"data\n\n", b""),
        (b"data: {}", b"{}"),
        (b"data: 1\nid: 2", b"1"),
        (b": ping\n\n", None),
        (b"retry: 3000\n\n", None),
        (b"database: x\n\n", None),
        (b"\n\n", None),
    ],
)
def test_the_payload_is_what_the_data_lines_say(raw: bytes, text: bytes | None) -> None:
    assert wire.payload(raw) == text


@pytest.mark.parametrize(
    ("raw", "seen"),
    [
        (b"data: {}\n\n", b"data: {}\n\n"),
        (b"data:{}\n\n", b"data:{}\n\n"),
        (b"data: {}\r\n\r\n", b"data: {}\n\n"),
        (b"id: 1\ndata: {}\n\n", b"data: {}\n\n"),
        (b": ping\ndata: {}\n\n", b"data: {}\n\n"),
        (b"event: message\ndata: 1\ndata: 2\n\n", b"data: 1\ndata: 2\n\n"),
        (b"data: {}", b"data: {}\n\n"),
        (b"retry: 3000\n\n", None),
        (b"event: ping\n\n", None),
        (b": ping\n\n", None),
        (b"data:\n\n", None),
        (b"data: \n\n", None),
        (b"data: \r\n\r\n", None),
    ],
)
def test_clients_see_data_lines_and_nothing_else(raw: bytes, seen: bytes | None) -> None:
    assert wire.relayable(raw) == seen


def test_a_carriage_return_in_a_payload_cannot_start_a_line_of_its_own() -> None:
    assert wire.event(b"1\r\rid: 2\r\n3") == b"data: 1\ndata: \ndata: id: 2\ndata: 3\n\n"
