"""The first bytes of a request: base URL and call in, bytes out. Pure."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy.errors import BadConfig
from proxy.upstream.protocol import Call

_END = b"\r\n\r\n"
_IDENTITY_END = b"\r\naccept-encoding: identity\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go. `path` goes before each call's own, `after_path` follows it up to the Host header."""

    host: str
    port: int
    tls: bool
    path: bytes
    after_path: bytes


def target(base_url: str) -> Target:
    """Raises BadConfig for a URL that cannot be used."""
    try:
        url = urlsplit(base_url)
        host, port = url.hostname or "", url.port
        path = url.path.rstrip("/").encode("ascii")
        host = host if ":" in host else host.encode("idna").decode("ascii")
    except ValueError as exc:
        raise BadConfig("base_url of an upstream is not a URL; write it like https://host:port/v1") from exc
    if url.scheme not in ("http", "https") or not host or url.query or url.fragment or url.username is not None:
        raise BadConfig("base_url of an upstream must be http(s)://host[:port][/path], without user, query or fragment")
    tls = url.scheme == "https"
    default = 443 if tls else 80
    authority = f"[{host}]" if ":" in host else host
    if port is not None and port != default:
        authority += f":{port}"
    return Target(host, port or default, tls, path, f" HTTP/1.1\r\nhost: {authority}".encode("ascii"))


def head(to: Target, call: Call) -> bytes:
    """Request line and headers. Raises ValueError for a call that would say more than one request."""
    lines = [b"%b %b%b%b" % (call.method.encode(), to.path, call.path.encode(), to.after_path)]
    lines += [b": ".join(header) for header in call.headers]
    if call.body or call.method != "GET":
        lines.append(b"content-length: %d" % len(call.body))
    joined = b"\r\n".join(lines)
    # a line break inside a value would start a header, or a request, of the value's own making
    if joined.count(b"\n") != len(lines) or joined.count(b"\r") != len(lines) or " " in call.path:
        raise ValueError("the method, path and headers of a call must not hold line breaks, nor its path spaces")
    return joined + (_END if b"\r\naccept-encoding:" in joined.lower() else _IDENTITY_END)
