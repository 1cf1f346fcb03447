"""THE fidelity table: what is sent or answered, and what comes out at the other end.

Every row is run streamed and not, without a session and in one, unless `only` narrows it. The first list of a row holds
in all of its modes; `stateless` and `session` where the two differ. A proxy that passes bytes on (nginx) is the
measure; where this one departs from it, a row says how and docs/fidelity.md why.
"""

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
    as_written,
    asked_usage,
    body,
    calls,
    comes,
    comes_not,
    event,
    goes_up,
    lacks,
    path,
    refused,
    stays,
    streams,
)
from tests.acceptance.fidelity_faults import BREAKS, ERRORS, FRAMING

DEEP = '{"b": 1, "a": [ {"d" :null}, [ ] ], "\\u00fc": "\\u00fc\\/"}'
TOOL = '{"type": "function", "function": {"name": "f", "parameters": {}, "x": 1.0}, "cache_control": {}}'
PARTS = '[{"text":"hi","type":"text","prompt_cache_breakpoint":{"mode":"explicit"},"cache_control":{"type":"x"}}]'

REQUEST_FIELDS = [
    *(
        Row(name, [as_written, as_answered], sends=sends)
        for name, sends in {
            "an unknown field at the top goes up": {"x_custom": DEEP},
            "a field whose name has odd letters": {"a b": "1", "ü": "2"},
            "top_k, min_p, chat_template_kwargs": {"top_k": "40", "min_p": "0.5", "chat_template_kwargs": '{"t": 1}'},
            "service_tier, prompt_cache_key, reasoning_effort": {
                "service_tier": '"flex"', "prompt_cache_key": '"k"', "reasoning_effort": '"low"'},
            "metadata, store: false": {"metadata": '{"a": "b"}', "store": "false"},
            "temperature and friends, none defaulted": {"temperature": "1.0", "top_p": "1e-1", "seed": "-0"},
            "integers beyond 64 bits": {"x": "123456789012345678901234567890", "logit_bias": '{"50256": -100}'},
            "decimals that no float holds": {"x": "0.1000000000000000000000001", "y": "1e400", "z": "-1E-400"},
            "null is not the same as missing": {"user": "null", "tools": "null", "response_format": "null"},
            "unknown fields in tools": {"tools": f"[{TOOL} ]", "tool_choice": '{"type":  "allowed_tools"}'},
            "modalities, audio, prediction, web search": {
                "modalities": '["text"]', "audio": '{"voice":"x"}', "prediction": "{}", "web_search_options": "{}"},
            "unknown fields in stream_options": {"stream_options": '{"include_obfuscation": false, "x": [1.0]}'},
        }.items()
    ),
    Row("unknown fields in a message", [as_written],
        message='{"x":[1.0 ], "content":"h\\u00ef", "role": "user","n": 1e300}'),
    Row("name, parts, prompt_cache_breakpoint", [as_written],
        message=f'{{"role":"user","name":"ada","content":{PARTS}}}'),
    Row("a number in a message that no float holds", stateless=[as_written],
        session=[refused(400, param="messages[0]"), calls(0)],
        message='{"role": "user", "content": "hi", "n": 1e400}'),
    Row("one key twice, half a character, white space", [as_written], only="stateless whole",
        body=b'\n{"x":1,\t"x":2, "messages" :[{"role":"user","content":"\\ud83d"}]}\r\n '),
    Row("a body without messages", stateless=[as_written], session=[refused(400, param="messages"), calls(0)],
        body=b'{"model": "m"}', only="whole"),
    Row("what is no JSON object", [refused(400, param="body"), calls(0)], body=b'{"messages": [}', only="whole"),
    Row("the proxy's own fields stay", [lacks("session", "session_id", "conversation"), as_answered], only="session",
        sends={"session": '{"recall": false}', "session_id": '"s"', "conversation": "null"}),
    Row("store: true stays in a session, which answers for it", stateless=[as_written],
        session=[lacks("store", "metadata")], sends={"store": "true", "metadata": '{"a": "b"}'}),
    Row("the query goes up", [path("/v1/chat/completions?api-version=2026-01-01&x=a%2Fb"), as_answered],
        query="?api-version=2026-01-01&preview=false&x=a%2Fb"),
]  # fmt: skip

REQUEST_HEADERS = [
    *(
        Row(f"{name} goes up", [goes_up(name, value), as_answered], headers=[(name, value)])
        for name, value in {
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "tracestate": "a=1,b=2",
            "OpenAI-Organization": "org-1",
            "OpenAI-Project": "proj_1",
            "OpenAI-Beta": "assistants=v2",
            "Idempotency-Key": "once",
            "Anthropic-Version": "2023-06-01",
            "Anthropic-Beta": "tools-2024-05-16",
            "HTTP-Referer": "https://app.example/",
            "X-Title": "My App",
            "User-Agent": "mine/1.0",
            "Accept": "text/event-stream",
            "Accept-Language": "de-CH, en;q=0.5",
            "X-Request-Id": "req_of_the_client",
        }.items()
    ),
    Row("a header sent twice is one list", [goes_up("tracestate", "a=1, b=2"), goes_up("anthropic-beta", "x, y")],
        headers=[("tracestate", "a=1"), ("anthropic-beta", "x"), ("tracestate", "b=2"), ("anthropic-beta", "y")]),
    *(
        Row(f"{name} stays", [stays(name), as_answered], headers=[(name, value)])
        for name, value in {
            "Cookie": "sid=secret-cookie",
            "X-Session-Recall": "false",
            "X-Session-Mode": "append",
            "X-Forwarded-For": "203.0.113.7",
            "X-Forwarded-Host": "inner.example",
            "X-Real-Ip": "203.0.113.8",
            "Forwarded": "for=203.0.113.9",
            "X-Stainless-Lang": "python",
            "X-Stainless-Retry-Count": "0",
            "Proxy-Authorization": "Basic c2VjcmV0",
            "X-Api-Key": "secret-x-api-key",
            "X-Anything": "else",
        }.items()
    ),
    Row("X-Session-Id stays", [stays("x-session-id"), as_answered]),
    Row("the proxy's key takes the place of the client's", [goes_up("authorization", "Bearer up-key"), as_answered],
        own_key=True, headers=[("Authorization", "Bearer client-key")]),
    Row("no compression is asked for", [goes_up("accept-encoding", "identity")], headers=[("Accept-Encoding", "br")]),
]  # fmt: skip

SIGNED = '"function": {"name": "f", "arguments": "{}"}, "extra_content": {"google": {"thought_signature": "s=="}}'
LOGPROBS = '"logprobs": {"content": [{"token": "G", "bytes": [71], "logprob": -0.0, "top_logprobs": []}]}'

ANSWER_FIELDS = [
    *(
        Row(name, [as_answered], does=says)
        for name, says in {
            "bytes, spaces, escapes and order come as they are": ANSWER,
            "an unknown field at the top": answer(top=f'"x": {DEEP}, "n": 1.0, "big": 123456789012345678901234567890'),
            "an unknown field of a choice": answer(choice=f'"x": {DEEP}, "stop_reason": null'),
            "an unknown field of a message or delta": answer(said=f'"x": {DEEP}'),
            "an unknown field of the usage": answer(usage=f'"x": {DEEP}, "prompt_tokens_details": {{}}'),
            "system_fingerprint, service_tier, obfuscation": answer(
                top='"system_fingerprint": "fp", "service_tier": "default", "obfuscation": "abc"'),
            "provider, citations, timings": answer(top='"provider": "P", "citations": ["u"], "timings": {"p": 0.10}'),
            "reasoning_content": answer(said='"reasoning_content": "let me\\nthink"'),
            "reasoning and reasoning_details": answer(
                said='"reasoning": "r", "reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "t"}]'),
            "thinking_blocks": answer(said='"thinking_blocks": [{"type": "redacted_thinking", "data": "s=="}]'),
            "extra_content of a tool call": answer(
                said=f'"tool_calls": [{{"index": 0, "id": "a", "type": "function", {SIGNED}}}]'),
            "a custom tool call": answer(
                said='"tool_calls": [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": ""}}]'),
            "annotations and refusal": answer(said='"annotations": [{"type": "url_citation"}], "refusal": null'),
            "audio": answer(said='"audio": {"id": "au_1", "data": "AAA=", "transcript": "t", "expires_at": 1}'),
            "logprobs": answer(choice=LOGPROBS),
            "content_filter_results": answer(choice='"content_filter_results": {"hate": {"filtered": false}}'),
        }.items()
    ),
    *(
        Row(name, [body(more + ROLE + HELLO + WORLD + FINISH + DONE)], only="stream",
            does=streams(more + ROLE + HELLO + WORLD + FINISH + DONE))
        for name, more in {
            "a chunk without choices": event('{"id": "c", "object": "x", "prompt_filter_results": [ ]}'),
            "a chunk with choices: []": event('{"id": "c", "choices": [ ], "x": 1.0}'),
            "a chunk with choices: null": event('{"id": "c", "choices": null, "usage": null}'),
            "a chunk with usage: null": event('{"id": "c", "choices": [{"index": 0, "delta": {}}], "usage": null}'),
            "a second choice": event('{"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"}]}'),
            "data: without its space": b'data:{"id": "c", "choices": []}\n\n',
        }.items()
    ),
]  # fmt: skip

ANSWER_HEADERS = [
    *(
        Row(f"{name} comes down", [comes(name, value), as_answered], does=answer(**{name.replace("-", "_"): value}))
        for name, value in {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-tokens": "149984",
            "x-ratelimit-reset-tokens": "6m0s",
            "openai-processing-ms": "17",
            "openai-organization": "org-1",
            "openai-version": "2020-10-01",
            "anthropic-ratelimit-tokens-remaining": "5",
            "retry-after": "1",
            "x-should-retry": "false",
        }.items()
    ),
    Row("x-request-id: the client's own, and beside it the model server's",
        [comes("x-request-id", "mine"), comes("x-upstream-request-id", "theirs")],
        headers=[("X-Request-Id", "mine")], does=answer(x_request_id="theirs")),
    Row("X-Upstream names the model server", [comes("x-upstream", "scripted")]),
    Row("X-Upstream is the proxy's word alone", [comes("x-upstream", "scripted")], does=answer(x_upstream="other")),
    Row("an unknown header", stateless=[comes("x-vendor", "1")], session=[comes_not("x-vendor")],
        does=answer(x_vendor="1")),
    Row("cookies and the server's name stay", [comes_not("set-cookie", "server")],
        does=answer(set_cookie="a=b", server="vendor/1.0")),
]  # fmt: skip

ALL = ROLE + HELLO + WORLD + FINISH
BOTH = event('{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"total_tokens": 5}}')

USAGE = [
    Row("usage comes only when asked for", [as_answered], only="stream",
        stateless=[asked_usage(None)], session=[asked_usage(True)]),
    Row("usage that was asked for comes before [DONE]", [as_answered, asked_usage(True)], only="stream",
        sends={"stream_options": '{"include_usage": true}'}),
    Row("include_usage: false is heeded", [as_answered], only="stream",
        stateless=[asked_usage(False)], session=[asked_usage(True)],
        sends={"stream_options": '{"include_usage": false}'}),
    Row("stream_options: null", [as_answered], only="stream",
        stateless=[asked_usage(None)], session=[asked_usage(True)], sends={"stream_options": "null"}),
    Row("usage that comes unasked", stateless=[body(ALL + ANSWER.usage + DONE)], session=[body(ALL + DONE)],
        does=streams(ALL + ANSWER.usage + DONE), only="stream"),
    Row("usage beside a choice", [body(START + BOTH + DONE)], does=streams(START + BOTH + DONE), only="stream"),
    Row("a request that does not stream asks for none", [asked_usage(None), as_answered], only="whole"),
]  # fmt: skip

TABLE = [*REQUEST_FIELDS, *REQUEST_HEADERS, *ANSWER_FIELDS, *ANSWER_HEADERS, *USAGE, *FRAMING, *ERRORS, *BREAKS]
