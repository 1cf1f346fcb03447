"""/healthz: the process answers. /readyz: the storage and an upstream do too."""

from starlette.requests import Request
from starlette.responses import JSONResponse

from proxy import __version__
from proxy.errors import ProxyError
from proxy.services import Services
from proxy.upstream.protocol import Call


async def healthz(_request: Request) -> JSONResponse:
    return JSONResponse({"status": "ok", "version": __version__})


async def readyz(request: Request) -> JSONResponse:
    svc: Services = request.app.state.services
    checks = {"storage": await _storage(svc), "upstream": await _upstream(svc)}
    ready = all(state == "ok" for state in checks.values())
    return JSONResponse({"status": "ok" if ready else "unavailable", **checks}, status_code=200 if ready else 503)


async def _storage(svc: Services) -> str:
    try:
        await svc.db.ready()
    except ProxyError as failure:
        return failure.message
    return "ok"


async def _upstream(svc: Services) -> str:
    """Any answer below 500 of any upstream: a 401 for a missing key still shows a server that works."""
    problem = "no upstream answers"
    for client in svc.upstreams.values():
        try:
            answer = await client.send(Call("GET", "/models", b"", ()))
            await answer.aclose()
        except ProxyError as failure:
            problem = failure.message
            continue
        if answer.status < 500:
            return "ok"
        problem = f"the upstream answers {answer.status}"
    return problem
