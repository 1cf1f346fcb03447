"""GET /metrics: everybody's sums. In auth.mode keys for an admin; else they tell no more than the proxy's own logs."""

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response

from proxy.edge import auth, failures
from proxy.edge.request import request_id
from proxy.errors import Forbidden, NotFound, ProxyError
from proxy.services import Services


async def metrics(request: Request) -> Response:
    svc: Services = request.app.state.services
    headers = dict(request.scope["headers"])
    try:
        await _check(svc, headers)
    except ProxyError as failure:
        told = {"x-request-id": request_id(headers), **failure.headers}
        return Response(failures.OPENAI.envelope(failure), failure.status, told, "application/json")
    return Response(svc.metrics.render(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


async def _check(svc: Services, headers: dict[bytes, bytes]) -> None:
    """Raises the ProxyError that the one who asks gets. The sums show nobody's key or text: where each client brings
    its own upstream key there is no admin, and they are open."""
    if not svc.config.telemetry.metrics:
        raise NotFound("there is no such path here; set telemetry.metrics to have it", code="unknown_url")
    if svc.config.auth.mode == "passthrough":
        return
    scope = await auth.scope_of(svc, headers)
    if svc.config.auth.mode == "keys" and scope.role != "admin":
        raise Forbidden("this key may not read the metrics; `session-proxy keys create --role admin` makes one")
