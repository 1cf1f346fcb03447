"""Which of a client's headers go up: an allow-list, and one key."""

import pytest

from proxy.config import UpstreamConfig
from proxy.upstream.headers import has_media, upstream_headers

CLIENT = {
    b"authorization": b"Bearer mine",
    b"cookie": b"a=b",
    b"x-session-id": b"s",
    b"x-forwarded-for": b"1.2.3.4",
    b"x-stainless-retry-count": b"1",
    b"traceparent": b"00-1",
    b"openai-organization": b"org",
    b"x-extra": b"1",
    b"accept": b"text/event-stream",
}


def test_only_listed_headers_and_the_upstreams_key_go_up() -> None:
    up = UpstreamConfig(api_key="theirs", forward_headers=("X-Extra",))
    assert dict(upstream_headers(None, up, CLIENT)) == {
        b"traceparent": b"00-1",
        b"openai-organization": b"org",
        b"x-extra": b"1",
        b"content-type": b"application/json",
        b"accept": b"text/event-stream",
        b"authorization": b"Bearer theirs",
    }


def test_a_key_of_the_clients_own_takes_the_place_of_the_upstreams() -> None:
    sent = dict(upstream_headers(b"own", UpstreamConfig(api_key="theirs"), CLIENT))
    assert sent[b"authorization"] == b"Bearer own"


def test_without_any_key_there_is_no_authorization() -> None:
    assert b"authorization" not in dict(upstream_headers(None, UpstreamConfig(), CLIENT, b""))


@pytest.mark.parametrize(
    ("value", "is_stream"),
    [(b"text/event-stream", True), (b"Text/Event-Stream; charset=utf-8", True), (b"application/json", False)],
)
def test_a_media_type_has_no_case(value: bytes, is_stream: bool) -> None:
    assert has_media(((b"x-other", b"text/event-stream"), (b"content-type", value)), b"text/event-stream") is is_stream
