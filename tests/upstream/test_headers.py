"""Which of a client's headers go up: an allow-list, and one key."""

from proxy.config import UpstreamConfig
from proxy.upstream.headers import upstream_headers

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
