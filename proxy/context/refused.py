"""Which refusals of a model server mean that the prompt was too long, and what they tell of its limit. Pure.

Intentional: texts are matched, since only OpenAI and llama.cpp give a code of their own. A wording is recognised by one
row of SIGNS; its numbers are found by LIMIT, COUNTED and OUTPUT. Refusals for the rate of tokens, for max_tokens alone
or for the bytes of a body use much the same words: a shorter history would not help there, so they are ruled out first.
"""

import re
from typing import Any

import msgspec

STATUSES = (400, 413, 422, 500)
"""500: llama.cpp before 2025-10 and servers behind gateways."""
CODES = (
    "context_length_exceeded",
    "exceed_context_size_error",
    "model_context_window_exceeded",
    "tokens_limit_reached",
)
OTHER_CODES = (
    "rate_limit_exceeded", "insufficient_quota", "invalid_api_key", "model_not_found", "invalid_value",
    "unsupported_parameter", "unsupported_value", "string_above_max_length", "content_filter", "request_too_large",
)  # fmt: skip
LONGEST = 4000
"""Characters of a message that are looked at: a server may quote the whole prompt."""
LARGEST = 100_000_000
SHARE = 0.9
"""Of a limit that is used after a refusal: the count that led there was wrong."""

_N = r"(\d[\d,]*)"


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern.replace('<n>', _N)})" for pattern in patterns), re.IGNORECASE)


OTHER = _any(
    r"rate.?limit", r"tokens? per (?:min|day|hour)", r"\b[TR]PM\b", r"quota", r"throttl", r"too many requests",
    r"please wait", r"try again in \d",
)  # fmt: skip
SIGNS = _any(
    r"maximum (?:context|prompt|model|sequence) length",  # OpenAI, vLLM, SGLang, DeepSeek, OpenRouter, Mistral, xAI
    r"maximum allowed (?:input )?length",
    r"exceeds? (?:the )?(?:model'?s )?(?:available |max(?:imum)? )?context (?:length|window|size|limit)",
    r"exceeded (?:the )?(?:model'?s )?(?:max(?:imum)? )?context (?:length|window)",  # Ollama
    r"max context window",
    r"longer than the model'?s context length",  # Together, SGLang
    r"greater than the context length",  # LM Studio
    r"loaded with context length",
    r"context window exceeds limit",  # MiniMax
    r"prompt (?:is )?too long",  # Anthropic, Fireworks
    r"input is too long for requested model",  # Bedrock
    r"prompt exceeds max length",  # Z.ai
    r"input token count.{0,40} exceeds the maximum",  # Gemini
    r"prompt token count .{0,40}exceed",  # Copilot, Databricks
    r"input tokens exceed the configured limit",  # OpenAI since GPT-5
    r"exceeded model token limit",  # Kimi
    r"prompt_tokens \(\d+\) must be less than",  # SiliconFlow
    r"range of input length should be",  # DashScope
    r"inputs`? tokens \+ `?max_new_tokens`? must be",  # TGI, Together
    r"`inputs`? must have less than",
    r"total number of tokens in the prompt",  # Cohere
    r"too many tokens: size limit exceeded",
    r"reduce the length of the (?:messages|input|prompt)",  # Groq
)
LIMIT = _any(
    r"maximum (?:context|prompt|model|sequence) length(?: is|:| of)?(?: only)? \(?<n>",
    r"with <n> maximum context length",
    r"maximum allowed (?:input )?length(?: is| of)? \(?<n>",
    r"context (?:length|window|size)(?: of)?(?: only)? \(?<n>",
    r"context limit: \d+ \+ \d+ > <n>",
    r"tokens? > <n> maximum",
    r"number of tokens allowed \(?<n>",
    r"exceeds? the limit of <n>",
    r"cannot exceed <n>",
    r"configured limit of <n>",
    r"token limit: <n>",
    r"limit for this model is <n>",
    r"max_seq_len \(?<n>",
    r"input length should be \[\d+, ?<n>\]",
    r"must be <= <n>",
    r"must have less than <n>",
    r"max size: <n> tokens",
)
COUNTED = _any(
    r"resulted in <n> tokens",
    r"(?:contains|request has|requests?) <n> (?:input )?tokens",
    r"(?:prompt|input|request|length|count|tokens|prompt_tokens) \((?:length )?<n>(?: tokens)?\)",
    r"too long: <n>",
    r"given: <n> .?inputs",
    r"keep the first <n> tokens",
    r"token count of <n>",
    r"<n> tokens from the input",
    r"context limit: <n> \+",
    r"\(requested: <n>\)",
)
TOTAL = _any(r"requested (?:about |a total of )?<n> tokens")
OUTPUT = _any(
    r"<n> (?:tokens )?(?:in|for) the (?:completion|output)",
    r"requested <n> output tokens",
    r"and <n> .?max_new_tokens",
    r"context limit: \d+ \+ <n>",
    r"_tokens.{0,2} is too large: <n>",
)


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A prompt was too long: the tokens that the model takes, those counted in the prompt, and those that were asked
    for the answer; None where the refusal does not tell."""

    limit: int | None = None
    counted: int | None = None
    output: int | None = None


def too_long(status: int, body: bytes | None, message: str) -> Refused | None:
    """What a refusal says of the context; None when it is about something else. `body`: the error answer's JSON, where
    it has an `error` object; `message`: its words."""
    if status not in STATUSES:
        return None
    error = _error(body)
    names = {name for name in (error.get("code"), error.get("type")) if isinstance(name, str)}
    text = _text(error, message)
    if names & set(OTHER_CODES) or OTHER.search(text):
        return None
    if not (names & set(CODES) or SIGNS.search(text)):
        return None
    limit, output = _number(LIMIT, text), _number(OUTPUT, text)
    counted, total = _number(COUNTED, text), _number(TOTAL, text)
    if counted is None and total is not None:
        counted = total - (output or 0)
    limit = _whole(error.get("n_ctx")) or limit
    if limit is not None and output is not None and output >= limit:
        return None  # max_tokens alone is too large: no history is short enough
    return Refused(limit, _whole(error.get("n_prompt_tokens")) or _whole(counted), output)


def smaller(refused: Refused, tried: int, reserve: int) -> int:
    """The budget for the next attempt, below the `tried` tokens that were too many: 90 % of the limit less what the
    answer needs, else half. `reserve`: the tokens that the request keeps for its answer."""
    if refused.limit is None:
        return max(1, tried // 2)
    output = refused.output if refused.output is not None else min(reserve, refused.limit // 2)
    room = SHARE * max(1, refused.limit - output)
    if refused.counted is not None and refused.counted > room:
        return max(1, min(tried - 1, int(tried * room / refused.counted)))  # in the estimate's own measure
    return max(1, int(min(room, SHARE * tried)))


def _error(body: bytes | None) -> dict[str, Any]:
    if not body:
        return {}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    error = value.get("error") if isinstance(value, dict) else None
    return error if isinstance(error, dict) else {}


def _text(error: dict[str, Any], message: str) -> str:
    """The refusal's words; a gateway puts those of the model's server into `metadata.raw` (OpenRouter)."""
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    parts = [part[:LONGEST] for part in (message, error.get("message"), raw) if isinstance(part, str)]
    return " ".join(dict.fromkeys(parts))


def _number(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    if found is None:
        return None
    digits = next(group for group in found.groups() if group is not None).replace(",", "")
    return _whole(int(digits)) if len(digits) <= 9 else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST else None
