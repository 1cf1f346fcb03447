"""Random answers of model servers, whole and as their chunks: with several choices and all that a message may hold."""

import base64
import json
from collections.abc import Sequence
from random import Random
from typing import Any

Json = dict[str, Any]

TEXTS = ("hello", "naïve 🙂", "\u2028\x00", '"quoted"\\', "日本語", "<|endoftext|>", " ", "\n\n", "\ufffd")


def text(draw: Random) -> str:
    return "".join(draw.choices(TEXTS, k=draw.randint(1, 6)))


def value(draw: Random, depth: int = 0) -> Any:
    """Any JSON that a vendor may add."""
    kind = draw.randrange(3 if depth > 1 else 5)
    if kind == 0:
        return text(draw)
    if kind == 1:
        return draw.choice((True, 7, 1.5, 0, False))
    if kind == 2:
        return [text(draw) for _ in range(draw.randint(1, 3))]
    return {f"k{n}": value(draw, depth + 1) for n in range(draw.randint(1, 3))}


def answer(draw: Random) -> Json:
    """A chat.completion with one choice to four, as a server that streams it would send it whole."""
    out: Json = {
        "id": "c1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [choice(draw, n) for n in range(draw.randint(1, 4))],
    }
    for key, given in (
        ("usage", {"prompt_tokens": 3, "details": {"cached": 1}}),
        ("service_tier", "flex"),
        ("system_fingerprint", "fp"),
        ("citations", [text(draw), text(draw)]),
        ("x_top", value(draw)),
    ):
        if draw.random() < 0.4:
            out[key] = given
    return out


def choice(draw: Random, index: int) -> Json:
    said = message(draw)
    out: Json = {"index": index, "message": said, "logprobs": None, "finish_reason": _finish(draw, said)}
    if draw.random() < 0.3:
        key = "refusal" if said.get("refusal") else "content"
        entries = [{"token": text(draw), "logprob": -0.5, "bytes": [1, 2], "top_logprobs": []} for _ in range(3)]
        out["logprobs"] = {"content": None, "refusal": None} | {key: entries}
    if draw.random() < 0.3:
        out["content_filter_results"] = {"hate": {"filtered": False, "severity": "safe"}}
    if draw.random() < 0.3:
        out["token_ids"] = [draw.randrange(9) for _ in range(4)]
    if draw.random() < 0.3:
        out["native_finish_reason"] = "STOP"
    return out


def _finish(draw: Random, said: Json) -> str:
    if said.get("tool_calls"):
        return "tool_calls"
    return "function_call" if said.get("function_call") else draw.choice(("stop", "length", "content_filter"))


def message(draw: Random) -> Json:
    """An assistant's message: a text, calls, a call of the old kind, a refusal or a sound."""
    out: Json = {"role": "assistant", "content": text(draw)}
    if draw.random() < 0.3:
        out["refusal"] = None
    kind = draw.randrange(5)
    if kind == 1:
        out["tool_calls"] = [_call(draw, n) for n in range(draw.randint(1, 3))]
        out["content"] = draw.choice((None, out["content"]))
    elif kind == 2:
        out |= {"content": None, "function_call": {"name": "look", "arguments": json.dumps({"q": text(draw)})}}
    elif kind == 3:
        out |= {"content": None, "refusal": text(draw)}
    elif kind == 4:
        data = base64.b64encode(draw.randbytes(draw.randint(0, 40))).decode()
        out |= {"content": None, "audio": {"id": "audio_1", "data": data, "transcript": text(draw), "expires_at": 99}}
    if draw.random() < 0.3:
        out["annotations"] = [{"type": "url_citation", "url_citation": {"url": text(draw)}} for _ in range(2)]
    if draw.random() < 0.3:
        out["reasoning_content"] = text(draw)
    if draw.random() < 0.3:
        out["x_vendor"] = {f"k{n}": value(draw) for n in range(2)}
    if draw.random() < 0.3:
        out["reasoning_details"] = [
            {"index": n, "type": "reasoning.text", "text": text(draw), "signature": "s" * 9} for n in range(2)
        ]
    return out


def _call(draw: Random, n: int) -> Json:
    if draw.random() < 0.3:
        return {"id": f"call_{n}", "type": "custom", "custom": {"name": f"tool_{n}", "input": text(draw)}}
    made = {"name": f"tool_{n}", "arguments": json.dumps({"q": text(draw)})}
    return {"id": f"call_{n}", "type": "function", "function": made}


# --- as streams bring them ---


def pieces(whole: str, draw: Random) -> list[str]:
    """The text in up to five pieces."""
    cuts = sorted(draw.sample(range(1, len(whole)), min(draw.randint(0, 4), len(whole) - 1))) if len(whole) > 1 else []
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


def deltas(said: Json, draw: Random) -> list[Json]:
    """A message's: role first, texts in pieces, calls and thinking by index, now and then two in one."""
    out: list[Json] = [{"role": "assistant", "content": draw.choice(("", None))}]
    for key, given in said.items():
        if key != "role" and (key, given) != ("content", None):
            out += [{key: one} for one in _of_field(key, given, draw)]
    if draw.random() < 0.3 and len(out) > 2 and not set(out[1]) & set(out[2]):
        out[1:3] = [out[1] | out[2]]
    return out


def _of_field(key: str, given: Any, draw: Random) -> list[Any]:
    """What each delta brings of a field."""
    if key == "tool_calls":
        return [[one] for n, call in enumerate(given) for one in _call_deltas(call, n, draw)]
    if key == "reasoning_details":
        return [[item | {"text": piece}] for item in given for piece in pieces(item["text"], draw)]
    if key == "annotations":
        return [[item] for item in given]
    if key == "function_call":
        parts = [{"arguments": piece} for piece in pieces(given["arguments"], draw)]
        return [{"name": given["name"], "arguments": ""}, *parts]
    if key == "audio":
        return _sound_deltas(given, draw)
    return list(pieces(given, draw)) if isinstance(given, str) else [given]


def _call_deltas(call: Json, n: int, draw: Random) -> list[Json]:
    """The first one has the name and, for calls of a function, the type; each later one a piece."""
    kind, key = ("function", "arguments") if "function" in call else ("custom", "input")
    first = {**call, "index": n, kind: {**call[kind], key: ""}}
    if draw.random() < 0.5:
        del first["type"]
    return [first, *({"index": n, kind: {key: part}} for part in pieces(call[kind][key], draw))]


def _sound_deltas(audio: Json, draw: Random) -> list[Json]:
    """The data in pieces that are base64 each by itself, or cut anywhere."""
    data = base64.b64decode(audio["data"])
    cuts = sorted(draw.randint(0, len(data)) for _ in range(3))
    parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    each = [base64.b64encode(part).decode() for part in parts]
    sent = draw.choice((each, pieces(audio["data"], draw)))
    texts = [{"transcript": part} for part in pieces(audio["transcript"], draw)]
    return [{"id": audio["id"]}, *texts, *({"data": one} for one in sent), {"expires_at": audio["expires_at"]}]


def _of_choice(whole: Json, draw: Random) -> list[Json]:
    """A choice's parts, in their order."""
    out = [{"index": whole["index"], "delta": delta, "finish_reason": None} for delta in deltas(whole["message"], draw)]
    probs = whole["logprobs"]
    for key, entries in (probs or {}).items():
        for entry in entries or ():
            nothing = dict.fromkeys(probs)
            out.append({"index": whole["index"], "delta": {}, "logprobs": nothing | {key: [entry]}})
    for one in whole.get("token_ids", ()):
        out.append({"index": whole["index"], "delta": {}, "token_ids": [one]})
    if "content_filter_results" in whole:
        for part in draw.sample(out, min(2, len(out))):
            part["content_filter_results"] = whole["content_filter_results"]
    end = {"index": whole["index"], "delta": {}, "finish_reason": whole["finish_reason"]}
    return [*out, end | {key: whole[key] for key in ("native_finish_reason",) if key in whole}]


def split(whole: Json, draw: Random) -> list[bytes]:
    """The answer's chunks: those of its choices in any order, two choices in one chunk now and then, what stands beside
    them in some, the usage at the end."""
    lines = [_of_choice(one, draw) for one in whole["choices"]]
    parts: list[list[Json]] = []
    while lines:
        line = draw.choice(lines)
        part = line.pop(0)
        lines = [one for one in lines if one]
        before = parts[-1] if parts else []
        together = before and part["index"] not in [one["index"] for one in before] and draw.random() < 0.3
        parts = [*parts[:-1], [*before, part]] if together else [*parts, [part]]
    head = {key: whole[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    chunks = [head | {"choices": part} for part in parts]
    for key in whole.keys() - {"choices", "usage"} - head.keys():
        for chunk in draw.sample(chunks, draw.randint(1, len(chunks))):
            chunk[key] = whole[key]
    if "usage" in whole:
        chunks.append(head | {"choices": [], "usage": whole["usage"]})
    return encoded(chunks)


def encoded(chunks: Sequence[Json]) -> list[bytes]:
    return [json.dumps(chunk).encode() for chunk in chunks]
