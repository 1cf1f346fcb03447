"""The fidelity table's second half: framing, errors, answers that break, clients that leave."""

from dataclasses import replace

from tests import faults
from tests.acceptance.expecting import (
    ANSWER,
    DONE,
    FINISH,
    HELLO,
    ROLE,
    START,
    WORLD,
    Row,
    answer,
    as_answered,
    body,
    breaks,
    calls,
    comes,
    comes_not,
    event,
    gives,
    refused,
    streams,
    tells,
)
from tests.scripted import Step

ALL = ROLE + HELLO + WORLD + FINISH
WHOLE = ALL + DONE
CRLF = WHOLE.replace(b"\n", b"\r\n")
NOISE = (
    b": ping\n\n" + ROLE + b"event: x\nid: 7\n" + HELLO + b"retry: 9\n\n" + WORLD + b"data: : ping\n\n" + FINISH + DONE
)
LINES = b'data: {"choices": [{"index": 0,\ndata: "delta": {}, "finish_reason": "stop"}]}\n\n'
LATE = event('{"choices": [{"index": 0, "delta": {"content": "late"}}]}')
ODD = answer('"x": 1', '"y": 2, "logprobs": {"content": []}', '"z": 3').whole


def each_byte(data: bytes) -> Step:
    return streams(*(bytes([byte]) for byte in data))


FRAMING = [
    Row("[DONE] comes last and once", [as_answered], only="stream"),
    Row("events and characters cut at every byte", [body(WHOLE)], does=each_byte(WHOLE), only="stream"),
    Row("all events in one piece", [body(WHOLE)], does=streams(WHOLE), only="stream"),
    Row("lines that end in CRLF", stateless=[body(CRLF)], session=[body(WHOLE)], does=streams(CRLF), only="stream"),
    Row("CRLF cut at every byte", stateless=[body(CRLF)], session=[body(WHOLE)], does=each_byte(CRLF), only="stream"),
    Row("comments, id, event, retry", stateless=[body(NOISE)], session=[body(WHOLE)],
        does=streams(NOISE), only="stream"),
    Row("an event of two data lines", [body(LINES + DONE)], does=streams(LINES + DONE), only="stream"),
    Row("no blank line at the end", stateless=[body(WHOLE[:-1])], session=[body(WHOLE)],
        does=streams(WHOLE[:-1]), only="stream"),
    Row("a finish without [DONE]", stateless=[body(ALL)], session=[body(WHOLE)], does=streams(ALL), only="stream"),
    Row("what follows [DONE]", stateless=[body(WHOLE + LATE)], session=[body(WHOLE)],
        does=streams(WHOLE + LATE), only="stream"),
    Row("gzip, which nobody asked for, is undone", [as_answered, comes_not("content-encoding")],
        does=replace(ANSWER, packed=True)),
    Row("an encoding that is unknown", stateless=[body(b"\x0b\x02brotli"), comes("content-encoding", "br")],
        session=[refused(502, code="upstream_broken")],
        does=gives(200, b"\x0b\x02brotli", content_encoding="br"), only="whole"),
    Row("JSON for a request that streams", stateless=[body(ODD), comes("content-type", "application/json")],
        session=[tells(id="chatcmpl-Z9", model="m-2026", content="Grüß 🎈", x=1, y=2, z=3, logprobs={"content": []})],
        does=gives(200, ODD), only="stream"),
    Row("a stream for a request that does not", stateless=[body(WHOLE), comes("content-type", "text/event-stream")],
        session=[refused(502, code="upstream_broken")], does=streams(WHOLE), only="whole"),
]  # fmt: skip

FULL = (
    '{ "error": {"message": "Grüß", "type": "t_x", "param": "messages[0]", "code": "c_x", "extra": {"a": [1.0]}},'
    ' "more": 1e2 }'
)
AGAIN = {"retry-after": "7", "retry-after-ms": "7000", "x-should-retry": "false", "x-ratelimit-limit-requests": "9"}
HTML = "<html><body>inner.example.internal</body></html>"

ERRORS = [
    *(
        Row(f"status {code}: same bytes, retry headers, one call", retries=2,
            does=gives(code, FULL, x_request_id="up", **{name.replace("-", "_"): AGAIN[name] for name in AGAIN}),
            expect=[refused(code, FULL), *(comes(name, value) for name, value in AGAIN.items()), calls(1),
                    comes("x-upstream", "scripted"), comes("x-upstream-request-id", "up")])
        for code in (400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 501, 503, 529)
    ),
    Row("a 429 without headers is asked once too", [refused(429, FULL), calls(1)], does=gives(429, FULL), retries=2),
    Row("a 500 is asked again as `retries` says, then comes", [refused(500, FULL), calls(3)],
        does=gives(500, FULL, retry_after_ms="1"), retries=2),
    Row("an envelope with fewer keys gets the others as null", does=gives(400, '{"error": {"message": "m", "x": 1.0}}'),
        expect=[refused(400, '{"error":{"message":"m","type":null,"param":null,"code":null,"x":1.0}}')]),
    Row("integers beyond 64 bits in it", [refused(400, message="m", x=2**70 + 1)],
        does=gives(400, f'{{"error": {{"message": "m", "x": {2**70 + 1}}}}}')),
    Row("Anthropic's envelope", [refused(529, message="Overloaded", type="overloaded_error", param=None, code=None)],
        does=gives(529, '{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}')),
    Row("Gemini's list around an envelope", [refused(400, message="bad key", code=400, status="INVALID_ARGUMENT")],
        does=gives(400, '[{"error": {"code": 400, "message": "bad key", "status": "INVALID_ARGUMENT"}}]')),
    Row("vLLM's keys at the top", [refused(400, message="too long", type="BadRequestError", param="n", code=400)],
        does=gives(400, '{"object":"error","message":"too long","type":"BadRequestError","param":"n","code":400}')),
    Row("Ollama's error, a text", [refused(404, message="no model")], does=gives(404, '{"error": "no model"}')),
    Row("FastAPI's detail, a text", [refused(403, message="no access")], does=gives(403, '{"detail": "no access"}')),
    Row("FastAPI's detail, a list", [refused(422, message="body.n: too big")],
        does=gives(422, '{"detail": [{"loc": ["body", "n"], "msg": "too big", "type": "value_error"}]}')),
    Row("HTML is replaced, its status and Retry-After stay", does=gives(503, HTML, "text/html", retry_after="9"),
        expect=[refused(503, message="the upstream answered 503", type="upstream_error"), comes("retry-after", "9")]),
    Row("an empty error", [refused(500, message="the upstream answered 500")], does=gives(500, "")),
    Row("a redirect is neither followed nor shown", [refused(502, code="upstream_redirected"), comes_not("location")],
        does=gives(307, "", location="http://inner.example.internal/")),
    *(
        Row(f"{code} for the proxy's own key is a 502", own_key=True, does=gives(code, FULL),
            expect=[refused(502, code="upstream_auth_error"), comes("x-upstream", "scripted"), calls(1)])
        for code in (401, 403)
    ),
    *(
        Row(f"{method} is not passed on", [refused(405, code="method_not_allowed"), calls(0)],
            method=method, only="whole")
        for method in ("OPTIONS", "PUT")
    ),
    Row("HEAD is not passed on", [calls(0)], method="HEAD", only="whole"),
]  # fmt: skip

SAID = event(
    '{ "error": {"message": "overloaded", "type": "t_x", "param": null, "code": "c_x", "extra": 1.0}, "id": "c" }'
)
SHORT = event('{"error": {"message": "overloaded", "code": 529}, "choices": []}')
ENDS = event('{"choices": [{"index": 0, "delta": {}, "finish_reason": "error"}], "error": {"message": "gone"}}')

BREAKS = [
    Row("an error event in mid-stream", [body(START + SAID)], does=streams(START + SAID), only="stream"),
    Row("an error event with fewer keys", stateless=[body(START + SHORT)],
        session=[breaks(START, message="overloaded", code=529, type=None, param=None)],
        does=streams(START + SHORT), only="stream"),
    Row("an error event beside a choice that ends", stateless=[body(START + ENDS)],
        session=[breaks(START, message="gone")], does=streams(START + ENDS), only="stream"),
    Row("[DONE] after an error event", stateless=[body(START + SAID + DONE)], session=[body(START + SAID)],
        does=streams(START + SAID + DONE), only="stream"),
    Row("an error event before any text", stateless=[body(SAID)], does=streams(SAID), only="stream",
        session=[refused(502, message="overloaded", type="t_x", code="c_x", extra=1.0)]),
    Row("an error in place of an answer", stateless=[body(FULL)], session=[refused(502, FULL)],
        does=gives(200, FULL), only="whole"),
    Row("the model server is lost in mid-stream", does=streams(START, cut=True), only="stream",
        expect=[breaks(START, code="upstream_broken"), comes("x-upstream", "scripted")]),
    Row("the model server is lost in mid-event", [breaks(START, code="upstream_broken")],
        does=streams(START + WORLD[:30], cut=True), only="stream"),
    Row("the model server is lost before its answer", does=faults.reset_before_headers(),
        expect=[refused(502, code="upstream_unreachable"), comes("x-upstream", "scripted")]),
    Row("a stream that ends without a finish", stateless=[body(START)], session=[breaks(START, code="upstream_broken")],
        does=streams(START), only="stream"),
]  # fmt: skip

HANGUPS = [
    Row("a client that leaves in mid-answer stops the model", does=faults.stalls(), leaves=2, only="stream"),
    Row("a client that leaves before the first byte stops the model", does=faults.silence(), leaves=0),
]
