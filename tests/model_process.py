"""A model server as a process of its own, to be killed: `python -m tests.model_process PORT WORDS PACE_MS`.

It says what it was asked, WORDS times, a word every PACE_MS, prints its port first, and ends with its parent's pipe.
"""

import asyncio
import sys

from tests.scripted import Exchange, ScriptedUpstream, Step, dump, envelope, text_deltas, text_of, usage


def paced(count: int, pace_s: float) -> Step:
    async def step(exchange: Exchange) -> None:
        request = exchange.request
        asked = text_of(request.json["messages"][-1])
        text = " ".join([asked] * count)
        if not request.stream:
            await asyncio.sleep(count * pace_s)
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            body = envelope(request, "chat.completion", [choice], usage=usage(request, text))
            await exchange.whole(200, dump(body), {"content-type": "application/json"})
            return
        await exchange.start_stream()
        for event in text_deltas(request, text):
            await asyncio.sleep(pace_s)
            await exchange.event(event)
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        await exchange.event(envelope(request, "chat.completion.chunk", [end]))
        await exchange.event("[DONE]")
        await exchange.end()

    return step


async def main(port: int, count: int, pace_s: float) -> None:
    up = ScriptedUpstream(paced(count, pace_s), [])
    server = await asyncio.start_server(up.serve, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000))
