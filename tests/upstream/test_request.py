"""The first bytes of a request."""

import pytest

from proxy.errors import BadConfig
from proxy.upstream.protocol import Call
from proxy.upstream.request import head, target


@pytest.mark.parametrize("value", [b"a\r\nx: y", b"a\nb", b"a\rb"])
def test_a_header_cannot_smuggle_another(value: bytes) -> None:
    with pytest.raises(ValueError, match="line breaks"):
        head(target("http://h"), Call("POST", "/x", b"", ((b"x", value),)))


@pytest.mark.parametrize("path", ["/x y", "/x HTTP/1.1\r\nhost: other", "/x\n"])
def test_a_path_cannot_change_the_request(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        head(target("http://h"), Call("POST", path, b"", ()))


@pytest.mark.parametrize(
    ("url", "start"),
    [
        ("http://h/v1", b"POST /v1/x HTTP/1.1\r\nhost: h\r\n"),
        ("http://h:80/v1/", b"POST /v1/x HTTP/1.1\r\nhost: h\r\n"),
        ("https://h:443", b"POST /x HTTP/1.1\r\nhost: h\r\n"),
        ("https://h:80/a/b", b"POST /a/b/x HTTP/1.1\r\nhost: h:80\r\n"),
        ("http://[::1]:9/v1", b"POST /v1/x HTTP/1.1\r\nhost: [::1]:9\r\n"),
        ("http://b\u00fccher.example", b"POST /x HTTP/1.1\r\nhost: xn--bcher-kva.example\r\n"),
    ],
)
def test_host_and_path_follow_the_base_url(url: str, start: bytes) -> None:
    assert head(target(url), Call("POST", "/x", b"", ())).startswith(start)


@pytest.mark.parametrize("url", ["", "h/v1", "ftp://h", "http://", "http://h:x", "http://u:p@h", "https://h/v1?key=1"])
def test_a_base_url_that_cannot_work_is_refused(url: str) -> None:
    with pytest.raises(BadConfig):
        target(url)
