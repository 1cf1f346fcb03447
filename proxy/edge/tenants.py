"""Who may make the first thing of a tenant. In `passthrough` mode any text is a key until the upstream has taken it."""

from proxy.edge.request import Request
from proxy.errors import Forbidden, UpstreamRefused
from proxy.services import Services
from proxy.types import Scope
from proxy.upstream.exchange import exchange
from proxy.upstream.headers import upstream_headers
from proxy.upstream.protocol import Call


async def admitted(svc: Services, who: Scope, request: Request) -> Scope:
    """The scope, after the upstream was asked for its models with a key that owns nothing yet. Raises Forbidden for a
    key that the upstream refuses: it leaves nothing behind."""
    if who.tenant > 0 or who.credential is None:
        return who
    upstream = svc.config.upstreams[0]
    call = Call("GET", "/models", b"", upstream_headers(who.credential, upstream, request.headers, b""))
    try:
        answer = await exchange(svc.upstreams[upstream.name], upstream, call, own_key=False)
    except UpstreamRefused as refused:
        if refused.status in (401, 403):
            raise Forbidden(
                "Could not validate API KEY: the upstream does not take it", code="invalid_api_key"
            ) from None
        return who
    await answer.aclose()
    return who
