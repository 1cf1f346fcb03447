"""Credential -> Scope, in the three modes: open, keys, passthrough."""

from proxy.config import Config, is_loopback
from proxy.errors import Forbidden, Unauthorized
from proxy.services import Services
from proxy.store import keys
from proxy.types import Scope

OPEN = Scope(tenant=1)


async def scope_of(svc: Services, headers: dict[bytes, bytes]) -> Scope:
    """Who asks. Raises Unauthorized or, in `open` mode for a foreign Host, Forbidden."""
    mode = svc.config.auth.mode
    if mode == "open":
        _check_host(svc.config, headers)
        return OPEN
    key = credential(headers)
    if not key:
        raise Unauthorized("Incorrect API key provided: none. Send it as Authorization: Bearer KEY.")
    if mode == "passthrough":
        return await keys.passthrough_scope(svc.db, key)
    scope = await keys.scope_of(svc.db, key)
    if scope is None:
        raise Unauthorized("Incorrect API key provided. `session-proxy keys create` makes one.")
    return scope


def credential(headers: dict[bytes, bytes]) -> bytes:
    """The key a request carries, b"" for none."""
    given = headers.get(b"authorization", b"")
    if given[:7].lower() == b"bearer ":
        return given[7:].strip()
    return headers.get(b"x-api-key", b"").strip()


def _check_host(config: Config, headers: dict[bytes, bytes]) -> None:
    """A page of another site whose name resolves to this machine shows itself by its Host (DNS rebinding)."""
    given = headers.get(b"host", b"").decode("latin-1")
    name = given[: given.rfind("]") + 1] if given.startswith("[") else given.partition(":")[0]
    if name and not is_loopback(name) and name not in config.server.allowed_hosts:
        raise Forbidden(
            "auth.mode open answers to loopback names only; add this host to "
            "server.allowed_hosts, or use auth.mode keys",
            param="Host",
        )
