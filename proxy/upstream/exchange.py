"""One call of a model server until it answers well: retries before the first byte, errors turned into ours."""

import asyncio
import email.utils
import random
import time
from collections.abc import Callable
from typing import Any

import msgspec

from proxy.config import UpstreamConfig
from proxy.errors import UpstreamError, UpstreamRefused, UpstreamUnreachable
from proxy.upstream import retry
from proxy.upstream.protocol import Answer, Call, Upstream

ERROR_BODY = 1 << 20
"""Bytes of an error answer that are read at the most."""

KEPT = (b"retry-after", b"x-should-retry", b"x-ratelimit-", b"openai-", b"anthropic-")

_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


def never(_: UpstreamError) -> bool:
    """For `final`: retries are worth their wait."""
    return False


def always(_: UpstreamError) -> bool:
    """For `final`: no retry, since another upstream takes over."""
    return True


async def exchange(
    upstream: Upstream,
    settings: UpstreamConfig,
    call: Call,
    own_key: bool,
    final: Callable[[UpstreamError], bool] = never,
) -> Answer:
    """A 2xx answer, to be closed by the caller. Raises UpstreamError for everything else, redirects among it: they
    would show a client where the upstream is, and take its key there.

    `own_key`: the call carries the proxy's key, so that 401 and 403 are not the client's fault (502). `final`: whether
    the same call would fail again, whatever its status.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            answer = await upstream.send(call)
            if answer.status < 300:
                return answer
            failure: UpstreamError = await refusal(answer, own_key)
            status = answer.status
        except UpstreamUnreachable as exc:
            failure, status = exc, retry.UNREACHABLE
        if final(failure):
            raise failure
        pause = retry.wait(attempt, settings.retries, status, retry_after(failure), random.random())
        if pause is None:
            raise failure
        await asyncio.sleep(pause)


async def whole(
    upstream: Upstream,
    settings: UpstreamConfig,
    call: Call,
    own_key: bool,
    limit: int,
    final: Callable[[UpstreamError], bool] = never,
) -> bytes:
    """The body of a 2xx answer, of at most `limit` bytes. Raises UpstreamError as `exchange` and `read` do."""
    answer = await exchange(upstream, settings, call, own_key, final)
    try:
        return await read(answer, limit)
    finally:
        await answer.aclose()


async def refusal(answer: Answer, own_key: bool) -> UpstreamError:
    """The failure that an answer with an error status stands for; reads and closes the answer."""
    try:
        body = await read(answer, ERROR_BODY)
    except UpstreamError:
        body = b""
    finally:
        await answer.aclose()
    headers = kept_headers(answer)
    if answer.status in (401, 403) and own_key:
        return UpstreamError(
            "the upstream refused the proxy's own key; check upstreams[].api_key", code="upstream_auth_error"
        )
    if answer.status < 400:
        return UpstreamError(
            "the upstream answered with a redirect; set upstreams[].base_url to where it points",
            code="upstream_redirected",
        )
    message, envelope = _envelope(body)
    status = answer.status if 400 <= answer.status < 600 else 502
    return UpstreamRefused(status, message or f"the upstream answered {answer.status}", body=envelope, headers=headers)


def kept_headers(answer: Answer) -> dict[str, str]:
    """What of an upstream's headers a client may see beside the body; its request id under a name of its own."""
    out: dict[str, str] = {}
    for name, value in answer.headers:
        if name == b"x-request-id":
            out["x-upstream-request-id"] = value.decode("latin-1")
        elif name.startswith(KEPT):
            out[name.decode("latin-1")] = value.decode("latin-1")
    return out


async def read(answer: Answer, limit: int) -> bytes:
    """The whole body. Raises UpstreamError when it is longer than `limit` bytes."""
    parts: list[bytes] = []
    size = 0
    async for part in answer:
        size += len(part)
        if size > limit:
            raise UpstreamError("the upstream's answer is too long; raise limits.answer_mb", code="answer_too_large")
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _envelope(body: bytes) -> tuple[str | None, bytes | None]:
    """(message, body) of a JSON error in any of the known dialects. The body has an `error` object; None where the
    upstream says no more than its message. (None, None) for HTML and other garbage."""
    try:
        value = msgspec.json.decode(body)
        if isinstance(value, list) and value:  # Gemini's
            value, body = value[0], bytes(_items(body)[0])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, None
    if not isinstance(value, dict):
        return None, None
    error, message = value.get("error"), value.get("message")
    if isinstance(error, dict):
        return str(error.get("message") or "the upstream reported an error"), body
    if isinstance(error, str):
        return error, None
    if isinstance(message, str):
        return message, b'{"error":%b}' % body if {"type", "code"} & value.keys() else None  # vLLM's, before 2025-08
    return _detail(value.get("detail")), None


def _detail(detail: Any) -> str | None:
    """The message of a FastAPI server's error: its `detail` is a text, or a list of what is wrong with each field."""
    if not isinstance(detail, list):
        return detail if isinstance(detail, str) else None
    said = []
    for wrong in detail:
        if isinstance(wrong, dict) and isinstance(wrong.get("msg"), str):
            at = wrong.get("loc")
            said.append(f"{'.'.join(map(str, at))}: {wrong['msg']}" if isinstance(at, list) else wrong["msg"])
    return "; ".join(said) or None


def retry_after(failure: UpstreamError) -> float | None:
    """Seconds for which an upstream asked to be left alone; None if it did not."""
    given = failure.headers
    try:
        if "retry-after-ms" in given:
            return float(given["retry-after-ms"]) / 1000
        return float(given["retry-after"])
    except KeyError:
        return None
    except ValueError:
        return _until(given.get("retry-after", ""))


def _until(date: str) -> float | None:
    """Seconds until an HTTP date."""
    try:
        return max(0.0, email.utils.parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
