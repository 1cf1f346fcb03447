"""The address that `serve` listens on: free, taken by a session-proxy, or by something else."""

import errno
import socket
from collections.abc import Sequence

import msgspec

from proxy import __version__
from proxy.cli.checks.finding import Finding, Site
from proxy.cli.checks.running import aside
from proxy.config import Server
from proxy.errors import UpstreamError
from proxy.upstream.client import HttpUpstream
from proxy.upstream.exchange import read
from proxy.upstream.protocol import Call, Timeouts

NAME = "port"
WAIT_S = 3.0
WAYS = {
    errno.EACCES: "choose a port above 1023 (server.port), or let this user listen on it",
    errno.EADDRNOTAVAIL: "set server.host to an address of this machine, 127.0.0.1 or 0.0.0.0",
}


async def check(site: Site) -> Sequence[Finding]:
    """Listens for an instant, and asks who is there where that fails."""
    server = site.config.server
    if server.port == 0:
        return [Finding(NAME, "ok", "server.port 0 takes a free one")]
    problem = await aside(lambda: _listened(server))
    if problem is None:
        return [Finding(NAME, "ok", f"{server.host}:{server.port} is free")]
    if problem.errno != errno.EADDRINUSE:
        said = f"{server.host}:{server.port} cannot be listened on: {problem.strerror or 'no such host'}"
        return [Finding(NAME, "failed", said, WAYS.get(problem.errno or 0, "correct server.host and server.port"))]
    return [judged(server, await _version(server))]


def judged(server: Server, version: str | None) -> Finding:
    """What is to be said of a port that is taken; `version`: of the session-proxy that answers there. Pure."""
    at = f"{server.host}:{server.port}"
    if version is None:
        fix = f"end it (`ss -ltnp 'sport = :{server.port}'` names it), or set server.port or --port"
        return Finding(NAME, "failed", f"{at} is taken by another program", fix)
    if version != __version__:
        said = f"a session-proxy {version} answers on {at}, this is {__version__}"
        return Finding(NAME, "warning", said, "restart the server to run the installed version")
    return Finding(NAME, "ok", f"a session-proxy {version} answers on {at}")


def _listened(server: Server) -> OSError | None:
    """Why the address cannot be listened on."""
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    try:
        socket.create_server((server.host.strip("[]"), server.port), family=family).close()
    except OSError as exc:
        return exc
    return None


async def _version(server: Server) -> str | None:
    """The version of the session-proxy that answers there; None for anything else."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(server.host, server.host)
    host = f"[{host}]" if ":" in host else host
    limits = Timeouts(connect=WAIT_S, first_byte=WAIT_S, idle=WAIT_S, total=WAIT_S)
    client = HttpUpstream(f"http://{host}:{server.port}", timeouts=limits)
    try:
        answer = await client.send(Call("GET", "/healthz", b"", ()))
        try:
            return msgspec.json.decode(await read(answer, 1 << 16), type=_Health).version
        finally:
            await answer.aclose()
    except (UpstreamError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    finally:
        await client.aclose()


class _Health(msgspec.Struct):
    """What /healthz says."""

    status: str
    version: str
