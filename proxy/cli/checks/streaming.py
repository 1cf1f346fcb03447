"""One small streamed answer of a model, and what it tells about its server."""

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from proxy.cli.checks.finding import Finding, counted
from proxy.errors import UpstreamError, UpstreamRefused
from proxy.upstream import wire
from proxy.upstream.exchange import read, refusal
from proxy.upstream.fold import Fold
from proxy.upstream.protocol import Answer, Call, Headers, Upstream

MAX_TOKENS = 16
LIMIT = 1 << 20
"""Bytes that are read of an answer that should have a few hundred words at the most."""
REFUSED = (400, 422)
ASKED = ("max_tokens", "max_completion_tokens")

NAME = "upstream"


@dataclass(frozen=True)
class Ask:
    """Who is asked, and how. `usage`: stream_options are to be sent."""

    client: Upstream
    headers: Headers
    usage: bool


@dataclass(frozen=True)
class Heard:
    """An answer as it came. `events`: what carried data; `reads`: in how many pieces; `first_s`: after how long the
    first one; `whole`: it was one JSON object; `long`: it went on and on. `options`: the request had stream_options, or
    was to have none. `failure`: why it ended early."""

    sse: bool = True
    whole: bool = False
    events: int = 0
    reads: int = 0
    first_s: float = 0.0
    done: bool = False
    finished: bool = False
    long: bool = False
    usage: bool = False
    options: bool = True
    failure: UpstreamError | None = None


async def heard(ask: Ask, model: str) -> Heard:
    """Asks for a few tokens. Where the request is refused it is asked again with what other servers understand."""
    first: Heard | None = None
    for body, options in _bodies(model, ask.usage):
        answered = await _once(ask, body, options)
        first = first or answered
        if not (isinstance(answered.failure, UpstreamRefused) and answered.failure.status in REFUSED):
            return answered
    return first or Heard()


def _bodies(model: str, usage: bool) -> Generator[tuple[Mapping[str, Any], bool]]:
    """The request in the words of most servers, then in those that fewer fields make."""
    said = {"model": model, "messages": [{"role": "user", "content": "Say hi."}], "stream": True}
    for options in (True, False) if usage else (False,):
        for limit in ASKED:
            asked = {**said, limit: MAX_TOKENS}
            yield ({**asked, "stream_options": {"include_usage": True}} if options else asked), options


async def _once(ask: Ask, body: Mapping[str, Any], options: bool) -> Heard:
    started = time.monotonic()
    try:
        answer = await ask.client.send(Call("POST", "/chat/completions", msgspec.json.encode(body), ask.headers))
        if answer.status >= 300:
            return Heard(options=options, failure=await refusal(answer, own_key=False))
        try:
            return await _read(answer, started, options)
        finally:
            await answer.aclose()
    except UpstreamError as failure:
        return Heard(options=options, failure=failure)


async def _read(answer: Answer, started: float, options: bool) -> Heard:
    kind = next((value for name, value in answer.headers if name == b"content-type"), b"")
    fold = Fold()
    if kind.startswith(b"application/json"):
        fold.whole(await read(answer, LIMIT))
        return Heard(sse=False, whole=True, finished=True, usage=fold.usage is not None, options=options)
    splitter = wire.Splitter()
    events = reads = size = 0
    first_s, done = 0.0, False
    failure: UpstreamError | None = None
    try:
        async for data in answer:
            reads, size = reads + 1, size + len(data)
            first_s = first_s or time.monotonic() - started
            said = [payload for payload in map(wire.payload, splitter.feed(data)) if payload]
            events += _folded(fold, said)
            done = b"[DONE]" in said
            if done or size > LIMIT:
                break
        else:
            events += _folded(fold, wire.payloads(splitter.rest + b"\n\n"))
    except UpstreamError as exc:
        failure = exc
    return Heard(
        sse=kind.startswith(b"text/event-stream"),
        events=events,
        reads=reads,
        first_s=first_s,
        done=done,
        finished=fold.finished,
        long=size > LIMIT,
        usage=fold.usage is not None,
        options=options,
        failure=failure,
    )


def _folded(fold: Fold, said: Sequence[bytes]) -> int:
    """How many events these payloads are. Raises what the upstream says is wrong."""
    chunks = [payload for payload in said if payload != b"[DONE]" and not payload.startswith(b":")]
    for chunk in chunks:
        fold.add(chunk)
    return len(chunks)


def judged(name: str, model: str, answer: Heard, wanted_usage: bool) -> Sequence[Finding]:
    """What a server that answered did well, and what not. Pure."""
    where = f"upstreams[{name}]"
    found: list[Finding] = []
    if answer.whole:
        said = f"{name}: {model} was asked for a stream and answered with one JSON object: clients wait for the whole"
        found.append(Finding(NAME, "warning", said, "turn streaming on in that server, or in what stands before it"))
    elif not answer.events:
        said = f"{name}: {model} answered with no event of a stream"
        fix = "check that base_url leads to a server of OpenAI's chat completions"
        return [Finding(NAME, "failed", said, fix)]
    elif answer.long:
        said = f"{name}: {model} goes on after max_tokens ({MAX_TOKENS})"
        return [Finding(NAME, "failed", said, "update that server: it should end an answer where it is told to")]
    elif not (answer.done or answer.finished):
        said = (
            f"{name}: the stream of {model} ends without [DONE] and without a finish_reason: turns count as broken off"
        )
        return [Finding(NAME, "failed", said, "look into the log of that server; a gateway before it may cut streams")]
    else:
        found += _stream(name, model, answer)
    if wanted_usage and not answer.options:
        said = f"{name} refuses stream_options: sessions get its error"
        found.append(
            Finding(NAME, "failed", said, f"set stream_usage: false in {where}; token counts are estimates then")
        )
    elif wanted_usage and not answer.usage:
        said = f"{name} reports no usage: token counts are estimates"
        found.append(Finding(NAME, "warning", said, f"set stream_usage: false in {where}, or update that server"))
    elif answer.usage:
        found.append(Finding(NAME, "ok", f"{name}: usage is reported"))
    else:
        found.append(Finding(NAME, "ok", f"{name}: stream_usage is off, token counts are estimates"))
    return found


def _stream(name: str, model: str, answer: Heard) -> Generator[Finding]:
    pieces = (
        f"{counted(answer.events, 'event')} in {counted(answer.reads, 'read')}, the first after {answer.first_s:.2f} s"
    )
    yield Finding(NAME, "ok", f"{name}: {model} streams, {pieces}")
    if not answer.sse:
        said = f"{name}: its stream is not called text/event-stream"
        yield Finding(NAME, "warning", said, "correct the Content-Type of that server: some clients insist on it")
    if not answer.done:
        said = f"{name}: its stream ends without [DONE], which the proxy adds"
        yield Finding(NAME, "warning", said, "update that server: clients that use it directly may wait for it")
