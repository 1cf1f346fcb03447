"""The models that may be asked for: the union of the upstreams' and the configured aliases."""

import asyncio

import msgspec

from proxy.config import DEFAULT_MODEL, UpstreamConfig
from proxy.edge.request import Request
from proxy.errors import UpstreamError, UpstreamTimeout
from proxy.services import Services
from proxy.types import Scope
from proxy.upstream.exchange import always, whole
from proxy.upstream.headers import upstream_headers
from proxy.upstream.protocol import Call
from proxy.upstream.route import matches

Model = dict[str, object]

LIST_BYTES = 32 << 20
"""Of one upstream's list at the most."""
WAIT_S = 5.0
"""For each upstream's list: one that is silent must not hide what the others have."""


async def every(svc: Services, who: Scope, request: Request) -> list[Model]:
    """All of them, as /v1/models lists them; of an upstream those that its `models` let pass. Raises UpstreamError when
    no upstream answers."""
    asked = (_listed(svc, who, request, upstream) for upstream in svc.config.upstreams)
    answers = await asyncio.gather(*asked)
    lists = [answer for answer in answers if isinstance(answer, list)]
    failures = [answer for answer in answers if isinstance(answer, UpstreamError)]
    if failures and not lists:
        raise failures[0]
    found: dict[str, Model] = {}
    for model in [model for models in lists for model in models]:
        found.setdefault(str(model["id"]), model)
    for alias in svc.config.models:
        if alias != DEFAULT_MODEL:
            found.setdefault(alias, of_alias(alias))
    return list(found.values())


def of_alias(name: str) -> Model:
    """An alias as a model of the list."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "session-proxy"}


async def _listed(svc: Services, who: Scope, request: Request, upstream: UpstreamConfig) -> list[Model] | UpstreamError:
    """One upstream's models, or why it does not tell them."""
    call = Call("GET", "/models", b"", upstream_headers(who.credential, upstream, request.headers, b""))
    try:
        async with asyncio.timeout(WAIT_S):
            client, own_key = svc.upstreams[upstream.name], who.credential is None
            listed = msgspec.json.decode(await whole(client, upstream, call, own_key, LIST_BYTES, always))
    except UpstreamError as failure:
        return failure
    except TimeoutError:
        return UpstreamTimeout(f"the upstream did not list its models within {WAIT_S:g} s")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UpstreamError("the upstream's list of models is not JSON", code="upstream_broken")
    models = listed.get("data") if isinstance(listed, dict) else None
    each = [
        model
        for model in (models if isinstance(models, list) else ())
        if isinstance(model, dict) and isinstance(model.get("id"), str)
    ]
    return [model for model in each if matches(upstream, model["id"])]
