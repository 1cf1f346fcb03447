"""Which refusals mean that the prompt was too long: the real words of model servers, and of refusals like them."""
# ruff: noqa: E501 (the words stand as the servers say them)

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.context.refused import Refused, smaller, too_long

REDUCE = "Please reduce the length of the messages or completion."
OPENAI = {"type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}

TOO_LONG: list[tuple[str, int | None, int | None, int | None]] = [
    # OpenAI, DeepSeek, Azure
    ("This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens. Please reduce "
     "the length of the messages.", 8192, 9000, None),
    (f"This model's maximum context length is 4097 tokens. However, you requested 4203 tokens (3703 in the messages, 500 "
     f"in the completion). {REDUCE}", 4097, 3703, 500),
    ("This model's maximum context length is 8192 tokens. However, you requested 8213 tokens (6683 in the messages, 730 "
     "in the functions, and 800 in the completion). Please reduce the length of the messages, functions, or completion.",
     8192, 7413, 800),
    (f"This model's maximum context length is 65536 tokens. However, you requested 65853 tokens (65853 in the messages, "
     f"0 in the completion). {REDUCE}", 65536, 65853, None),
    ("This model's maximum context length is 2049 tokens, however you requested 2054 tokens (2000 in your prompt; 54 for "
     "the completion). Please reduce your prompt; or completion length.", 2049, 2000, 54),
    ("Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 289650 tokens. Please reduce "
     "the length of the messages.", 272000, 289650, None),
    ("Your input exceeds the context window of this model. Please adjust your input and try again.", None, None, None),
    # vLLM
    ("This model's maximum context length is 262144 tokens. However, you requested 0 output tokens and your prompt "
     "contains at least 262145 input tokens, for a total of at least 262145 tokens. Please reduce the length of the "
     "input prompt or the number of requested output tokens. (parameter=input_tokens, value=262145)", 262144, None, None),
    ("This model's maximum context length is 16384 tokens. However, you requested 2000 output tokens and your prompt "
     "contains 15000 input tokens, for a total of 17000 tokens.", 16384, 15000, 2000),
    ("'max_tokens' or 'max_completion_tokens' is too large: 3000. This model's maximum context length is 16384 tokens "
     "and your request has 14000 input tokens (3000 > 16384 - 14000).", 16384, 14000, 3000),
    ("The decoder prompt (length 21535) is longer than the maximum model length of 16384. Make sure that `max_model_len` "
     "is no smaller than the number of text tokens.", 16384, 21535, None),
    # SGLang, Together, LiteLLM
    ("Requested token count exceeds the model's maximum context length of 202752 tokens. You requested a total of 202941 "
     "tokens: 170941 tokens from the input messages and 32000 tokens for the completion.", 202752, 170941, 32000),
    ("The input (263000 tokens) is longer than the model's context length (262144 tokens).", 262144, 263000, None),
    ("Input length (265330) exceeds model's maximum context length (262144).", 262144, 265330, None),
    # llama.cpp and what is built on it
    ("request (5031 tokens) exceeds the available context size (3072 tokens), try increasing it", 3072, 5031, None),
    ("the request exceeds the available context size. try increasing the context size or enable context shift",
     None, None, None),
    ("Requested tokens (2285) exceed context window of 2048", 2048, 2285, None),
    ("Trying to keep the first 15857 tokens when context the overflows. However, the model is loaded with context length "
     "of only 4096 tokens, which is not enough.", 4096, 15857, None),
    ("The number of tokens to keep from the initial prompt is greater than the context length.", None, None, None),
    ("prompt too long; exceeded max context length by 210 tokens", None, None, None),
    ("the input length exceeds the context length", None, None, None),
    # others
    ("prompt is too long: 213462 tokens > 200000 maximum", 200000, 213462, None),
    ("input length and `max_tokens` exceed context limit: 199759 + 8192 > 200000, decrease input length or `max_tokens` "
     "and try again", 200000, 199759, 8192),
    ("The prompt is too long: 150000, model maximum context length: 131071", 131071, 150000, None),
    ("Prompt too long: 41911 tokens exceeds max context window of 32768 tokens", 32768, 41911, None),
    ("The input token count (1196265) exceeds the maximum number of tokens allowed (1048576).", 1048576, 1196265, None),
    ("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 1887 `inputs` tokens and 1024 "
     "`max_new_tokens`", 2048, 1887, 1024),
    ("Input validation error: `inputs` must have less than 1024 tokens. Given: 1500", 1024, None, None),
    ("Prompt contains 65673 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
     32768, 65673, None),
    ("This endpoint's maximum context length is 131072 tokens. However, you requested about 141607 tokens (131607 of "
     'text input, 10000 in the output). Please reduce the length of either one, or use the "middle-out" transform to '
     "compress your prompt automatically.", 131072, 131607, 10000),
    ("Input length 131393 exceeds the maximum allowed input length of 131040 tokens.", 131040, None, None),
    ("This model's maximum prompt length is 131072 but the request contains 537812 tokens.", 131072, 537812, None),
    ("prompt token count of 93854 exceeds the limit of 90000", 90000, 93854, None),
    ("Your request exceeded model token limit: 131072 (requested: 140000)", 131072, 140000, None),
    ("invalid params, context window exceeds limit", None, None, None),
    ("length of prompt_tokens (143644) must be less than max_seq_len (65536).", 65536, 143644, None),
    ("<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 204800]", 204800, None, None),
    ("too many tokens: total number of tokens in the prompt cannot exceed 4,081 - received 5000", 4081, None, None),
    ("Input is too long for requested model.", None, None, None),
    (REDUCE, None, None, None),
]  # fmt: skip

OTHERWISE = [
    (400, "max_tokens is too large: 50000. This model supports at most 32768 completion tokens, whereas you provided "
          "50000."),
    (400, "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"),
    (400, "max_tokens must be at least 1, got -186."),
    (400, "This model's maximum context length is 4096 tokens. However, you requested 4217 tokens (121 in the messages, "
          f"4096 in the completion). {REDUCE}"),
    (400, "'max_tokens' or 'max_completion_tokens' is too large: 32000. This model's maximum context length is 16384 "
          "tokens and your request has 75 input tokens (32000 > 16384 - 75)."),
    (400, "Invalid 'messages[1].content': string too long. Expected a string with maximum length 1048576, but got a "
          "string with length 1060000 instead."),
    (400, "Invalid schema for function 'f': In context=(), 'additionalProperties' is required"),
    (400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."),
    (400, "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'."),
    (400, "The parameter `max_completion_tokens` specified in the request are not valid: integer above maximum value, "
          "expected a value <= 12288, but got 32000 instead."),
    (400, "ThrottlingException: Too many tokens, please wait before trying again."),
    (400, "the upstream answered 400"),
    (400, ""),
    (413, "Request too large for model `llama-3.3-70b-versatile` in organization `org_1` service tier `on_demand` on "
          "tokens per minute (TPM): Limit 12000, Requested 14137, please reduce your message size and try again."),
    (413, "Request exceeds the maximum size"),
    (413, "Request Entity Too Large"),
    (429, "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 342389. The input or output "
          "tokens must be reduced in order to run successfully."),
    (429, "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."),
    (401, "prompt is too long: 213462 tokens > 200000 maximum"),
    (404, "The model `maximum context length` does not exist"),
    (503, "prompt is too long: 213462 tokens > 200000 maximum"),
]  # fmt: skip


def body(**error: Any) -> bytes:
    return json.dumps({"error": error}).encode()


@pytest.mark.parametrize(("message", "limit", "counted", "output"), TOO_LONG, ids=[row[0][:60] for row in TOO_LONG])
def test_a_servers_words_for_a_prompt_too_long(
    message: str, limit: int | None, counted: int | None, output: int | None
) -> None:
    expected = Refused(limit, counted, output)
    assert too_long(400, None, message) == expected
    assert too_long(400, body(message=message, type="invalid_request_error", param=None, code=400), message) == expected


@pytest.mark.parametrize(("status", "message"), OTHERWISE)
def test_other_refusals_are_none(status: int, message: str) -> None:
    assert too_long(status, None, message) is None
    assert too_long(status, body(message=message, type="invalid_request_error", code=None), message) is None


def test_the_code_alone_is_enough() -> None:
    assert too_long(400, body(message="No.", **OPENAI), "No.") == Refused()
    assert too_long(413, body(message="Request body too large for gpt-4o model. Max size: 8000 tokens.",
                              code="tokens_limit_reached"), "") == Refused(8000)  # fmt: skip


def test_llama_cpp_names_its_numbers() -> None:
    error = {"code": 400, "message": "the request exceeds the available context size", "n_prompt_tokens": 5031,
             "type": "exceed_context_size_error", "n_ctx": 3072}  # fmt: skip
    assert too_long(400, body(**error), error["message"]) == Refused(3072, 5031)
    assert too_long(500, body(**{**error, "code": 500}), error["message"]) == Refused(3072, 5031)
    assert too_long(400, body(**{**error, "n_ctx": "many", "n_prompt_tokens": -1}), "") == Refused()


def test_a_gateways_error_holds_the_servers() -> None:
    raw = json.dumps({"error": {"message": TOO_LONG[0][0]}})
    error = {"message": "Provider returned error", "code": 400, "metadata": {"raw": raw, "provider_name": "X"}}
    assert too_long(400, body(**error), "Provider returned error") == Refused(8192, 9000)


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "string_above_max_length", "invalid_value"])
def test_a_code_for_something_else_outweighs_the_words(code: str) -> None:
    assert too_long(400, body(message="prompt is too long", code=code), "prompt is too long") is None


def test_numbers_that_are_no_context_are_left_out() -> None:
    many = "9" * 40
    assert too_long(400, None, f"prompt is too long: {many} tokens > {many} maximum") == Refused()
    assert too_long(400, None, "prompt is too long: 0 tokens > 0 maximum") == Refused()


@given(st.integers(0, 600), st.binary(max_size=200), st.text(max_size=200))
def test_any_answer_can_be_looked_at(status: int, raw: bytes, message: str) -> None:
    found = too_long(status, raw, message)
    assert found is None or all(number is None or number > 0 for number in (found.limit, found.counted, found.output))


@pytest.mark.parametrize(
    "raw", [b"[]", b"null", b'{"error": 1}', b'{"error": {"code": {}, "metadata": 7}}', b"[" * 9999]
)
def test_odd_json_is_no_reason_to_fail(raw: bytes) -> None:
    assert too_long(400, raw, "no") is None


def test_a_server_that_quotes_the_whole_prompt_is_read_in_no_time() -> None:
    assert too_long(400, body(message="requested " * 100_000), "12 " * 300_000 + "maximum context length is 8") is None


def test_the_next_attempt_fits_the_limit_that_was_named() -> None:
    assert smaller(Refused(8192, None, None), 9000, 0) == int(0.9 * 8192)
    assert smaller(Refused(8192, None, 1192), 9000, 0) == 6300
    assert smaller(Refused(8192, None, None), 9000, 1192) == 6300
    assert smaller(Refused(), 9000, 1192) == 4500


def test_the_next_attempt_is_measured_by_what_the_server_counted() -> None:
    """Estimated 4000, counted 9000: a budget of 3600 estimated tokens would be 8100 of the server's."""
    assert smaller(Refused(4096, 9000, None), 4000, 0) == int(4000 * 0.9 * 4096 / 9000)


@given(
    limit=st.none() | st.integers(1, 10**6),
    counted=st.none() | st.integers(1, 10**6),
    output=st.none() | st.integers(1, 10**6),
    tried=st.integers(2, 10**6),
    reserve=st.integers(0, 10**6),
)
def test_the_next_attempt_is_always_smaller(
    limit: int | None, counted: int | None, output: int | None, tried: int, reserve: int
) -> None:
    assert 1 <= smaller(Refused(limit, counted, output), tried, reserve) < tried
