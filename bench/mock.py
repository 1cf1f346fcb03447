"""A fast model server that always says the same: one process, raw protocols, so that it is never the bottleneck.

`python -m bench.mock --port 0` prints its port. The request's `model` says how a stream comes: `bench-s200-g10` is 200
chunks 10 ms apart, `bench-s200-g0` the same 200 in one write. `GET /stats` tells how much reached it.
"""

import argparse
import asyncio
import functools
import json
import re
import signal
from typing import Any, cast

import httptools
import uvloop

PLAN = re.compile(rb'"model"\s*:\s*"bench-s(\d{1,5})-g(\d{1,5})"')
STREAMS = re.compile(rb'"stream"\s*:\s*true')
WANTS_USAGE = re.compile(rb'"include_usage"\s*:\s*true')

# Bytes of one of our messages over its o200k tokens. A false prompt_tokens would teach the proxy a false factor.
BYTES_PER_TOKEN = 4.82
COMPLETION_TOKENS = 54
REPLY = (
    "The measured answer is always the same, so that every run costs the model server the same. It speaks of harbours, "
    "tides and the price of rope, lists three ships by name, and ends with a short question about the weather of "
    "tomorrow morning at the pier."
)
DETAILS: dict[str, Any] = {
    "completion_tokens": COMPLETION_TOKENS,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
MODELS = b'{"object":"list","data":[{"id":"bench","object":"model","created":1700000000,"owned_by":"bench"}]}'
JSON_HEAD = "HTTP/1.1 {} \r\ncontent-type: application/json\r\nx-request-id: req_bench\r\ncontent-length: {}\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"x-request-id: req_bench\r\ntransfer-encoding: chunked\r\n\r\n"
)


def answer(status: int, body: bytes) -> bytes:
    return JSON_HEAD.format(status, len(body)).encode() + body


def _completion() -> tuple[bytes, bytes]:
    """The two parts of a whole answer; the prompt's and the total count belong between them."""
    message = {"role": "assistant", "content": REPLY, "refusal": None, "annotations": []}
    value = {
        "id": "chatcmpl-bench000000000000000000000000",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "bench",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 0, **DETAILS},
        "service_tier": "default",
        "system_fingerprint": "fp_bench00000",
    }
    head, tail = json.dumps(value).split('"prompt_tokens": 0', 1)
    return head.encode(), tail.encode()


HEAD, TAIL = _completion()


def _event(**fields: Any) -> bytes:
    """One server-sent event as one HTTP chunk, about 300 bytes with a delta."""
    value = {
        "id": "chatcmpl-bench000000000000000000000000",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "bench",
        "service_tier": "default",
        "system_fingerprint": "fp_bench00000",
        **fields,
        "obfuscation": "a8Kd03Lq",
    }
    return _chunk(b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _choice(delta: dict[str, str], reason: str | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]


FIRST = _event(choices=_choice({"role": "assistant", "content": ""}), usage=None)
DELTA = _event(choices=_choice({"content": " harbour rope"}), usage=None)
FINISH = _event(choices=_choice({}, "stop"), usage=None)
END = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


@functools.lru_cache(maxsize=16)
def burst(count: int) -> bytes:
    return FIRST + DELTA * (count - 1)


class Stats:
    """How much reached this server."""

    def __init__(self) -> None:
        self.requests = 0
        self.body_bytes = 0
        self.left = 0

    def as_json(self) -> bytes:
        return json.dumps(vars(self)).encode()


class Connection(asyncio.Protocol):
    """One client connection: one request at a time, no pipelining."""

    def __init__(self, stats: Stats) -> None:
        self.stats = stats
        self.loop = asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.url = b""
        self.body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.write(answer(400, b'{"error":{"message":"not HTTP"}}'))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.timer is not None:
            self.timer.cancel()
            self.stats.left += 1

    def on_message_begin(self) -> None:
        self.url, self.body = b"", []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        if self.url == b"/v1/chat/completions":
            self.chat(b"".join(self.body))
        elif self.url == b"/v1/models":
            self.write(answer(200, MODELS))
        elif self.url == b"/stats":
            self.write(answer(200, self.stats.as_json()))
        else:
            self.write(answer(404, b'{"error":{"message":"no such path"}}'))

    def chat(self, body: bytes) -> None:
        self.stats.requests += 1
        self.stats.body_bytes += len(body)
        tokens = int(len(body) / BYTES_PER_TOKEN)
        if STREAMS.search(body) is None:
            counts = b'"prompt_tokens": %d, "total_tokens": %d' % (tokens, tokens + COMPLETION_TOKENS)
            self.write(answer(200, HEAD + counts + TAIL))
            return
        plan = PLAN.search(body)
        count, gap = (int(plan[1]), int(plan[2]) / 1000) if plan else (20, 0.0)
        last = FINISH + END
        if WANTS_USAGE.search(body) is not None:
            usage = {"prompt_tokens": tokens, "total_tokens": tokens + COMPLETION_TOKENS, **DETAILS}
            last = FINISH + _event(choices=[], usage=usage) + END
        if gap == 0:
            self.write(STREAM_HEAD + burst(max(count, 1)) + last)
        else:
            self.write(STREAM_HEAD + FIRST)
            self.again(self.loop.time() + gap, gap, count - 1, last)

    def again(self, when: float, gap: float, left: int, last: bytes) -> None:
        """Write the next chunk at `when`: the schedule is absolute, so a late chunk does not delay the others."""
        self.timer = self.loop.call_at(when, self.tick, when, gap, left, last)

    def tick(self, when: float, gap: float, left: int, last: bytes) -> None:
        self.timer = None
        if left <= 0:
            self.write(last)
            return
        self.write(DELTA)
        self.again(when + gap, gap, left - 1, last)

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    stats, stop = Stats(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(lambda: Connection(stats), "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    options = argparse.ArgumentParser(prog="python -m bench.mock", description=__doc__)
    options.add_argument("--port", type=int, default=0)
    uvloop.run(serve(options.parse_args().port))
