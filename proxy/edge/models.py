"""The models that may be asked for: the union of the upstreams' and the configured aliases."""

import msgspec

from proxy.edge.request import Request
from proxy.errors import UpstreamError
from proxy.services import Services
from proxy.types import Scope
from proxy.upstream.exchange import exchange, read
from proxy.upstream.headers import upstream_headers
from proxy.upstream.protocol import Call


async def every(svc: Services, who: Scope, request: Request) -> list[dict[str, object]]:
    """All of them, as /v1/models lists them. Raises UpstreamError when no upstream answers."""
    found: dict[str, dict[str, object]] = {}
    failure: UpstreamError | None = None
    answered = False
    for upstream in svc.config.upstreams:
        call = Call("GET", "/models", b"", upstream_headers(who.credential, upstream, request.headers, b""))
        try:
            answer = await exchange(svc.upstreams[upstream.name], upstream, call, own_key=who.credential is None)
            try:
                listed = msgspec.json.decode(await read(answer, 32 << 20))
            finally:
                await answer.aclose()
        except UpstreamError as exc:
            failure = exc
            continue
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            failure = UpstreamError("the upstream's list of models is not JSON", code="upstream_broken")
            continue
        answered = True
        for model in listed.get("data") or () if isinstance(listed, dict) else ():
            if isinstance(model, dict) and isinstance(model.get("id"), str):
                found.setdefault(model["id"], model)
    if failure is not None and not answered:
        raise failure
    for alias in svc.config.models:
        if alias != "default":
            found.setdefault(alias, {"id": alias, "object": "model", "created": 0, "owned_by": "session-proxy"})
    return list(found.values())
