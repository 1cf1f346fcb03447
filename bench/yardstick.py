"""The yardstick: the shortest honest pass-through in Starlette and aiohttp. It keeps nothing."""

import contextlib
import sys
from collections.abc import AsyncGenerator

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
    async with aiohttp.ClientSession(headers={"content-type": "application/json"}) as app.state.client:
        yield


async def relay(request: Request) -> Response:
    answer = await request.app.state.client.post(sys.argv[2], data=await request.body())
    if answer.content_type == "text/event-stream":
        return StreamingResponse(answer.content.iter_any(), answer.status, media_type="text/event-stream")
    return Response(await answer.read(), answer.status, media_type=answer.content_type)


if __name__ == "__main__":
    app = Starlette(routes=[Route("/v1/chat/completions", relay, methods=["POST"])], lifespan=lifespan)
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning")
